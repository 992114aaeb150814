"""Several scores as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UserError
from .base import Score
from .contributions import Contributions
from .sharing import each


class Combined(Score):
    """Σ_i w_i (s_i(x) − m_i) / d_i: several scores, brought to a common scale on normal validation samples.

    m_i is the mean and d_i the standard deviation of s_i on the validation samples, which s_i was not fitted on.

    Args:
        scores: At least two.
        weights: One for each score; None for equal ones.
        standardize: False takes the scores as they come, m_i = 0 and d_i = 1: for those that have one unit already.
    """

    mean: Tensor
    std: Tensor
    shares: Tensor

    def __init__(self, scores: list[Score], weights: list[float] | None = None, standardize: bool = True) -> None:
        super().__init__()
        if len(scores) < 2:
            raise UserError(f"Combined: scores holds {len(scores)}, and combining needs at least two")
        if weights is not None and (len(weights) != len(scores) or min(weights) < 0 or sum(weights) <= 0):
            raise UserError(f"Combined: weights = {weights} must be {len(scores)} numbers of at least 0, not all 0")
        self.scores, self.weights, self.standardize = list(scores), weights, standardize
        self.parts = nn.ModuleList(scores)
        self.register_buffer("mean", torch.zeros(len(scores)))
        self.register_buffer("std", torch.ones(len(scores)))
        shares = torch.tensor(weights or [1 / len(scores)] * len(scores))
        self.register_buffer("shares", shares, persistent=False)

    def check(self, model: nn.Module) -> None:
        for score in self.scores:
            score.check(model)

    @property
    def export_refusal(self) -> str | None:  # type: ignore[override]
        return next((score.export_refusal for score in self.scores if score.export_refusal), None)

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        for score in self.scores:
            score.fit(model, train, val)
        if not self.standardize:
            return
        found = torch.cat([self._parts(view, x) for view, x in each(model, val)])
        self.mean, self.std = found.mean(0), found.std(0).clamp_min(1e-12)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return (self._parts(model, x) - self.mean) / self.std @ self.shares

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        found = [score.contributions(model, x, baseline) for score in self.scores]
        weights = self.shares / self.std
        features = sum(part.features * weight for part, weight in zip(found, weights, strict=True))
        latent = torch.cat([part.latent * weight for part, weight in zip(found, weights, strict=True)], 1)
        base = torch.stack([part.base for part in found], 1) @ weights - self.mean @ weights
        return Contributions(cast(Tensor, features), latent, base, all(part.exact for part in found))

    def _parts(self, model: Any, x: Tensor) -> Tensor:
        """The scores s_i side by side: (B, *input_shape) → (B, parts)."""
        return torch.stack([score(model, x) for score in self.scores], 1)
