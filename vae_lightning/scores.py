"""What counts as strange: each score a function of a model and a batch, higher is stranger."""

from __future__ import annotations

import copy
import io
import math
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from .errors import UserError
from .networks import Blocks
from .whitening import ledoit_wolf, reservoir


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
        encoder = getattr(model, "encoder", None)  # there is none yet when a model checks before it has built one
        if "hidden" in self.requires and isinstance(encoder, Blocks) and len(encoder) == 1:
            raise UserError(
                f"model.init_args.scores: {type(self).__name__} needs hidden layers, and the network has none: give it "
                "some, or leave hidden out of the score's layers"
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
        _at_least(1, self, samples=samples)
        self.samples, self.seed = samples, seed

    def forward(self, model: Any, x: Tensor) -> Tensor:
        mu, logvar = model.posterior(x)
        z = mu + (0.5 * logvar).exp() * _noise(self.samples, mu, self.seed)
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
        _at_least(1, self, steps=steps, samples=samples)
        self.steps, self.lr, self.samples, self.seed = steps, lr, samples, seed

    @torch.inference_mode(False)
    @torch.enable_grad()
    def forward(self, model: Any, x: Tensor) -> Tensor:
        x = x.clone()  # a tensor made in inference mode cannot be differentiated through, a copy can
        q = [parameter.detach().clone().requires_grad_() for parameter in model.posterior(x)]
        optimizer = torch.optim.Adam(q, lr=self.lr)
        noise = _noise(self.samples, q[0], self.seed)
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


Layer = Literal["input", "hidden", "latent"]


class SAP(Score):
    """Σ_l ‖h_l(x) − h_l(x̂)‖²: how much the reconstruction differs from x on its way through the encoder.

    Simple Aggregation along Pathway: Kim et al. 2020, "RaPP: Novelty Detection with Reconstruction along Projection
    Pathway", eq. 4. h_0 is x itself, then come the hidden activations, then the code.

    Args:
        layers: Which of them.
    """

    def __init__(self, layers: list[Layer] = ["input", "hidden", "latent"]) -> None:  # noqa: B006 (never changed)
        super().__init__()
        self.layers, self.requires = list(layers), _methods(self, layers)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return torch.stack([d.square().sum(1) for d in differences(model, x, self.layers)]).sum(0)


class Whitened(Score):
    """(f(x) − m)ᵀ Σ⁻¹ (f(x) − m): a squared Mahalanobis distance, of features that a subclass names.

    m and Σ are those of normal validation samples; Σ is shrunk as Ledoit and Wolf have it, so any number of samples
    from 2 upwards gives one that can be inverted. Samples on which the encoder was trained would not do: their
    differences are smaller than those of new ones.

    Args:
        capacity: Samples that are fitted on at most.
        rank: Directions of Σ that are kept apart at most; the others share their mean variance.
    """

    center: Tensor
    directions: Tensor
    precision: Tensor
    rest: Tensor

    def __init__(self, capacity: int = 2048, rank: int = 512) -> None:
        super().__init__()
        _at_least(2, self, capacity=capacity)
        _at_least(1, self, rank=rank)
        self.capacity, self.rank = capacity, rank
        for name in ("center", "directions", "precision", "rest"):
            self.register_buffer(name, torch.empty(0))

    @abstractmethod
    def features(self, model: Any, x: Tensor) -> Tensor:
        """(B, *input_shape) → (B, D)."""

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        rows = reservoir((self.features(model, x) for x in batches), self.capacity, 2, type(self).__name__)
        mean, directions, variances, rest = (part.to(rows) for part in ledoit_wolf(rows, self.rank))
        self.center, self.directions, self.precision, self.rest = mean, directions, 1 / variances, 1 / rest

    def forward(self, model: Any, x: Tensor) -> Tensor:
        d = self.features(model, x) - self.center
        along = (d @ self.directions).square()
        outside = (d.square().sum(1) - along.sum(1)).clamp_min(0)
        return along @ self.precision + self.rest * outside


class NAP(Whitened):
    """‖Σ^(−½) (d(x) − m)‖², d(x) = h(x) − h(x̂) in all layers at once.

    Normalised Aggregation along Pathway: Kim et al. 2020 (see :class:`SAP`), eq. 6, with a shrunk covariance of
    held-out samples in place of the SVD of the training samples.

    Args:
        layers: Which differences.
        capacity, rank: See :class:`Whitened`.
    """

    def __init__(
        self,
        layers: list[Layer] = ["input", "hidden", "latent"],  # noqa: B006 (never changed)
        capacity: int = 2048,
        rank: int = 512,
    ) -> None:
        super().__init__(capacity, rank)
        self.layers, self.requires = list(layers), _methods(self, layers)

    def features(self, model: Any, x: Tensor) -> Tensor:
        return torch.cat(differences(model, x, self.layers), 1)


class Mahalanobis(Whitened):
    """(μ(x) − m)ᵀ Σ⁻¹ (μ(x) − m), of the code and, if asked for, of the logarithms of the layers' errors.

    Denouden et al. 2018, "Improving Reconstruction Autoencoder Out-of-distribution Detection with Mahalanobis
    Distance".

    Args:
        errors: Add log ‖h_l(x) − h_l(x̂)‖² of each layer l, from x to the code, to the features.
        capacity, rank: See :class:`Whitened`.
    """

    requires: tuple[str, ...] = ("encode",)

    def __init__(self, errors: bool = False, capacity: int = 2048, rank: int = 512) -> None:
        super().__init__(capacity, rank)
        self.errors, self.requires = errors, ("encode", *(_methods(self, _LAYERS) if errors else ()))

    def features(self, model: Any, x: Tensor) -> Tensor:
        return latents(model, x, self.errors)


class LatentDensity(Score):
    """−log Σ_k w_k N(μ(x); m_k, Σ_k) in nats: a mixture of Gaussians fitted to the codes of normal samples by EM.

    Args:
        components: Of the mixture.
        regularization: Added to the diagonal of each Σ_k, as a share of the codes' mean variance.
        errors: As for :class:`Mahalanobis`.
        capacity: Samples that are fitted on at most.
        seed: Of the k-means that EM starts from.
    """

    requires: tuple[str, ...] = ("encode",)
    means: Tensor
    cholesky: Tensor
    log_weights: Tensor

    def __init__(
        self,
        components: int = 10,
        regularization: float = 0.01,
        errors: bool = False,
        capacity: int = 8192,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _at_least(1, self, components=components, capacity=capacity)
        if not 0 < regularization < math.inf:
            raise UserError(f"LatentDensity: regularization = {regularization} must be positive")
        self.components, self.regularization, self.errors = components, regularization, errors
        self.capacity, self.seed = capacity, seed
        self.requires = ("encode", *(_methods(self, _LAYERS) if errors else ()))
        for name in ("means", "cholesky", "log_weights"):
            self.register_buffer(name, torch.empty(0))

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        needed = 2 * self.components
        rows = reservoir((latents(model, x, self.errors) for x in batches), self.capacity, needed, "LatentDensity")
        codes = rows.double().cpu().numpy()
        floor = max(self.regularization * float(codes.var(0).mean()), 1e-12)
        mixture = GaussianMixture(self.components, reg_covar=floor, random_state=self.seed, max_iter=200).fit(codes)
        cholesky = torch.from_numpy(mixture.precisions_cholesky_)
        constant = cholesky.diagonal(dim1=1, dim2=2).log().sum(1) - codes.shape[1] / 2 * math.log(2 * math.pi)
        self.means, self.cholesky = torch.from_numpy(mixture.means_).to(rows), cholesky.to(rows)
        self.log_weights = (torch.from_numpy(mixture.weights_).log() + constant).to(rows)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        d = latents(model, x, self.errors)[:, None] - self.means  # (B, K, D)
        distance = torch.einsum("bkd,kde->bke", d, self.cholesky).square().sum(2)
        return -(self.log_weights - 0.5 * distance).logsumexp(1)


class KNearestNeighbours(Score):
    """The mean distance of μ(x) to the k nearest codes of normal samples.

    Ramaswamy et al. 2000, "Efficient Algorithms for Mining Outliers from Large Data Sets", with the mean of Angiulli
    and Pizzuti 2002 in place of the k-th distance.

    Args:
        k: Neighbours.
        capacity: Codes that are kept at most.
    """

    requires: tuple[str, ...] = ("encode",)
    codes: Tensor

    def __init__(self, k: int = 5, capacity: int = 8192) -> None:
        super().__init__()
        _at_least(1, self, k=k)
        _at_least(k, self, capacity=capacity)
        self.k, self.capacity = k, capacity
        self.register_buffer("codes", torch.empty(0))

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        self.codes = reservoir((model.encode(x) for x in batches), self.capacity, self.k, "KNearestNeighbours")

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return torch.cdist(model.encode(x), self.codes).topk(self.k, largest=False).values.mean(1)


class Combined(Score):
    """Σ_i w_i (s_i(x) − m_i) / d_i: several scores, brought to a common scale on normal validation samples.

    m_i is the mean and d_i the standard deviation of s_i on normal samples that the score was not fitted on: half of
    the samples calibrate a copy that is fitted on the other half, and the other way round.

    Args:
        scores: At least two.
        weights: One for each score; None for equal ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scores: list[Score], weights: list[float] | None = None) -> None:
        super().__init__()
        if len(scores) < 2:
            raise UserError(f"Combined: scores holds {len(scores)}, and combining needs at least two")
        if weights is not None and (len(weights) != len(scores) or min(weights) < 0 or sum(weights) <= 0):
            raise UserError(f"Combined: weights = {weights} must be {len(scores)} numbers of at least 0, not all 0")
        self.scores, self.weights = list(scores), weights
        self.parts = nn.ModuleList(scores)
        self.register_buffer("mean", torch.zeros(len(scores)))
        self.register_buffer("std", torch.ones(len(scores)))

    def check(self, model: nn.Module) -> None:
        for score in self.scores:
            score.check(model)

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        held_out = torch.stack([held_out_scores(score, model, batches) for score in self.scores])
        self.mean, self.std = held_out.mean(1), held_out.std(1).clamp_min(1e-12)
        for score in self.scores:
            score.fit(model, batches)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        scores = torch.stack([score(model, x) for score in self.scores], 1)
        weights = torch.tensor(self.weights or [1 / len(self.scores)] * len(self.scores)).to(scores)
        return (scores - self.mean) / self.std @ weights


def held_out_scores(score: Score, model: Any, batches: Iterable[Tensor]) -> Tensor:
    """The score of each normal sample, by a copy that was fitted on the half of the samples without it."""
    if type(score).fit is Score.fit:  # nothing is fitted, so nothing is too well fitted
        return torch.cat([score(model, x) for x in batches])
    parts = []
    for half in (0, 1):
        fitted = copy.deepcopy(score)
        fitted.fit(model, _Every(batches, 1 - half))
        parts += [fitted(model, x) for x in _Every(batches, half)]
    return torch.cat(parts)


class _Every:
    """Every second sample of all batches, as often as they are asked for."""

    def __init__(self, batches: Iterable[Tensor], start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[Tensor]:
        return (x[self.start :: 2] for x in self.batches)


_LAYERS: list[Layer] = ["input", "hidden", "latent"]


def differences(model: Any, x: Tensor, layers: list[Layer]) -> list[Tensor]:
    """h_l(x) − h_l(x̂) in each of the layers: (B, *input_shape) → [(B, features), …]."""
    reconstruction = model.reconstruct(x)
    found = []
    if "input" in layers:
        found.append((x - reconstruction).flatten(1))
    if "hidden" in layers:
        pairs = zip(model.hidden(x), model.hidden(reconstruction), strict=True)
        found += [h - h_reconstructed for h, h_reconstructed in pairs]
    if "latent" in layers:
        found.append(model.encode(x) - model.encode(reconstruction))
    return found


def latents(model: Any, x: Tensor, errors: bool) -> Tensor:
    """μ(x), with the logarithms of the layers' errors behind it: (B, *input_shape) → (B, D)."""
    mu = model.encode(x)
    if not errors:
        return mu
    logs = [d.square().sum(1, keepdim=True).clamp_min(1e-12).log() for d in differences(model, x, _LAYERS)]
    return torch.cat([mu, *logs], 1)


def _methods(score: Score, layers: list[Layer]) -> tuple[str, ...]:
    """What a model must have for the differences in these layers."""
    if not layers or not set(layers) <= set(_LAYERS):
        raise UserError(f"{type(score).__name__}: layers = {layers} must name at least one of {', '.join(_LAYERS)}")
    return ("reconstruct", *(["hidden"] if "hidden" in layers else []), *(["encode"] if "latent" in layers else []))


def _at_least(minimum: int, score: Score, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < minimum:
            raise UserError(f"{type(score).__name__}: {name} = {value} must be at least {minimum}")


def _noise(samples: int, like: Tensor, seed: int) -> Tensor:
    """(samples, 1, D), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 1, like.shape[1], generator=generator).to(like)
