"""What trials of a group are made of: models, seeds and configurations."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import torch
import yaml
from lightning.pytorch.cli import SaveConfigCallback

from ...models import AnomalyModel
from .. import tasks
from .plan import BETA, RATE, SEED
from .trial import Trial


class Made:
    """What a trial is made of, by the command line of one that differs from it in numbers alone.

    Args:
        trial: The trial.
        built: That command line, with everything built.
        saved: Its ``config.yaml``.

    Attributes:
        model: Of its own, or the other trial's.
        seed: Of the run.
        configuration: Its own ``config.yaml``.
    """

    def __init__(self, trial: Trial, built: Any, saved: str) -> None:
        self.built, numbers = built, _numbers(trial)
        self.seed: int = numbers.get(SEED, built.settings.seed_everything)
        self.model = _varied(built.model, numbers.get(BETA), numbers.get(RATE))
        header, _, text = saved.partition("\n")
        content = yaml.safe_load(text)
        for key, value in numbers.items():
            *path, last = key.split(".")
            functools.reduce(lambda node, part: node[part], path, content)[last] = value
        self.configuration = f"{header}\n{yaml.safe_dump(content, sort_keys=False)}"


def _numbers(trial: Trial) -> dict[str, Any]:
    """Those values that need no command line to be read: a seed, a learning rate, a β that is no annealing."""
    kinds: dict[str, tuple[type, ...]] = {SEED: (int,), RATE: (float,), BETA: (int, float)}
    found = {key: trial.values[key] for key in kinds if type(trial.values.get(key)) in kinds[key]}
    return found | ({BETA: float(found[BETA])} if BETA in found else {})


def all_made(cli: Any, trials: list[Trial]) -> list[Made]:
    """Of each trial. One command line makes those that differ in numbers alone, for each takes its time."""
    found: dict[str, tuple[Any, str]] = {}
    made = []
    for trial in trials:
        numbers = _numbers(trial)
        key = json.dumps([sorted(numbers), {k: v for k, v in trial.values.items() if k not in numbers}])
        if key not in found:
            built = tasks.build(cli, trial.arguments)
            save = next(c for c in built.trainer.callbacks if isinstance(c, SaveConfigCallback))
            found[key] = built, save.parser.dump(save.config, skip_none=False)
        made.append(Made(trial, *found[key]))
    return made


def _varied(model: AnomalyModel, beta: float | None, rate: float | None) -> AnomalyModel:
    """Another one like it, with another β and another learning rate unless these are None."""
    arguments = model.arguments | ({} if beta is None else {"beta": beta})
    if rate is not None:
        arguments["optimizer"] = functools.partial(_at_rate, model.optimizer, rate)
    return type(model)(**arguments)


def _at_rate(optimizer: Callable[[Any], torch.optim.Optimizer], rate: float, parameters: Any) -> torch.optim.Optimizer:
    made = optimizer(parameters)
    for group in made.param_groups:
        group["lr"] = rate
    return made
