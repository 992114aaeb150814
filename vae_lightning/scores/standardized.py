"""A score in standard deviations of normal training samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .base import Score
from .contributions import Contributions
from .neighbours import Neighbours
from .sharing import each


class Standardized(Score):
    """(s(x) − m) / d with m and d, mean and standard deviation of s over the training samples.

    It has the unit of ``Neighbours`` then, so ``Combined`` can add the two with ``standardize: false``, and no
    validation sample is spent on it. That s has been fitted on the same samples moves m a little, and no order.

    Args:
        score: s, of those that do not look training samples up: ``Neighbours`` would find each at a distance of 0.

    Raises:
        UserError: When s is a ``Neighbours``, which has that unit already.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, score: Score) -> None:
        super().__init__()
        if isinstance(score, Neighbours):
            raise UserError("Standardized: Neighbours is in standard deviations already: take it as it is")
        self.score = score
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(0))

    def check(self, model: Any) -> None:
        self.score.check(model)

    @property
    def export_refusal(self) -> str | None:  # type: ignore[override]
        return self.score.export_refusal

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        self.score.fit(model, train, val)
        found = torch.cat([self.score(view, x) for view, x in each(model, train)])
        if not found.isfinite().all():
            raise UserError(
                f"model.init_args.scores: {type(self.score).__name__} of the training samples is NaN or infinite: "
                "Standardized needs numbers"
            )
        self.mean, self.std = found.mean(), found.std(correction=0).clamp_min(1e-12)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return (self.score(model, x) - self.mean) / self.std

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        found = self.score.contributions(model, x, baseline)
        base = (found.base - self.mean) / self.std
        return found._replace(features=found.features / self.std, latent=found.latent / self.std, base=base)
