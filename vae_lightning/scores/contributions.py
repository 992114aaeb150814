"""What a score is made of: how much each column or pixel, and each latent dimension, adds to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError

AT_ONCE = 2048  # points of paths that go through the network together
STEPS = 16, 64, 256  # of a path: more of them for the samples whose sum is not complete yet
TOLERANCE = 2e-3  # of the difference of the two ends, that a path's sum may be off by


class Contributions(NamedTuple):
    """The parts of B scores: a score is the sum of its features' and its latent dimensions' parts and of its base.

    Attributes:
        features: (B, *shape), of each column of the table or each pixel, in the units of the score.
        latent: (B, d), of each latent dimension, beyond what it does to the features; (B, 0) where there is none.
        base: (B,), what belongs to neither: constants, and for integrated gradients the baseline's score.
        exact: Whether the score is such a sum by itself. Otherwise the parts are integrated gradients.
    """

    features: Tensor
    latent: Tensor
    base: Tensor
    exact: bool = True

    @property
    def total(self) -> Tensor:
        """The score that they add up to, (B,)."""
        return self.features.flatten(1).sum(1) + self.latent.sum(1) + self.base


def parts(model: Any, features: Tensor, latent: Tensor | None = None, base: Tensor | None = None) -> Contributions:
    """Exact contributions out of those of prepared features (B, *input_shape), folded to columns."""
    nothing = features.new_zeros(len(features))
    latent = nothing[:, None][:, :0] if latent is None else latent
    return Contributions(of_columns(model, features), latent, nothing if base is None else base)


def of_columns(model: Any, features: Tensor) -> Tensor:
    """What prepared features add, summed for each raw column that they come from: (B, *input_shape) → (B, *shape)."""
    preprocessing = getattr(model, "preprocessing", None)
    if preprocessing is None or list(features.shape[1:]) != list(model.input_shape):  # it counts columns already
        return features
    folded: Tensor = preprocessing.fold(features)
    return folded


def integrated_gradients(
    score: Callable[[Any, Tensor], Tensor], model: Any, x: Tensor, baseline: Tensor
) -> Contributions:
    """(x − b) ∫₀¹ ∂s/∂x (b + t (x − b)) dt: each feature's share of s(x) − s(b), whatever s is.

    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1. They add up to s(x) − s(b) as the
    steps become finer; the steps are, until they do to 0.2 % or there are 256. By the midpoint rule.

    Args:
        score: s.
        model: What is scored.
        x: (B, *input_shape).
        baseline: b, the shape of x.

    Raises:
        UserError: When the score has no gradient.
    """
    with torch.no_grad():
        base, total = score(model, baseline), score(model, x)
    found = torch.zeros_like(x)
    left = torch.arange(len(x), device=x.device)
    for steps in STEPS:
        found[left] = _path(score, model, x[left], baseline[left], steps)
        gap = found.flatten(1).sum(1) - (total - base)
        left = (gap.abs() > TOLERANCE * (total - base).abs()).nonzero().flatten()  # NaN is left as it is
        if not len(left):
            break
    return parts(model, found, base=base)._replace(exact=False)


@torch.inference_mode(False)
@torch.enable_grad()
def _path(score: Callable[[Any, Tensor], Tensor], model: Any, x: Tensor, baseline: Tensor, steps: int) -> Tensor:
    x, baseline = x.clone(), baseline.clone()  # of inference mode, perhaps, which no gradient goes through
    difference, gradient = x - baseline, torch.zeros_like(x)
    times = (torch.arange(steps, device=x.device) + 0.5) / steps
    for some in times.split(max(1, AT_ONCE // max(1, len(x)))):
        t = some.view(-1, *[1] * x.ndim)
        points = (baseline + t * difference).flatten(0, 1).requires_grad_()
        scores = score(model, points)
        if not scores.requires_grad:
            raise UserError(f"{type(score).__name__} cannot be explained: it has no gradient, nor `contributions`")
        gradient += torch.autograd.grad(scores.sum(), points)[0].view(len(some), *x.shape).sum(0)
    return (difference * gradient / steps).detach()
