"""A sweep: which runs are tried, and what they are judged by."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import UserError
from ..tasks import PLACE, as_text, options

BETA, RATE = "model.init_args.beta", "model.init_args.optimizer.init_args.lr"
SEED = "seed_everything"  # swept, it repeats each point: tables and pictures show means over it


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included: integers if both are, else floats."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Plan:
    """A sweep: which runs are tried, and what they are judged by.

    Attributes:
        file: The sweep file.
        study: The study's name, and of its folder ``<runs>/<study>``.
        base: The configuration that each trial starts from.
        sampler: ``grid``: every combination once. ``random``: independent draws. ``tpe``: the tree-structured Parzen
            estimator, Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization".
        search: Configuration key → its values (a list), or a ``Range``.
        objectives: Metric → ``maximize`` or ``minimize``; of the validation or training split, never of the test.
        trials: How many.
        seed: Of the sampler. The seed of the training is the configuration's ``seed_everything``.
        pruning: ``startup_trials`` and ``warmup_epochs`` of the median rule, or None.
        show: Further metrics for table and pictures.
        overrides: Configuration key → value, the same for every trial.
        storage: An SQLAlchemy URL.
        attempts: How often a trial that dies is tried before it is given up.
        runs: The folder of all runs.
    """

    file: Path
    study: str
    base: Path
    sampler: str
    search: dict[str, list[Any] | Range]
    objectives: dict[str, str]
    trials: int
    seed: int
    pruning: dict[str, int] | None
    show: list[str]
    overrides: dict[str, Any]
    storage: str
    attempts: int
    runs: Path

    @property
    def folder(self) -> Path:
        """The study's."""
        return self.runs / self.study

    def cell(self, slot: int) -> dict[str, Any]:
        """The values of a grid's trial, key by key; nothing for other samplers."""
        if self.sampler != "grid":
            return {}
        values = next(itertools.islice(itertools.product(*self.search.values()), slot, None))  # type: ignore[arg-type]
        return dict(zip(self.search, values, strict=True))

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        """The command line of a trial with the given values of the search space."""
        settings = {**self.overrides, **values}
        return ["fit", "--config", str(self.base), *options(settings)]

    def definition(self) -> dict[str, Any]:
        """What trials must have in common to be compared, as JSON would give it back."""
        content = {
            "base": yaml.safe_load(self.base.read_text()),
            "overrides": {key: value for key, value in self.overrides.items() if not key.startswith(PLACE)},
            "search": {k: vars(v) if isinstance(v, Range) else v for k, v in self.search.items()},
            "sampler": self.sampler,
            "objectives": self.objectives,
        }
        return json.loads(json.dumps(content, default=str))

    def refuse(self, definition: Any, what: str) -> None:
        """Raise a UserError unless a definition that was found is this plan's."""
        mine = self.definition()
        for key, value in mine.items():
            found = definition.get(key) if isinstance(definition, dict) else None
            # the order of a grid's keys numbers its trials
            if json.dumps(found, sort_keys=key != "search") != json.dumps(value, sort_keys=key != "search"):
                told = f" ({_brief(found)}, not {_brief(value)})" if key != "base" else ""
                raise UserError(
                    f"{self.file}: study {self.study}: {what} with another {key}{told}: "
                    "choose another name with `study:` or --study"
                )


def label(value: Any, digits: int = 12) -> str:
    """A value for people: ``0.5``, ``Linear(start=0, stop=1)``."""
    if isinstance(value, dict) and "class_path" in value:
        inside = ", ".join(f"{k}={label(v, digits)}" for k, v in (value.get("init_args") or {}).items())
        return f"{value['class_path'].rsplit('.', 1)[-1]}({inside})"
    return f"{value:.{digits}g}" if isinstance(value, float) else as_text(value)


def short(key: str, keys: Iterable[str]) -> str:
    """A key's last part, or as many parts as tell it from the other keys."""

    def parts(key: str, n: int = 0) -> list[str]:
        return [part for part in key.split(".") if part != "init_args"][-n:]

    lengths = range(1, len(parts(key)) + 1)
    n = next((n for n in lengths if sum(parts(other, n) == parts(key, n) for other in keys) == 1), 0)
    return ".".join(parts(key, n))


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else text[:97] + "..."
