"""A run's folder, ``<runs>/<experiment>/version_<n>``: claimed, described, summed up."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from ..errors import UserError
from ..files import check_inside, clear, write_whole
from .callbacks.metrics import flatten

VARIABLE = "VAE_LIGHTNING_RUN"  # tells processes that a strategy launches which folder the first one has claimed
LOCK = ".lock"  # held by the process that trains in a folder; says who that is
RESULTS = "results.json"  # written last: its presence says that the run was finished
TERMS = "loss", "objective", "bce", "mse", "nll", "kl", "beta"  # sums over features, means over samples
DECISIONS = "auroc", "average_precision", "f1", "precision", "recall", "false_alarm_rate", "threshold"

_held: list[IO[str]] = []  # an open file keeps its lock
_claimed: list[Path] = []  # the folder that this process has made for its run
_above: list[Path] = []  # and those above it, the outermost first


def claim(experiment: Path, folder: Path | None, writes: bool = True) -> Path:
    """The run's folder: the one given, of the checkpoint that is resumed or tested, or the next free version.

    A version is claimed by making its folder, so that runs that start at once do not share one.

    Args:
        experiment: The folder of such runs.
        folder: The run's, if it is known.
        writes: Whether this process trains there, as one at a time may; until ``release``.

    Raises:
        UserError: When the folder cannot be made, leads out of itself, or another process trains there.
    """
    if claimed := os.environ.get(VARIABLE):
        return Path(claimed)
    if folder is None:
        try:
            _above.extend(path for path in (*reversed(experiment.parents), experiment) if not path.exists())
            experiment.mkdir(parents=True, exist_ok=True)
            taken = [int(n) for p in experiment.glob("version_*") if (n := p.name.removeprefix("version_")).isdigit()]
            folder = _next(experiment, max(taken, default=-1) + 1)
            _claimed.append(folder)
        except OSError as error:
            raise UserError(
                f"{experiment}: cannot be written ({error.strerror}): set --runs to another folder"
            ) from error
    else:
        check_inside(folder)
    if writes:
        _lock(folder)
        clear(folder)
    os.environ[VARIABLE] = str(folder)
    return folder


def _next(experiment: Path, version: int) -> Path:
    while True:
        try:
            (folder := experiment / f"version_{version}").mkdir()
            return folder
        except FileExistsError:  # another process was faster
            version += 1


def _lock(folder: Path) -> None:
    """Keep other processes out of the folder; the system lets them in when this one ends, however it does."""
    try:
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): copy the run to another folder") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = file.read().strip() or "which does not say who it is"
        raise UserError(f"{folder}: another process trains there ({who}): wait for it, or stop it") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    file.flush()
    _held.append(file)


def abandon() -> None:
    """The run has come to nothing before its first step: the folders that were made for it go."""
    while _claimed:
        shutil.rmtree(_claimed.pop(), ignore_errors=True)
    for folder in reversed(_above):
        with contextlib.suppress(OSError):  # another run is there by now
            folder.rmdir()


def release() -> None:
    """The run is over: what comes next in this process claims a folder of its own."""
    os.environ.pop(VARIABLE, None)
    _claimed.clear()
    _above.clear()
    while _held:
        _held.pop().close()


def differences(saved: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """One line for each argument of the model in which a checkpoint and the configuration disagree: the latter wins.

    Args:
        saved: The checkpoint's recipe of the model.
        given: The configuration's.
    """
    old, new = flatten(saved["init_args"]), flatten(given["init_args"])
    return [
        f"model.init_args.{key} is {new.get(key)} in the configuration and {old.get(key)} in the checkpoint: "
        "the former wins"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith("preprocessing")
    ]


def cautions(model: Any, metrics: Mapping[str, float], tested: bool) -> list[str]:
    """What a reader of the table has to know about its figures."""
    found = []
    if any(threshold.leaks for threshold in model.thresholds.values()):
        found.append("caution      the threshold was fitted on test samples: F1, precision and recall flatter")
    if not model.detector.threshold.reachable:
        found.append(f"caution      {model.detector.threshold.describe()}")
    if not tested:
        found.append("note         there was no test")
    if not any(name.endswith("/auroc") for name in metrics):
        found.append("note         no anomalies to measure with: no AUROC, F1, precision and recall")
    return found


def numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Logged metrics as numbers."""
    return {name: float(value) for name, value in metrics.items()}


class Record(Callback):
    """Carries on, in the checkpoint, what a run that is stopped and resumed has taken and come to.

    Attributes:
        metrics: As of the checkpoint that the run was resumed from.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self._started, self._before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """What the run has taken up to now, from its first step to its stop and again from where it was resumed."""
        return self._before + time.monotonic() - self._started

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._started = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["record"] = {"seconds": self.seconds, "metrics": numbers(trainer.callback_metrics)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        record = checkpoint.get("record")
        if record and trainer.state.fn == "fit":  # not when the kept weights are tested
            self.metrics, self._before = record["metrics"], record["seconds"]


def write_results(folder: Path, epochs: int, seconds: float, metrics: dict[str, float]) -> None:
    """The outcome of a run, for programs."""
    content = {"epochs": epochs, "seconds": round(seconds, 1), "metrics": metrics}
    write_whole(folder / RESULTS, json.dumps(content, indent=2))


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def table(metrics: dict[str, float], folder: Path, notes: list[str], score: str = "the score") -> str:
    """What a run came to, for people: terms by splits, where it lies, how to look at it.

    Args:
        metrics: ``<split>/<name>``.
        folder: The run's.
        notes: Lines below the figures.
        score: The one that decides, with its unit: the threshold is in it.
    """
    splits = [split for split in ("train", "val", "test") if any(name.startswith(f"{split}/") for name in metrics)]
    names = dict.fromkeys(name.partition("/")[2] for name in metrics if name.partition("/")[0] in splits)
    parts = {
        "nats, summed over the features of a sample": [name for name in names if name in TERMS],
        f"decisions by {score}": [name for name in names if name in DECISIONS],
        "AUROC of each score": [name for name in names if name.startswith("auroc/")],
    }
    parts["others"] = [name for name in names if not any(name in part for part in parts.values())]
    width = max(map(len, names), default=0) + 2
    lines = ["", f"{'':<{width}}" + "".join(f"{split:>12}" for split in splits)]
    for title, part in parts.items():
        lines += [title] if part else []
        for name in part:
            values = (metrics.get(f"{split}/{name}") for split in splits)
            cells = "".join(f"{'' if value is None else _number(value):>12}" for value in values)
            lines.append(f"{'  ' + name.removeprefix('auroc/'):<{width}}{cells}".rstrip())
    lines += ["", *notes, f"run          {folder}", f"look         tensorboard --logdir {folder.parent.parent}"]
    return "\n".join(lines)
