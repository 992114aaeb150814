"""How far a sample is from its reconstruction."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Score


class ReconstructionError(Score):
    """‖x − x̂‖² / D: the mean squared error of each sample's reconstruction from the posterior mean."""

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return (x - model.reconstruct(x)).square().flatten(1).mean(1)
