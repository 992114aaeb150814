"""Training in one call from Python: a model and a data module in, a detector out."""

from __future__ import annotations

import contextlib
import random
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..data import AnomalyDataModule
from ..data.checks import SEEDS
from ..detection.detector import Detector
from ..errors import UserError
from ..models import AnomalyModel
from . import checkpoints, runs
from .board import Board
from .callbacks.kept import KeepBest
from .diagnosis import Diagnosis, diagnose
from .quiet import quietly
from .trainer import Trainer, listed

OFTEN = r".* cannot be reached.*; nothing raises an alarm"  # thresholds are fitted at each validation: said once


@dataclass(repr=False)
class Run:
    """The outcome of a training.

    Attributes:
        detector: With the weights of the best validation epoch, calibrated for them.
        metrics: ``train/…`` and ``val/…`` of the last epoch, ``test/…`` of the kept weights, as in ``results.json``.
        seconds: Duration of the training, without the test.
        epochs: How many were trained.
        folder: Where checkpoints and logs are; None if nothing was written.
        data: What it was trained on.
        trainer: The trainer it was trained with.
        history: ``val/objective`` of each epoch.
    """

    detector: Detector
    metrics: dict[str, float]
    seconds: float
    epochs: int
    folder: Path | None
    data: AnomalyDataModule
    trainer: Trainer
    seed: int = 0
    history: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        where = f", in {self.folder}" if self.folder else ""
        figures = (f"  {name:<24} {value:.4g}" for name, value in self.metrics.items())
        return "\n".join([f"Run: {self.epochs} epochs in {self.seconds:.1f} s{where}", *figures])

    def test(self, data: AnomalyDataModule | None = None) -> dict[str, float]:
        """``test/…`` of the detector on the test part of its own data, or of other data.

        Raises:
            UserError: When there is no test part, or its samples have another shape.
        """
        loggers = self.trainer.loggers
        _check(self.detector.model, data or self.data)
        checkpoints.check_columns("test", self.detector.model.trained_on, data)
        try:
            if data is not None:  # the folder's figures are those of the run's own data
                self.trainer.loggers = []
            with _as_if_alone(self.seed), quietly():
                self.trainer.test(self.detector.model, data or self.data, verbose=False)
        finally:
            self.trainer.loggers = loggers
            _finish(self.detector.model)
        return runs.numbers(self.trainer.callback_metrics)

    def diagnose(self) -> Diagnosis:
        """Check the model: unused codes, training cut short, a score no better than ‖x‖, …"""
        with quietly():
            return diagnose(self.detector.model, self.data, self.history)


def fit(
    model: AnomalyModel,
    data: AnomalyDataModule,
    *,
    max_epochs: int = 50,
    seed: int = 0,
    folder: str | Path | None = None,
    verbose: bool = True,
    device: str = "auto",
    **trainer: Any,
) -> Run:
    """Train a model, keep its best validation epoch, and test that once if the data has a test part.

    Does the same as the command ``fit``, with the same weights. The global random state is restored.

    Args:
        model: Trained in place. If it is new, its weights are drawn again, from ``seed``, so the same call gives
            exactly the same weights. If it was trained or loaded before, training continues from its weights.
        data: ``Arrays`` for arrays and tables, or any other data module.
        max_epochs: At most so many; −1 with ``max_steps`` or ``max_time`` for no limit.
        seed: Of weights, order of samples, and noise, in [0, 2³²); the split has a seed of its own, the data's.
        folder: For ``checkpoints/best.ckpt`` and ``last.ckpt``, TensorBoard's logs and ``results.json``; it must not
            hold a run yet. None: nothing is written.
        verbose: Show a progress bar. Otherwise only warnings you can act on are shown.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        **trainer: Arguments of ``Trainer``, Lightning's among them: ``callbacks``,
            ``precision``, ``accelerator``, ``devices``, …

    Raises:
        UserError: For input that cannot be trained on, before anything starts; and if the loss is no longer finite.
    """
    _check_arguments(max_epochs, seed, trainer)
    _check(model, data)
    place = _folder(folder)
    keep, record = KeepBest(), runs.Record()
    with _as_if_alone(seed), quietly(OFTEN):
        one = _trainer(trainer, [keep, record], max_epochs, place, verbose, device)
        data.prepare_data()
        data.setup("fit")
        _draw_weights(model)
        _train(one, model, data, keep)
        epochs, seconds = one.current_epoch, record.seconds
        metrics = runs.numbers(one.callback_metrics)
        if data.has("test"):
            one.test(model, data, verbose=False)
            metrics |= runs.numbers(one.callback_metrics)
    _finish(model)
    if place and one.is_global_zero:
        runs.write_results(place, epochs, seconds, metrics)
    if not model.detector.threshold.reachable:
        warnings.warn(model.detector.threshold.describe(), stacklevel=2)
    return Run(model.detector, metrics, seconds, epochs, place, data, one, seed, keep.history)


def _finish(model: AnomalyModel) -> None:
    model.eval()
    model.trainer = None  # a detector holds no data: it can be pickled, copied and sent


def _check_arguments(max_epochs: int, seed: int, trainer: dict[str, Any]) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < SEEDS:
        raise UserError(f"fit: seed = {seed!r} is not a whole number from 0 to below 2**32")
    endless = max_epochs == -1 and any(trainer.get(key) not in (None, -1) for key in ("max_steps", "max_time"))
    if not isinstance(max_epochs, (int, np.integer)) or (max_epochs < 1 and not endless):
        raise UserError(f"fit: max_epochs = {max_epochs!r} must be at least 1, or -1 with max_steps or max_time")


def _check(model: Any, data: Any) -> None:
    if not isinstance(model, AnomalyModel):
        raise UserError(f"fit: model is a {type(model).__name__}: give a VAE([20]) for samples of 20 numbers, say")
    if not isinstance(data, AnomalyDataModule):
        raise UserError(f"fit: data is a {type(data).__name__}: give Arrays(x) for an array or a table, say")
    if list(model.input_shape) != list(data.input_shape):
        raise UserError(f"fit: the model takes {model.input_shape}, {type(data).__name__} has {data.input_shape}")


def _folder(folder: str | Path | None) -> Path | None:
    if folder is None:
        return None
    place = Path(folder).resolve()
    if (place / "checkpoints").exists() or (place / runs.RESULTS).exists():
        raise UserError(f"{folder}: already holds a run: give another folder, or remove it")
    return place


def _trainer(
    given: dict[str, Any], own: list[Any], max_epochs: int, folder: Path | None, verbose: bool, device: str
) -> Trainer:
    callbacks = [*listed(given.get("callbacks")), *own]
    defaults: dict[str, Any] = {"logger": False, "devices": 1, "num_sanity_val_steps": 0}
    if folder is not None:
        defaults["logger"] = Board(folder.parent, "", folder.name, default_hp_metric=False)
        callbacks += checkpoints.callbacks(folder=folder / "checkpoints")
    defaults["enable_checkpointing"] = any(isinstance(callback, Checkpoint) for callback in callbacks)
    defaults |= {"enable_progress_bar": verbose, "enable_model_summary": False} | _placed(device, given)
    try:
        return Trainer(**{**defaults, **given, "max_epochs": max_epochs, "callbacks": callbacks})
    except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise UserError(f"fit: {' '.join(str(error).split())}") from error


def _placed(device: str, given: dict[str, Any]) -> dict[str, Any]:
    kind, _, index = str(device).partition(":")
    if kind == "auto":
        return {"accelerator": "auto"}
    if "accelerator" in given:
        raise UserError(f"fit: device = {device} and accelerator = {given['accelerator']} are both given")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise UserError(f"fit: device = {device} is none of auto, cpu, cuda, cuda:0 and so on, mps")
    return {"accelerator": kind, **({"devices": [int(index)]} if index and kind != "cpu" else {})}


def _draw_weights(model: AnomalyModel) -> None:
    """New weights, from the seed that is set, for a model that nobody has changed since it was constructed."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(model.rng_at_construction)
        first = list(model.again().parameters())
    present = list(model.parameters())
    if len(first) == len(present) and all(torch.equal(a, b.cpu()) for a, b in zip(first, present, strict=True)):
        with torch.no_grad():
            for parameter, drawn in zip(present, model.again().parameters(), strict=True):
                parameter.copy_(drawn)


def _train(trainer: Trainer, model: AnomalyModel, data: AnomalyDataModule, keep: KeepBest) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    model.train()  # one that was trained before is in evaluation mode
    try:
        trainer.fit(model, data)
    except SystemExit:  # what Lightning makes of an interruption, from then on deaf to the next one
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, interrupt)
        raise KeyboardInterrupt from None
    finally:
        keep.restore(model)  # interrupted, too


@contextlib.contextmanager
def _as_if_alone(seed: int) -> Iterator[None]:
    """Within, everything random follows from ``seed``; afterwards it is as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        try:
            random.seed(int(seed))
            np.random.seed(int(seed))
            torch.manual_seed(int(seed))
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
