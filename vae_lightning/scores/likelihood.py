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
from .base import Score, at_least, shared_noise


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
        if not self.samples:
            return model.kl(mu, logvar) - model.likelihood.log_prob(model.decode(mu), x)
        z = mu + (0.5 * logvar).exp() * shared_noise(self.samples, mu, self.seed)
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
            z = mu + (0.5 * logvar).exp() * piece
            log_p, log_ratio = model.log_weights(x, z, piece, logvar)
            total = total.logaddexp((log_p + log_ratio).logsumexp(0))
        return math.log(self.k) - total


class ReconstructionProbability(Score):
    """−E_q(z|x)[log p(x | z)] in nats, by Monte Carlo.

    An and Cho 2015, "Variational Autoencoder based Anomaly Detection using Reconstruction Probability", algorithm 4.

    Args:
        samples: Of z for each x. All x share one draw of the noise, so that a score does not depend on its batch.
        seed: Of the noise.
    """

    requires = ("posterior", "decode")

    def __init__(self, samples: int = 10, seed: int = 0) -> None:
        super().__init__()
        at_least(1, self, samples=samples)
        self.samples, self.seed = samples, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        mu, logvar = model.posterior(x)
        z = mu + (0.5 * logvar).exp() * shared_noise(self.samples, mu, self.seed)
        return -model.likelihood.log_prob(model.decode(z), x).mean(0)


class LikelihoodRegret(Score):
    """max_q ELBO(x; q) − ELBO(x; q(z | x)) in nats: what a posterior made for x alone gains over the encoder's.

    Xiao et al. 2020, "Likelihood Regret: An Out-of-Distribution Detection Score For Variational Auto-encoder", eq. 5.
    They re-train the encoder on each x; here μ and log σ² of each x are optimised directly, a whole batch at once, with
    Adam. β = 1 whatever the training's was.

    Args:
        steps: Of Adam. The result is the best of them, so it is never negative.
        lr: Of Adam.
        samples: Of z in each ELBO; the same noise for every x and step.
        seed: Of the noise.
    """

    requires = ("posterior", "decode", "kl")

    def __init__(self, steps: int = 50, lr: float = 0.05, samples: int = 4, seed: int = 0) -> None:
        super().__init__()
        at_least(1, self, steps=steps, samples=samples)
        self.steps, self.lr, self.samples, self.seed = steps, lr, samples, seed

    @torch.inference_mode(False)
    @torch.enable_grad()
    def forward(self, model: Any, x: Tensor) -> Tensor:
        x = x.clone()  # a tensor made in inference mode cannot be differentiated through, a copy can
        q = [parameter.detach().clone().requires_grad_() for parameter in model.posterior(x)]
        optimizer = torch.optim.Adam(q, lr=self.lr)
        noise = shared_noise(self.samples, q[0], self.seed)
        first = best = self._elbo(model, x, q, noise)
        elbo = first
        for _ in range(self.steps):
            for parameter, gradient in zip(q, torch.autograd.grad(-elbo.sum(), q), strict=True):
                parameter.grad = gradient  # the model's own gradients stay as they are
            optimizer.step()
            elbo = self._elbo(model, x, q, noise)
            best = torch.maximum(best, elbo.detach())
        return (best - first).detach()

    @staticmethod
    def _elbo(model: Any, x: Tensor, q: list[Tensor], noise: Tensor) -> Tensor:
        mu, logvar = q
        z = mu + (0.5 * logvar).exp() * noise
        return model.likelihood.log_prob(model.decode(z), x).mean(0) - model.kl(mu, logvar)


class InputComplexity(Score):
    """S(x) − L(x) in nats: another score less the length of x losslessly compressed, for S about −log p(x).

    Serrà et al. 2020, "Input complexity and out-of-distribution detection with likelihood-based generative models",
    eq. 1: simple inputs are likely under any model, and this takes the simplicity out.

    Args:
        score: S, in nats; None for :class:`NegativeELBO`.
        compressor: ``png`` for images of 1 or 3 channels, ``zlib`` for the bytes of any.
    """

    def __init__(self, score: Score | None = None, compressor: Literal["png", "zlib"] = "png") -> None:
        super().__init__()
        self.score, self.compressor = score or NegativeELBO(), compressor
        self.fit_on = self.score.fit_on

    def check(self, model: nn.Module) -> None:
        self.score.check(model)
        shape = list(getattr(model, "input_shape", []))
        if self.compressor == "png" and shape and (len(shape) != 3 or shape[0] not in (1, 3)):
            raise UserError(f"InputComplexity: samples of shape {shape} are no PNG images: give compressor = zlib")

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        self.score.fit(model, batches)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        images = (x * 255).round().clamp(0, 255).to("cpu", torch.uint8).numpy()
        lengths = torch.tensor([8 * math.log(2) * self._bytes(image) for image in images])
        return self.score(model, x) - lengths.to(x)

    def _bytes(self, image: np.ndarray) -> int:
        if self.compressor == "zlib":
            return len(zlib.compress(image.tobytes(), 9))
        buffer = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG", optimize=True)
        return buffer.tell()
