"""How unlikely a sample is under the model: likelihoods, bounds on the evidence, and what corrects them."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

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


class LikelihoodRegret(Score):
    """max_q ELBO(x; q) − ELBO(x; q(z | x)) in nats: what a posterior fitted to x alone gains over the encoder's.

    Xiao et al. 2020, "Likelihood Regret: An Out-of-Distribution Detection Score For Variational Auto-encoder", eq. 5.
    They re-train the encoder on each x; here μ and log σ² of each x are optimised directly, a whole batch at once, with
    Adam. β = 1 whatever the training's was.

    Args:
        steps: Of Adam. The result is the best of them, so it is never negative.
        lr: Of Adam.
        samples: Of z in each ELBO; the same noise at every step.
        seed: Of the noise, see ``sample_noise``.
    """

    requires = ("posterior", "decode", "kl")
    unit = "nats"
    export_refusal = "it optimises a posterior for each sample, and an exported graph computes no gradients"

    def __init__(self, steps: int = 50, lr: float = 0.05, samples: int = 4, seed: int = 0) -> None:
        super().__init__()
        at_least(1, self, steps=steps, samples=samples)
        self.steps, self.lr, self.samples, self.seed = steps, lr, samples, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        first, best, _, _ = self._search(model, x)
        return best - first

    @torch.no_grad()
    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        _, _, best, noise = self._search(model, x)
        features, latent = [], []
        for mu, logvar in (model.posterior(x), best):
            z = mu + (0.5 * logvar).exp() * noise
            features.append(model.likelihood.terms(model.decode(z), x).mean(0))
            latent.append(model.kl_terms(mu, logvar))
        return parts(model, features[1] - features[0], latent[0] - latent[1])

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _search(self, model: Any, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """The ELBO (B,) with the encoder's posterior and with the best one; that one's μ and log σ²; the noise."""
        x = x.clone()  # a tensor made in inference mode cannot be differentiated through, a copy can
        q = [parameter.detach().clone().requires_grad_() for parameter in model.posterior(x)]
        optimizer = torch.optim.Adam(q, lr=self.lr)
        noise = sample_noise(x, self.samples, q[0].shape[1], self.seed)
        first = best = self._elbo(model, x, q, noise)
        elbo, kept = first, [parameter.detach().clone() for parameter in q]
        for _ in range(self.steps):
            for parameter, gradient in zip(q, torch.autograd.grad(-elbo.sum(), q), strict=True):
                parameter.grad = gradient  # the model's own gradients stay as they are
            optimizer.step()
            elbo = self._elbo(model, x, q, noise)
            better = (elbo > best).unsqueeze(1)
            kept = [torch.where(better, new.detach(), old) for new, old in zip(q, kept, strict=True)]
            best = torch.fmax(best, elbo.detach())  # a step that went astray to NaN is not the best
        return first.detach(), best.detach(), kept, noise

    @staticmethod
    def _elbo(model: Any, x: Tensor, q: list[Tensor], noise: Tensor) -> Tensor:
        mu, logvar = q
        z = mu + (0.5 * logvar).exp() * noise
        return model.likelihood.log_prob(model.decode(z), x).mean(0) - model.kl(mu, logvar)


class InputComplexity(Score):
    """S(x) − L(x) in nats: another score, about −log p(x), minus the length of x after lossless compression.

    Serrà et al. 2020, "Input complexity and out-of-distribution detection with likelihood-based generative models",
    eq. 1: simple inputs are likely under any model, and this takes the simplicity out.

    Args:
        score: S, in nats; None for ``NegativeELBO``.
        compressor: ``png`` for images of 1 or 3 channels, ``zlib`` for the bytes of any.
    """

    export_refusal = "it compresses each sample, which no graph of tensor operations can"

    unit = "nats"

    def __init__(self, score: Score | None = None, compressor: Literal["png", "zlib"] = "png") -> None:
        super().__init__()
        self.score, self.compressor = score or NegativeELBO(), compressor

    def check(self, model: nn.Module) -> None:
        self.score.check(model)
        shape = list(getattr(model, "input_shape", []))
        if self.compressor == "png" and shape and (len(shape) != 3 or shape[0] not in (1, 3)):
            raise UserError(f"InputComplexity: samples of shape {shape} are not PNG images: give compressor = zlib")

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        self.score.fit(model, train, val)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return self.score(model, x) - self._lengths(x)

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        found = self.score.contributions(model, x, baseline)
        return found._replace(base=found.base - self._lengths(x))

    def _lengths(self, x: Tensor) -> Tensor:
        """L(x) in nats, (B,)."""
        images = (x * 255).round().clamp(0, 255).to("cpu", torch.uint8).numpy()
        return torch.tensor([8 * math.log(2) * self._bytes(image) for image in images]).to(x)

    def _bytes(self, image: np.ndarray) -> int:
        if self.compressor == "zlib":
            return len(zlib.compress(image.tobytes(), 9))
        buffer = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG", optimize=True)
        return buffer.tell()
