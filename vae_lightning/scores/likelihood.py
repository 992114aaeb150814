"""How unlikely a sample is under the model: likelihoods and bounds on the evidence."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .base import Score, at_least
from .contributions import Contributions, parts
from .noise import SampleNoise, sample_noise

AT_ONCE = 16  # draws that are decoded together: enough for efficient products, and no multiple of memory to speak of


class NegativeLogLikelihood(Score):
    """−log p(x | z = E[z | x]) in nats: the reconstruction's, under the model's own likelihood."""

    requires = ("encode", "decode")
    unit = "nats"

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return -model.likelihood.log_prob(model.decode(model.encode(x)), x)

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        return parts(model, -model.likelihood.terms(model.decode(model.encode(x)), x))


class NegativeELBO(Score):
    """−ELBO(x) = −E[log p(x | z)] + KL(q(z | x) ‖ p(z)) in nats, β = 1 regardless of training.

    Args:
        samples: Monte Carlo samples for the expectation; 0 takes the posterior mean for z.
        seed: Of the noise, see ``sample_noise``.
    """

    requires = ("posterior", "decode", "kl")
    unit = "nats"

    def __init__(self, samples: int = 0, seed: int = 0) -> None:
        super().__init__()
        if samples < 0:
            raise UserError(f"NegativeELBO: samples = {samples} must be at least 0")
        self.samples, self.seed = samples, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        mu, logvar = model.posterior(x)
        if not self.samples:
            return model.kl(mu, logvar) - model.likelihood.log_prob(model.decode(mu), x)
        z = mu + (0.5 * logvar).exp() * sample_noise(x, self.samples, mu.shape[1], self.seed)
        return model.kl(mu, logvar) - model.likelihood.log_prob(model.decode(z), x).mean(0)

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        mu, logvar = model.posterior(x)
        if not self.samples:
            return parts(model, -model.likelihood.terms(model.decode(mu), x), model.kl_terms(mu, logvar))
        z = mu + (0.5 * logvar).exp() * sample_noise(x, self.samples, mu.shape[1], self.seed)
        return parts(model, -model.likelihood.terms(model.decode(z), x).mean(0), model.kl_terms(mu, logvar))


class ImportanceWeighted(Score):
    """−log 1/k Σᵢ p(x | zᵢ) p(zᵢ) / q(zᵢ | x) in nats: in expectation an upper bound of −log p(x), tighter with k.

    Burda, Grosse and Salakhutdinov 2016, "Importance Weighted Autoencoders", eq. 8, who report log-likelihoods with
    k = 5000. Each x has noise of its own, so the errors of a mean over many of them average out.

    Args:
        k: Samples of z for each x, worked through in pieces: memory does not grow with k.
        seed: Of the noise, see ``sample_noise``.
    """

    requires = ("posterior", "log_weights")
    unit = "nats"

    def __init__(self, k: int = 50, seed: int = 0) -> None:
        super().__init__()
        if k < 1:
            raise UserError(f"ImportanceWeighted: k = {k} must be at least 1")
        self.k, self.seed = k, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        mu, logvar = model.posterior(x)
        draws, sigma = SampleNoise(x, self.k, mu.shape[1], self.seed), (0.5 * logvar).exp()
        bounds = []
        for start in range(0, self.k, AT_ONCE):
            noise = draws[start : start + AT_ONCE]
            log_p, log_ratio = model.log_weights(x, mu + sigma * noise, noise, logvar)
            bounds.append((log_p + log_ratio).logsumexp(0))
        return math.log(self.k) - torch.stack(bounds).logsumexp(0)

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        """Exact: −log 1/k Σ wᵢ = −Σ ωᵢ log wᵢ + KL(ω ‖ uniform), ω the normalised weights; log wᵢ are sums."""
        mu, logvar = model.posterior(x)
        draws, sigma = SampleNoise(x, self.k, mu.shape[1], self.seed), (0.5 * logvar).exp()
        pieces = [draws[start : start + AT_ONCE] for start in range(0, self.k, AT_ONCE)]
        log_weights = [sum(model.log_weights(x, mu + sigma * noise, noise, logvar)) for noise in pieces]
        share = torch.cat(log_weights).softmax(0)  # (k, B)
        features, latent = torch.zeros((), device=x.device), torch.zeros_like(mu)
        for noise, part in zip(pieces, share.split(AT_ONCE), strict=True):
            z = mu + sigma * noise
            terms = model.likelihood.terms(model.decode(z), x)
            features = features - (part.view(*part.shape, *[1] * (terms.ndim - 2)) * terms).sum(0)
            latent = latent - (part.unsqueeze(-1) * 0.5 * (noise.square() + logvar - z.square())).sum(0)
        return parts(model, features, latent, math.log(self.k) + share.xlogy(share).sum(0))


class ReconstructionProbability(Score):
    """−E_q(z|x)[log p(x | z)] in nats, by Monte Carlo.

    An and Cho 2015, "Variational Autoencoder based Anomaly Detection using Reconstruction Probability", algorithm 4.

    Args:
        samples: Of z for each x.
        seed: Of the noise, see ``sample_noise``.
    """

    requires = ("posterior", "decode")
    unit = "nats"

    def __init__(self, samples: int = 10, seed: int = 0) -> None:
        super().__init__()
        at_least(1, self, samples=samples)
        self.samples, self.seed = samples, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        mu, logvar = model.posterior(x)
        z = mu + (0.5 * logvar).exp() * sample_noise(x, self.samples, mu.shape[1], self.seed)
        return -model.likelihood.log_prob(model.decode(z), x).mean(0)

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        mu, logvar = model.posterior(x)
        z = mu + (0.5 * logvar).exp() * sample_noise(x, self.samples, mu.shape[1], self.seed)
        return parts(model, -model.likelihood.terms(model.decode(z), x).mean(0))
