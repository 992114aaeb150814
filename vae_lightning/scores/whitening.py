"""What scores are fitted with: a bounded share of the samples, and a covariance that can be inverted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from .base import Score, at_least
from .sharing import each


def reservoir(batches: Iterable[Tensor], capacity: int, needed: int, name: str) -> Tensor:
    """At most ``capacity`` rows of all batches (B, …), drawn uniformly without replacement; the same ones each time.

    Memory does not grow with the data. Raises a UserError in the name of score ``name`` if there are fewer rows than
    ``needed``, or one of them is not finite.
    """
    generator = torch.Generator().manual_seed(0)
    kept: Tensor | None = None
    keys = torch.empty(0)
    for rows in batches:
        keys = torch.cat([keys, torch.rand(len(rows), generator=generator)])
        kept = rows if kept is None else torch.cat([kept, rows])
        if len(keys) > capacity:
            best = keys.topk(capacity).indices.sort().values  # the largest of independent keys: a uniform draw
            keys, kept = keys[best], kept[best.to(kept.device)]
    if kept is None or len(kept) < needed:
        raise UserError(
            f"model.init_args.scores: {name} needs {needed} normal samples to be fitted on, and the training split has "
            f"{len(keys)}: give it more samples, or choose another score"
        )
    if not kept.isfinite().all():
        raise UserError(f"model.init_args.scores: {name} cannot be fitted: the model's outputs are NaN or infinite")
    return kept


class Covariance(NamedTuple):
    """Σ = V diag(variances) Vᵀ + rest (I − V Vᵀ).

    Attributes:
        mean: (D,).
        directions: V (D, r), orthonormal columns.
        variances: (r,), along the directions.
        rest: Scalar, the variance along everything else; infinite if there is nothing else.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: Tensor


def ledoit_wolf(x: Tensor, rank: int) -> Covariance:
    """Σ = (1 − ρ) S + ρ tr(S)/D I with the ρ that minimises E‖Σ − cov(x)‖², for x (N, D), whatever N and D are.

    Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", section 3.3. Only
    the ``rank`` directions of greatest variance are kept apart; the others get their mean variance.
    """
    x = x.cpu().double()  # in double precision, which not every accelerator has
    n, d = x.shape
    mean = x.mean(0)
    x = x - mean
    small = (x @ x.T if n < d else x.T @ x) / n  # the same eigenvalues, from the smaller of the two matrices
    eigenvalues, vectors = torch.linalg.eigh(small)
    order = eigenvalues.argsort(descending=True)[:rank]
    order = order[eigenvalues[order] > eigenvalues.max() * 1e-10]
    top, directions = eigenvalues[order], vectors[:, order]
    if n < d:
        directions = x.T @ directions / (n * top).sqrt()
    trace, square = eigenvalues.sum(), eigenvalues.square().sum()
    distance = square - trace.square() / d  # ‖S − tr(S)/D I‖², of which what the sample itself varies by:
    noise = (x.square().sum(1).square().mean() - square) / n
    shrinkage = (noise / distance).clamp(0, 1) if distance > 0 else torch.ones_like(trace)
    floor = (shrinkage * trace / d).clamp_min(1e-12)  # codes that do not vary at all have a density too
    unexplained = (trace - top.sum()).clamp_min(0) / max(1, d - len(top))
    rest = (1 - shrinkage) * unexplained + floor if len(top) < d else torch.full_like(trace, torch.inf)
    return Covariance(mean, directions, (1 - shrinkage) * top + floor, rest)


class Whitened(Score):
    """(f(x) − m)ᵀ Σ⁻¹ (f(x) − m): a squared Mahalanobis distance, of features that a subclass names.

    m and Σ are those of normal training samples; Σ is shrunk as Ledoit and Wolf have it, so any number of samples from
    2 upwards gives one that can be inverted.

    Args:
        capacity: Samples that are fitted on at most.
        rank: Directions of Σ that are kept apart at most; the others share their mean variance.
    """

    center: Tensor
    directions: Tensor
    precision: Tensor
    rest: Tensor

    def __init__(self, capacity: int = 4096, rank: int = 512) -> None:
        super().__init__()
        at_least(2, self, capacity=capacity)
        at_least(1, self, rank=rank)
        self.capacity, self.rank = capacity, rank
        for name in ("center", "directions", "precision", "rest"):
            self.register_buffer(name, torch.empty(0))

    @abstractmethod
    def represent(self, model: Any, x: Tensor) -> Tensor:
        """(B, *input_shape) → (B, D)."""

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        features = (self.represent(view, x) for view, x in each(model, train))
        rows = reservoir(features, self.capacity, 2, type(self).__name__)
        mean, directions, variances, rest = (part.to(rows) for part in ledoit_wolf(rows, self.rank))
        self.center, self.directions, self.precision, self.rest = mean, directions, 1 / variances, 1 / rest

    def forward(self, model: Any, x: Tensor) -> Tensor:
        d = self.represent(model, x) - self.center
        along = d @ self.directions
        # the remainder itself: of ‖d‖² − ‖along‖², two numbers that nearly agree, only rounding would be left
        outside = (d - along @ self.directions.T).square().sum(1)
        return along.square() @ self.precision + self.rest * outside
