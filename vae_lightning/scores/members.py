"""Scores of an ensemble: the mean of its members, and how much they disagree."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .base import Score
from .contributions import Contributions
from .sharing import each


class MemberMean(Score):
    """1/K Σ_k (s_k(x) − m_k) / d_k: the mean of one score by K members, each brought to its own scale first.

    m_k and d_k are the mean and the standard deviation of member k's score on normal validation samples. So a member
    whose scores are larger all over does not outvote the others.

    Args:
        score: The score; each member has one of its own, fitted for it.
        members: K.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, score: Score, members: int) -> None:
        super().__init__()
        self.of = nn.ModuleList(copy.deepcopy(score) for _ in range(members))
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def check(self, model: nn.Module) -> None:
        self._scores[0].check(model)

    @property
    def export_refusal(self) -> str | None:  # type: ignore[override]
        return self._scores[0].export_refusal

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        for score, member in zip(self._scores, model.apart(), strict=True):
            score.fit(member, train, val)
        found = torch.cat([self._each(view, x) for view, x in each(model, val)])
        self.mean, self.std = found.mean(0), found.std(0, correction=0).clamp_min(1e-12)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return self.scaled(model, x).mean(1)

    def scaled(self, model: Any, x: Tensor) -> Tensor:
        """What each member says, on its own scale: (B, *input_shape) → (B, K)."""
        return (self._each(model, x) - self.mean) / self.std

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        pairs = zip(self._scores, model.apart(), strict=True)
        found = [score.contributions(member, x, baseline) for score, member in pairs]
        weights = 1 / (len(found) * self.std)
        features = sum(part.features * weight for part, weight in zip(found, weights, strict=True))
        latent = sum(part.latent * weight for part, weight in zip(found, weights, strict=True))
        base = torch.stack([part.base for part in found], 1) @ weights - self.mean @ weights
        return Contributions(features, latent, base, all(part.exact for part in found))

    @property
    def _scores(self) -> list[Any]:
        return list(self.of)

    def _each(self, model: Any, x: Tensor) -> Tensor:
        """Once for a batch, whoever asks: (B, K)."""
        passes: Any = getattr(model, "passes", None)
        original = None if passes is None or torch.is_grad_enabled() else passes.original(x)
        if original is None:
            return self._apart(model, x)
        found: Tensor = passes.result(self._apart, model, original)
        return found

    def _apart(self, model: Any, x: Tensor) -> Tensor:
        return torch.stack([score(member, x) for score, member in zip(self._scores, model.apart(), strict=True)], 1)


class Spread(Score):
    """The standard deviation over the members of what they say of a sample: how far they disagree.

    On samples like those of the training they agree; far from these nothing has told them what to do. Lakshminarayanan,
    Pritzel and Blundell 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles".

    Args:
        score: Whose.
    """

    scale = 1.0  # standard deviations

    def __init__(self, score: MemberMean) -> None:
        super().__init__()
        self._whose = [score]  # in a list: its state is its owner's

    @property
    def export_refusal(self) -> str | None:  # type: ignore[override]
        return self._whose[0].export_refusal

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return self._whose[0].scaled(model, x).std(1, correction=0)
