"""What counts as strange: each score a function of a model and a batch, higher is stranger."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError


class Score(nn.Module):
    """(model, x) → (B,). Deterministic, and of each sample alone: no matter how samples are batched.

    A score may be fitted on normal validation samples; what it learns there are buffers, which travel in the
    checkpoint whatever their shape.

    Attributes:
        requires: Methods that a model must have to be scored.
    """

    requires: tuple[str, ...] = ("reconstruct",)

    def check(self, model: nn.Module) -> None:
        """Raise a UserError if the model lacks what this score needs."""
        for method in self.requires:
            if not callable(getattr(model, method, None)):
                raise UserError(
                    f"model.init_args.scores: {type(self).__name__} needs a model with `{method}`, which "
                    f"{type(model).__name__} has not: choose another score or model"
                )

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        """Fit on normal samples. ``batches`` can be gone through as often as needed."""

    @abstractmethod
    def forward(self, model: Any, x: Tensor) -> Tensor:
        """The score of each sample: (B, *input_shape) → (B,)."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ReconstructionError(Score):
    """‖x − x̂‖² / D: the mean squared error of each sample's reconstruction from the posterior mean."""

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return (x - model.reconstruct(x)).square().flatten(1).mean(1)


class NegativeLogLikelihood(Score):
    """−log p(x | z = E[z | x]) in nats: the reconstruction's, under the model's own likelihood."""

    requires = ("encode", "decode")

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return -model.likelihood.log_prob(model.decode(model.encode(x)), x)


class NegativeELBO(Score):
    """−ELBO(x) = −E[log p(x | z)] + KL(q(z | x) ‖ p(z)) in nats, β = 1 whatever the training's was.

    Args:
        samples: Monte Carlo samples for the expectation; 0 takes the posterior mean for z. All samples x share one
            draw of the noise, so that a score does not depend on the batch around it.
        seed: Of the noise.
    """

    requires = ("posterior", "decode", "kl")

    def __init__(self, samples: int = 0, seed: int = 0) -> None:
        super().__init__()
        if samples < 0:
            raise UserError(f"NegativeELBO: samples = {samples} must be at least 0")
        self.samples, self.seed = samples, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        mu, logvar = model.posterior(x)
        z = mu[None]
        if self.samples:
            generator = torch.Generator().manual_seed(self.seed)
            noise = torch.randn(self.samples, 1, mu.shape[1], generator=generator).to(mu)
            z = mu + (0.5 * logvar).exp() * noise
        return model.kl(mu, logvar) - model.likelihood.log_prob(model.decode(z), x).mean(0)


class ImportanceWeighted(Score):
    """−log 1/k Σᵢ p(x | zᵢ) p(zᵢ) / q(zᵢ | x) in nats: in expectation an upper bound of −log p(x), tighter with k.

    Burda, Grosse and Salakhutdinov 2016, "Importance Weighted Autoencoders", eq. 8, who report log-likelihoods with
    k = 5000. All samples x share one draw of the noise, so that a score does not depend on the batch around it.

    Args:
        k: Samples of z for each x, worked through in pieces: memory does not grow with k.
        seed: Of the noise.
    """

    requires = ("posterior", "log_weights")

    def __init__(self, k: int = 50, seed: int = 0) -> None:
        super().__init__()
        if k < 1:
            raise UserError(f"ImportanceWeighted: k = {k} must be at least 1")
        self.k, self.seed = k, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        mu, logvar = model.posterior(x)
        noise = torch.randn(self.k, 1, mu.shape[1], generator=torch.Generator().manual_seed(self.seed)).to(mu)
        at_once = max(1, 2**20 // max(1, x.numel()))  # some 4 MB for an activation as large as x: it stays in the cache
        total = torch.full_like(mu[:, 0], -torch.inf)
        for piece in noise.split(at_once):
            log_p, log_ratio = model.log_weights(x, mu, logvar, piece)
            total = total.logaddexp((log_p + log_ratio).logsumexp(0))
        return math.log(self.k) - total
