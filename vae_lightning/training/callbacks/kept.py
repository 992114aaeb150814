"""The best weights in memory: for training that writes nothing."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor


class KeepBest(Callback):
    """Keeps the state of the epoch with the smallest ``val/objective``, scores and thresholds included.

    They were fitted at that very validation, so what is kept can decide. ``best.ckpt`` holds the same epoch.

    Attributes:
        best: The smallest ``val/objective``; ∞ before there is one.
        history: ``val/objective`` of each validation.
    """

    def __init__(self) -> None:
        self.best = math.inf
        self.history: list[float] = []
        self._state: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = trainer.callback_metrics.get("val/objective")
        if trainer.sanity_checking or trainer.state.fn != "fit" or value is None:
            return
        self.history.append(float(value))
        if not float(value) < self.best:
            return
        self.best = float(value)
        self._state = {name: tensor.detach().clone() for name, tensor in pl_module.state_dict().items()}

    def restore(self, model: Any) -> None:
        """Give the model what was kept; where nothing was, its last weights stay."""
        if self._state:
            model.load_state_dict(self._state)
