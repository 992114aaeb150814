"""Several scores as one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .base import FitOn, Score, alternate
from .sharing import each


class Combined(Score):
    """Σ_i w_i (s_i(x) − m_i) / d_i: several scores, brought to a common scale on normal validation samples.

    m_i is the mean and d_i the standard deviation of s_i on normal validation samples that s_i was not fitted on.

    Args:
        scores: At least two.
        weights: One for each score; None for equal ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scores: list[Score], weights: list[float] | None = None) -> None:
        super().__init__()
        if len(scores) < 2:
            raise UserError(f"Combined: scores holds {len(scores)}, and combining needs at least two")
        if weights is not None and (len(weights) != len(scores) or min(weights) < 0 or sum(weights) <= 0):
            raise UserError(f"Combined: weights = {weights} must be {len(scores)} numbers of at least 0, not all 0")
        self.scores, self.weights = list(scores), weights
        self.parts = nn.ModuleList(scores)
        self.register_buffer("mean", torch.zeros(len(scores)))
        self.register_buffer("std", torch.ones(len(scores)))

    def check(self, model: nn.Module) -> None:
        for score in self.scores:
            score.check(model)

    @property
    def fit_on(self) -> FitOn | None:  # type: ignore[override]
        sources = {score.fit_on for score in self.scores}
        return "val" if "val" in sources else "train" if "train" in sources else None

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        self.calibrate(model, batches)

    def calibrate(self, model: Any, val: Iterable[Tensor], train: Iterable[Tensor] | None = None) -> list[Score]:
        parts = [score.calibrate(model, val, train) for score in self.scores]
        found = [torch.stack([alternate(part, model, x) for part in parts], 1) for x in each(model, val)]
        scores = torch.cat(found)
        self.mean, self.std = scores.mean(0), scores.std(0).clamp_min(1e-12)
        copies = [copy.copy(self) for _ in range(max(map(len, parts)))]
        for i, combined in enumerate(copies):
            combined.scores = [part[i % len(part)] for part in parts]
        return list(copies)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return self._combine(torch.stack([score(model, x) for score in self.scores], 1))

    def _combine(self, scores: Tensor) -> Tensor:
        weights = torch.tensor(self.weights or [1 / len(self.scores)] * len(self.scores)).to(scores)
        return (scores - self.mean) / self.std @ weights
