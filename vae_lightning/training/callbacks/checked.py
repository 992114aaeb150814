"""Callbacks that not every trainer and model suits."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer


class Checked(Callback):
    """A callback that says what it needs, before anything has been written.

    The command line asks once more, and earlier than Lightning: before it claims a run's folder.
    """

    def check(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise a UserError if it cannot do its work here; ``stage`` is fit, validate, test or predict."""
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.check(trainer, pl_module, stage)
