"""A run that is stopped and resumed ends with the bits of one that never was: ``last.ckpt``, and going on from it.

Lightning saves at the end of a step or of an epoch, before it has validated, stepped schedulers that wait for a metric
and logged; what is still to be done is then left out by the run that resumes. So ``last.ckpt`` is written when the next
step or epoch begins. Beside ``lean`` this is the only file that knows how Lightning's loops count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from ..errors import UserError
from ..files import clear


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, what a run goes on from to the bit: between epochs, and between steps if asked to.

    Args:
        folder: For the file; None for ``checkpoints`` in the logger's.
        every_n_steps: Save after so many optimiser steps, too. Never within an accumulation: its gradients would be
            lost.
    """

    def __init__(self, folder: Path | None = None, every_n_steps: int | None = None) -> None:
        self.folder, self.every_n_steps = folder, every_n_steps
        self._steps = self._saved = 0  # optimiser steps up to the last batch, and up to the last save
        self._within: dict[str, Any] | None = None  # at the end of a batch after which to save: how far the loops are
        self._saving = self._kept = False  # whether a file is being written, and whether there is one

    @property
    def path(self) -> Path:
        assert self.folder is not None  # from setup on
        return self.folder / "last.ckpt"

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if self.folder is None and stage == "fit":
            self.folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
        if self.folder is not None and stage == "fit" and trainer.is_global_zero:
            clear(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._steps = self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.every_n_steps:
            stepped, self._steps = trainer.global_step != self._steps, trainer.global_step
            due = stepped and self._steps % self.every_n_steps == 0 and not trainer.is_last_batch
            # what Lightning counts from here on to the next batch, it counts again when it resumes
            self._within = trainer.fit_loop.state_dict() if due else None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._within is not None:
            self._save(trainer)
            self._within = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step != self._saved:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._within = None
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:
            logger.save()  # what is logged up to here stays, whatever happens to this process
        if self._kept and not self.path.is_file():
            raise UserError(f"{self.path.parent.parent}: its files have been removed while it was being trained")
        self._saving = self._kept = True
        try:
            trainer.save_checkpoint(self.path, weights_only=False)  # with all that is needed to go on; said, or it asks
        finally:
            self._saving = False
        self._saved = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if not self._saving:  # another callback's file
            return
        if self._within is not None:
            checkpoint["loops"]["fit_loop"] = self._within
        else:
            progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
            close(progress)
            checkpoint["epoch"] = progress["current"]["completed"] - 1  # the one that is over


class Resumption(Callback):
    """Goes on from a checkpoint as if there had been no interruption.

    What a killed run has logged after its last checkpoint is logged once more: TensorBoard is told to show it once.

    Raises:
        UserError: When the checkpoint was saved within an epoch by another number of processes, whose shares are not
            those of the present ones.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {}
        self._over = self._pending = False  # whether an epoch is over, and its schedulers have not been stepped yet

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["callback_metrics"] = {k: v.detach().cpu().clone() for k, v in trainer.callback_metrics.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                forget(logger, checkpoint["global_step"])
        self._metrics = checkpoint.get("callback_metrics", {})
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        now = progress["current"]
        self._over = now["processed"] == now["ready"] > 0
        self._pending = self._over and now["completed"] < now["processed"]
        if self._over:
            close(progress)
        elif (world := len(checkpoint.get("ranks", []))) not in (0, trainer.world_size):
            raise UserError(
                f"the checkpoint was saved within an epoch by {world} processes, and these are {trainer.world_size}: "
                "continue with as many, or from a checkpoint of an epoch's end"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        callbacks: list[Any] = vars(trainer)["callbacks"]
        stops = [c for c in callbacks if isinstance(c, EarlyStopping)]
        trainer.should_stop |= any(c.stopped_epoch or c.wait_count >= c.patience for c in stops)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.callback_metrics.update(self._metrics)  # for whatever monitors one that this epoch does not log
        if self._pending:
            now = trainer.fit_loop.epoch_progress.current
            now.completed -= 1  # it is that epoch's step
            trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            now.completed += 1
        if self._over:
            trainer.fit_loop.epoch_loop.restarting = False  # or max_steps would have that epoch go on
        self._metrics, self._over, self._pending = {}, False, False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        trainer.fit_loop._restarting = False  # or this epoch's end would step no scheduler that waits for a metric


def forget(logger: TensorBoardLogger, step: int) -> None:
    """Have TensorBoard leave out what is in a run's folder from a step on: what SummaryWriter's ``purge_step`` does."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer: Any = logger.experiment.file_writer
    for what in ({"file_version": "brain.Event:2"}, {"session_log": SessionLog(status=SessionLog.START)}):
        writer.add_event(Event(step=step, **what))


def close(progress: dict[str, dict[str, int]]) -> None:
    """Have Lightning's count of epochs say that the last one that was trained is over, and none has begun."""
    for count in progress.values():
        count.update(dict.fromkeys(count, count["processed"]))
