"""Batch norm that stops using batch statistics."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import UserError
from .checked import Checked


class FreezeBatchNorm(Checked):
    """From an epoch on, batch norm uses its running means and variances in training too, as it does in evaluation.

    Early on, the statistics of each batch make deep nets learn fast; later they are noise that a density has to be
    robust against, at the price of nats. Frozen, the layer is affine: the net that is trained is the net that is used.

    Args:
        after: Share of trainer.max_epochs after which it is frozen, in [0, 1].

    Raises:
        UserError: When ``after`` is outside [0, 1], or the trainer has no max_epochs that it could be a share of.
    """

    def __init__(self, after: float = 0.5) -> None:
        if not 0 <= after <= 1:
            raise UserError(f"FreezeBatchNorm: after = {after} is not in [0, 1]")
        self.after = after

    def check(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and (trainer.max_epochs or -1) < 0:
            raise UserError("FreezeBatchNorm: after is a share of trainer.max_epochs, which has to be set")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._freeze(trainer, pl_module)  # a run that is resumed within an epoch does not start that epoch anew

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._freeze(trainer, pl_module)

    def _freeze(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert trainer.max_epochs is not None
        if trainer.current_epoch >= self.after * trainer.max_epochs:
            for module in pl_module.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()  # its weight and bias go on learning
