"""Runs put together that differ in nothing but their seeds, and what sets the groups apart."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .finished import Run

SEEDS = re.compile(r"seed_everything|data\..*seed")


@dataclass
class Group:
    """Runs that differ in nothing but their seeds.

    Attributes:
        runs: At least one.
        name: Their folders.
        label: What sets them apart from the other groups.
        differences: The values of the settings in which the groups differ.
    """

    runs: list[Run]
    name: str = ""
    label: str = ""
    differences: dict[str, str] = field(default_factory=dict)

    def statistics(self, metric: str) -> tuple[float, float] | None:
        """Mean, and standard deviation over the runs (of the population that they are drawn from; NaN for one run)."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if not values:
            return None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def group(runs: list[Run]) -> list[Group]:
    """Put runs together that differ in their seeds alone.

    The same seeds a second time begin a group of their own: there, something else than the configuration has changed,
    and n is to count seeds.
    """
    groups: dict[Any, Group] = {}
    taken: dict[Any, int] = {}
    for run in runs:
        key = frozenset((k, str(v)) for k, v in run.settings.items() if not SEEDS.fullmatch(k))
        seeds = frozenset((k, v) for k, v in run.settings.items() if SEEDS.fullmatch(k))
        taken[key, seeds] = taken.get((key, seeds), 0) + 1
        groups.setdefault((key, taken[key, seeds]), Group([])).runs.append(run)
    return _described(list(groups.values()))


def _described(groups: list[Group]) -> list[Group]:
    """Names, differences and labels, which need all groups to be known."""
    root = os.path.commonpath([run.folder.resolve().parent for g in groups for run in g.runs])
    keys = dict.fromkeys(key for g in groups for key in g.runs[0].settings if not SEEDS.fullmatch(key))
    columns = {key: _column([_setting(g.runs[0], key) for g in groups]) for key in keys}
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    for i, g in enumerate(groups):
        places = [Path(os.path.relpath(run.folder.resolve(), root)) for run in g.runs]
        g.name = ", ".join(
            str(p if not n or p.parent != places[n - 1].parent else p.name) for n, p in enumerate(places)
        )
        g.differences = {key: column[i] for key, column in columns.items()}
    shown = telling(groups)
    for g in groups:
        values = [(key, value) for key, value in g.differences.items() if key in shown and value]
        g.label = ", ".join(f"{key.rpartition('.')[2]} {value}" if "." in key else value for key, value in values)
    if len({g.label for g in groups}) < len(groups) or not all(0 < len(g.label) < 80 for g in groups):
        for g in groups:
            g.label = g.name
    return groups


def _setting(run: Run, key: str) -> Any:
    """Blank where there is no such argument."""
    return run.settings.get(key, "default" if key in run.unset else "")


def telling(groups: list[Group]) -> list[str]:
    """The differing settings without those that only come and go with an object: with ``model``, ``model.beta``."""
    rows = [g.differences for g in groups]
    return [
        key
        for key in rows[0]
        if len({row[key] for row in rows if row[key]}) > 1 or not any(key.startswith(f"{other}.") for other in rows[0])
    ]


def _column(values: list[Any]) -> list[str]:
    """Values for people, classes without their modules where that is enough to tell them apart."""
    full = [str(value) for value in values]
    short = [re.sub(r"^(?:[A-Za-z_]\w*\.)+([A-Z]\w*)$", r"\1", text) for text in full]
    return short if len(set(short)) == len(set(full)) else full
