"""Trials that are trained together: ``sweep --batch``."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...detection import storage
from ...errors import UserError
from ...files import write_whole
from ...training import runs
from ...training.batched import Batched
from ...training.board import Board
from ...training.callbacks import DetectionMetrics, PixelMetrics
from ...training.callbacks.metrics import described, flatten
from ...training.member import Member
from .. import tasks
from .made import all_made
from .trial import Trial


@dataclass
class Group:
    """Trials that this process trains together.

    Attributes:
        trials: All of them.
        left: Those that have not ended.
    """

    trials: list[Trial]
    left: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = list(self.trials)

    @property
    def folder(self) -> Path:
        """The first one's."""
        return self.trials[0].folder

    def __str__(self) -> str:
        return f"trials {', '.join(str(trial.slot) for trial in self.trials)}"

    def do(self, cli: Any) -> str:
        with contextlib.ExitStack() as beating:
            for trial in self.trials:
                trial.mark()
                beating.enter_context(trial.beating())
            begun = [trial for trial in self.trials if (trial.folder / "checkpoints/last.ckpt").is_file()]
            for trial in begun:  # ended without a word, or begun on its own
                self._ended(trial, tasks.attempt(cli, trial))
            fresh = [trial for trial in self.trials if trial not in begun]
            seconds = self._train(cli, fresh) if fresh else 0.0
        return f"together in {seconds:.0f} s"

    def interrupted(self) -> None:
        for trial in self.left:
            trial.interrupted()

    def failed(self, error: str, final: bool) -> None:
        for trial in self.left:
            trial.failed(error, final)

    def _ended(self, trial: Trial, how: str) -> None:
        self.left.remove(trial)
        print(f"{trial}  {how}", flush=True)

    def _train(self, cli: Any, trials: list[Trial]) -> float:
        """Train them, write the folder of each, and record how it ended; the seconds that all of it has taken."""
        started = time.monotonic()
        made = all_made(cli, trials)
        batched = Batched([one.model for one in made], [one.seed for one in made], [one.folder for one in trials])
        first = made[0].built
        first.trainer.callbacks, first.trainer.num_sanity_val_steps = [], 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batched.seed)
            first.trainer.fit(batched, first.datamodule)
        if first.trainer.interrupted:
            raise KeyboardInterrupt
        first.trainer.callbacks = [DetectionMetrics(), PixelMetrics()]
        epochs, share = first.trainer.current_epoch, batched.seconds
        for trial, one, member in zip(trials, made, batched.each, strict=True):
            try:
                if member.error is not None:
                    raise UserError(member.error)
                write_whole(trial.folder / "config.yaml", one.configuration)
                runs.write_results(trial.folder, epochs, share, _finished(first, member))
                self._ended(trial, trial.end(json.loads((trial.folder / runs.RESULTS).read_text())))
            except UserError as error:
                trial.failed(str(error), final=True)
                self._ended(trial, f"failed: {error}")
        return time.monotonic() - started


def _finished(built: Any, member: Member) -> dict[str, float]:
    """Write a member's checkpoints and curves, test what is kept of it; all its metrics."""
    member.checkpoints.mkdir(exist_ok=True)
    for path, content in member.files.items():
        storage.write(content, path)
    path, content = next(iter(member.files.items()))  # of the best epoch: the last one comes last
    model = storage.restore(content, (), str(path))
    model.beta = content["beta"]
    trainer, data = built.trainer, built.datamodule
    *_, experiment, version = member.folder.parts
    board = Board(member.folder.parent.parent, experiment, version, default_hp_metric=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(member.seed)  # of whatever the test draws
        board.open(flatten(dict(model.hparams)) | described(trainer), model)
        for step, metrics in member.history:
            board.log_metrics(metrics, step)
        trainer.loggers = [board]
        if built.settings.test_after_fit and data.has("test"):
            trainer.test(model, data, verbose=False)
            member.metrics |= runs.numbers(trainer.callback_metrics)
    board.save()
    board.finalize("success")
    return member.metrics
