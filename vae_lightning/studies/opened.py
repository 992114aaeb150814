"""A finished run, opened again: its detector, its data, its curves, and runs that differ in the seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..data import AnomalyDataModule
from ..detection import Detector, storage
from ..errors import UserError
from ..recipe import build
from ..training.diagnosis import Diagnosis, diagnose
from ..training.quiet import quietly
from .finished import Run, read, read_scores

SEED = "seed_everything"


@dataclass
class Opened:
    """A run's folder with its outcome.

    Attributes:
        run: Settings, metrics, curves.
        detector: Of the kept weights.
        data: What it was trained on.
        checkpoint: The file that the detector is from.
    """

    run: Run
    detector: Detector
    data: AnomalyDataModule
    checkpoint: Path

    @property
    def objective(self) -> list[float]:
        """``val/objective`` of each epoch."""
        return list(self.run.curves.get("val/objective", {}).values())

    @cached_property
    def twin(self) -> tuple[str, np.ndarray, np.ndarray] | None:
        """The name of a run beside it that differs in its seed alone, its test scores (N,) and these; None without."""
        mine = _scores(self.run.folder)
        for folder in sorted(self.run.folder.resolve().parent.iterdir()):
            if mine is None or folder == self.run.folder.resolve():
                continue
            try:
                other, scores = read(folder), _scores(folder)
            except UserError:  # not finished, or no run at all
                continue
            differ = {key for key in {*other.settings, *self.run.settings} if not _same(key, other, self.run)}
            if scores is not None and differ == {SEED} and len(scores) == len(mine):
                return folder.name, scores, mine
        return None

    def diagnose(self) -> Diagnosis:
        """See ``diagnose``."""
        with quietly():
            return diagnose(self.detector.model, self.data, self.objective, self.twin)


def open_run(folder: Path) -> Opened:
    """The run in a folder. Nothing that its files name is imported or run.

    Raises:
        UserError: When it is no finished run, or its data cannot be had again from a recipe.
    """
    run, checkpoint = read(folder), storage.find(folder)
    content = storage.read(checkpoint)
    recipe = content[storage.KEY]["trained_on"].get("recipe")
    if recipe is None:
        raise UserError(
            f"{checkpoint}: its data were arrays, which no checkpoint keeps: in Python, a run of `fit` has diagnose()"
        )
    data = build(recipe, where=str(checkpoint))
    if not isinstance(data, AnomalyDataModule):
        raise UserError(f"{checkpoint}: {recipe['class_path']} is not a data module")
    data.prepare_data()
    return Opened(run, Detector(storage.restore(content, where=str(checkpoint))), data, checkpoint)


def _same(key: str, a: Run, b: Run) -> bool:
    missing: Any = object()
    return bool(a.settings.get(key, missing) == b.settings.get(key, missing))


def _scores(folder: Path) -> np.ndarray | None:
    found = read_scores(folder)
    return None if found is None else np.asarray(found[1])
