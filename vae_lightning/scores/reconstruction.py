"""How far a sample is from its reconstruction."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Score
from .contributions import Contributions, parts


class ReconstructionError(Score):
    """‖x − x̂‖² / D: the mean squared error of each sample's reconstruction from the posterior mean."""

    unit = "mean over features"

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return (x - model.reconstruct(x)).square().flatten(1).mean(1)

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        return parts(model, (x - model.reconstruct(x)).square() / x[0].numel())
