"""Likelihoods with a correction: for what the encoder missed, for how simple a sample is."""

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
from .likelihood import NegativeELBO
from .noise import sample_noise


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
