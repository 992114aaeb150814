"""p(x | z): networks emit parameters, likelihoods give densities."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..recipe import Recorded

LOG_2PI = math.log(2 * math.pi)


class Likelihood(Recorded, nn.Module):
    """A density over x; features are independent, given the decoder's output.

    ``params`` is (..., heads, *input_shape) throughout; the leading dimensions may be (B,) or (k, B).

    Attributes:
        name: What the negative log-likelihood is logged as.
        heads: How many numbers the decoder emits for each feature.
    """

    name: str = "nll"
    heads: int = 1

    def build(self, input_shape: list[int]) -> None:
        """Told the shape of x once, for likelihoods with a parameter for each feature."""
        self.ndim = len(input_shape)

    def adopt(self, preprocessing: Any) -> None:
        """Told what prepares x, again when that is fitted, for likelihoods to which features are not all alike."""

    @abstractmethod
    def terms(self, params: Tensor, x: Tensor) -> Tensor:
        """What each feature adds to log p(x | params), in nats: (..., heads, *input_shape) → (..., *input_shape)."""

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Log p(x | params) in nats, summed over features: (..., heads, *input_shape), (B, *input_shape) → (..., B)."""
        return self._sum(self.terms(params, x))

    @abstractmethod
    def mean(self, params: Tensor) -> Tensor:
        """The expectation E[x | params]: (..., *input_shape)."""

    def reconstruction(self, params: Tensor, x: Tensor) -> Tensor:
        """The mean, and x itself where x is missing: nothing is to be reconstructed there."""
        return self.mean(params)

    def _head(self, params: Tensor, index: int = 0) -> Tensor:
        heads = -self.ndim - 1
        params = full_precision(params)
        # a single head is squeezed: the gradient of select would write a tensor of zeros first
        return params.squeeze(heads) if self.heads == 1 else params.select(heads, index)

    def _sum(self, per_feature: Tensor) -> Tensor:
        return per_feature.flatten(-self.ndim).sum(-1)


def full_precision(x: Tensor) -> Tensor:
    """What a network emits under autocast as float32: densities sum hundreds of terms of it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Bernoulli(Likelihood):
    """log p(x|z) = Σ x log p + (1 − x) log(1 − p), with p = sigmoid(logit). Exact for x in {0, 1}.

    For grey pixels in [0, 1] this is the binary cross-entropy, which is not a likelihood: compare it only with itself.
    """

    name = "bce"

    def terms(self, params: Tensor, x: Tensor) -> Tensor:
        logits = self._head(params)
        return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")

    def mean(self, params: Tensor) -> Tensor:
        return self._head(params).sigmoid()


class ContinuousBernoulli(Likelihood):
    """The Bernoulli normalised on [0, 1]: log p(x|z) = Σ x log p + (1 − x) log(1 − p) + log C(p).

    Loaiza-Ganem and Cunningham 2019, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders".
    """

    name = "nll"

    def terms(self, params: Tensor, x: Tensor) -> Tensor:
        logits = self._head(params)  # η: x log p + (1 − x) log(1 − p) + log C(p) = (x − ½) η − log(sinh(η/2) / (η/2))
        return (x - 0.5) * logits - _log_sinhc(logits / 2)

    def mean(self, params: Tensor) -> Tensor:
        half = self._head(params) / 2
        small = half.abs() < 0.1
        safe = half.masked_fill(small, 1.0)
        return 0.5 + 0.5 * torch.where(small, half / 3 - half**3 / 45, 1 / safe.tanh() - 1 / safe)


def _log_sinhc(h: Tensor) -> Tensor:
    """log(sinh(h) / h) without overflow; its series where the difference would cancel.

    torch.distributions.ContinuousBernoulli clamps p instead: its mean stays above 0.06, and black is never black.
    """
    small = h.abs() < 0.1
    safe = h.abs().masked_fill(small, 1.0)
    series = h.square() / 6 - h**4 / 180
    return torch.where(small, series, safe + torch.log1p(-torch.exp(-2 * safe)) - torch.log(2 * safe))


class MeanSquaredError(Likelihood):
    """−log p(x|z) = Σ (x − x̂)² up to a constant: the Gaussian with variance ½, its constant left out."""

    name = "mse"

    def terms(self, params: Tensor, x: Tensor) -> Tensor:
        return -(x - self._head(params)).square()

    def mean(self, params: Tensor) -> Tensor:
        return self._head(params)


class Gaussian(Likelihood):
    """log p(x|z) = −½ Σ (x − μ)² / σ² + log 2πσ².

    Args:
        variance: σ²: a fixed number; ``shared``: one learned number; ``per_feature``: a learned number for each
            feature; ``predicted``: the decoder emits one for each feature and sample.
        min_logvar: Lower bound of a learned log σ², without which the density of a noiseless feature is unbounded.
    """

    name = "nll"

    def __init__(
        self, variance: float | Literal["shared", "per_feature", "predicted"] = "shared", min_logvar: float = -10.0
    ) -> None:
        super().__init__()
        named = variance in ("shared", "per_feature", "predicted")
        if not named and not (isinstance(variance, (int, float)) and 0 < variance < math.inf):
            raise UserError(f"Gaussian: variance = {variance} must be positive, or shared, per_feature or predicted")
        self.variance, self.min_logvar = variance, min_logvar
        self.heads = 2 if variance == "predicted" else 1

    def build(self, input_shape: list[int]) -> None:
        super().build(input_shape)
        if self.variance in ("shared", "per_feature"):
            self._logvar = nn.Parameter(torch.zeros(input_shape if self.variance == "per_feature" else []))
        elif self.variance != "predicted":
            self.register_buffer("_logvar", torch.tensor(float(self.variance)).log(), persistent=False)

    def logvar(self, params: Tensor) -> Tensor:
        """Log σ², broadcastable to x."""
        if self.variance == "predicted":
            return self._head(params, 1).clamp_min(self.min_logvar)
        return self._logvar if isinstance(self.variance, (int, float)) else self._logvar.clamp_min(self.min_logvar)

    def terms(self, params: Tensor, x: Tensor) -> Tensor:
        logvar = self.logvar(params)
        return -0.5 * ((x - self._head(params)).square() * (-logvar).exp() + logvar + LOG_2PI)

    def mean(self, params: Tensor) -> Tensor:
        return self._head(params)
