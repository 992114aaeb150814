"""What counts as strange: each score a function of a model and a batch, higher is stranger."""

from __future__ import annotations

import copy
import io
import math
import warnings
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from .errors import UserError
from .networks import Blocks
from .passes import each
from .whitening import ledoit_wolf, reservoir

FitOn = Literal["train", "val"]


class Score(nn.Module):
    """(model, x) → (B,). Deterministic, and of each sample alone: no matter how samples are batched.

    A score may be fitted on normal samples; what it learns there are buffers, which travel in the checkpoint whatever
    their shape.

    Attributes:
        requires: Methods that a model must have to be scored.
        fit_on: ``train``: training samples, for what needs many of them. ``val``: validation samples, for what the
            encoder has made small on those that it was trained on. None: nothing is fitted.
    """

    requires: tuple[str, ...] = ("reconstruct",)
    fit_on: FitOn | None = None

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

    def calibrate(self, model: Any, val: Iterable[Tensor], train: Iterable[Tensor] | None = None) -> list[Score]:
        """Fit on what ``fit_on`` says. What it gives scores validation samples as new ones, see :func:`alternate`.

        A fitted score is lower on its own samples than on new ones. Where it is fitted on validation samples, or for
        want of others, each of them is scored by a copy that was fitted on the half of them without it.
        """
        samples = train if self.fit_on == "train" and train is not None else val
        self.fit(model, samples)
        if self.fit_on is None or samples is not val:
            return [self]
        copies = [copy.deepcopy(self), copy.deepcopy(self)]
        for half, fitted in enumerate(copies):
            fitted.fit(model, _EverySecond(val, 1 - half))
        return list(copies)

    @abstractmethod
    def forward(self, model: Any, x: Tensor) -> Tensor:
        """The score of each sample: (B, *input_shape) → (B,)."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _EverySecond:
    """Every second sample of all batches, as often as they are asked for."""

    def __init__(self, batches: Iterable[Tensor], start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[Tensor]:
        return (x[self.start :: 2] for x in self.batches if len(x) > self.start)


def alternate(scores: list[Score], model: Any, x: Tensor) -> Tensor:
    """Scores of x, the i-th sample's by the i-th score and then from the first one again."""
    found = torch.stack([score(model, x) for score in scores])
    return found[torch.arange(len(x)) % len(scores), torch.arange(len(x))]


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
        if not self.samples:
            return model.kl(mu, logvar) - model.likelihood.log_prob(model.decode(mu), x)
        z = mu + (0.5 * logvar).exp() * _noise(self.samples, mu, self.seed)
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


Layer = Literal["input", "hidden", "latent"]
Feature = Literal["code", "difference", "errors", "blocks"]


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

    m and Σ are those of normal samples; Σ is shrunk as Ledoit and Wolf have it, so any number of samples from 2 upwards
    gives one that can be inverted.

    Args:
        fit_on: ``train`` or ``val`` samples.
        capacity: Samples that are fitted on at most.
        rank: Directions of Σ that are kept apart at most; the others share their mean variance.
    """

    center: Tensor
    directions: Tensor
    precision: Tensor
    rest: Tensor

    def __init__(self, fit_on: FitOn = "val", capacity: int = 2048, rank: int = 512) -> None:
        super().__init__()
        _at_least(2, self, capacity=capacity)
        _at_least(1, self, rank=rank)
        self.fit_on, self.capacity, self.rank = fit_on, capacity, rank
        for name in ("center", "directions", "precision", "rest"):
            self.register_buffer(name, torch.empty(0))

    @abstractmethod
    def represent(self, model: Any, x: Tensor) -> Tensor:
        """(B, *input_shape) → (B, D)."""

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        rows = reservoir(
            (self.represent(model, x) for x in each(model, batches)), self.capacity, 2, type(self).__name__
        )
        mean, directions, variances, rest = (part.to(rows) for part in ledoit_wolf(rows, self.rank))
        self.center, self.directions, self.precision, self.rest = mean, directions, 1 / variances, 1 / rest

    def forward(self, model: Any, x: Tensor) -> Tensor:
        d = self.represent(model, x) - self.center
        along = (d @ self.directions).square()
        outside = (d.square().sum(1) - along.sum(1)).clamp_min(0)
        return along @ self.precision + self.rest * outside


class NAP(Whitened):
    """‖Σ^(−½) (d(x) − m)‖², d(x) = h(x) − h(x̂) in all layers at once.

    Normalised Aggregation along Pathway: Kim et al. 2020 (see :class:`SAP`), eq. 6, with a shrunk covariance of
    held-out samples in place of the SVD of the training samples.

    Args:
        layers: Which differences.
        fit_on, capacity, rank: See :class:`Whitened`.
    """

    def __init__(
        self,
        layers: list[Layer] = ["input", "hidden", "latent"],  # noqa: B006 (never changed)
        fit_on: FitOn = "val",
        capacity: int = 2048,
        rank: int = 512,
    ) -> None:
        super().__init__(fit_on, capacity, rank)
        self.layers, self.requires = list(layers), _methods(self, layers)

    def represent(self, model: Any, x: Tensor) -> Tensor:
        return torch.cat(differences(model, x, self.layers), 1)


class Mahalanobis(Whitened):
    """(f(x) − m)ᵀ Σ⁻¹ (f(x) − m), of the code or of more features.

    Denouden et al. 2018, "Improving Reconstruction Autoencoder Out-of-distribution Detection with Mahalanobis
    Distance".

    Args:
        features: Any of ``code``: μ(x); ``difference``: μ(x) − μ(x̂); ``errors``: log ‖h_l(x) − h_l(x̂)‖² in each layer
            l, from x to the code; ``blocks``: log of the mean (x − x̂)² in each of 7 × 7 blocks of an image, of each
            feature of a table: not how large the error is but where.
        fit_on, capacity, rank: See :class:`Whitened`.
    """

    def __init__(
        self,
        features: list[Feature] = ["code"],  # noqa: B006 (never changed)
        fit_on: FitOn = "train",
        capacity: int = 8192,
        rank: int = 512,
    ) -> None:
        super().__init__(fit_on, capacity, rank)
        self.features, self.requires = list(features), _methods_for(self, features)

    def represent(self, model: Any, x: Tensor) -> Tensor:
        return latent_features(model, x, self.features)


class LatentDensity(Score):
    """−log Σ_k w_k N(f(x); m_k, Σ_k) in nats: a mixture of Gaussians fitted to features of normal samples by EM.

    Zong et al. 2018, "Deep Autoencoding Gaussian Mixture Model for Unsupervised Anomaly Detection", eq. 6, without the
    estimation network: the mixture is scikit-learn's.

    Args:
        components: Of the mixture. Several numbers, in rising order: they are tried until one gives samples that were
            left out of the fit, every tenth of them, a lower mean log-density than the one before; no label is needed.
        features: As for :class:`Mahalanobis`.
        regularization: Added to the diagonal of each Σ_k, as a share of each feature's variance.
        fit_on: ``train`` or ``val`` samples; each component has a covariance matrix to learn from its own share.
        capacity: Samples that are fitted on at most.
        max_iter: Steps of EM at most. More of them hardly change the density of new samples.
        seed: Of the k-means that EM starts from.
    """

    means: Tensor
    cholesky: Tensor
    log_weights: Tensor

    def __init__(
        self,
        components: int | list[int] = 10,
        features: list[Feature] = ["code"],  # noqa: B006 (never changed)
        regularization: float = 0.03,
        fit_on: FitOn = "train",
        capacity: int = 8192,
        max_iter: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.components = components if isinstance(components, int) else list(components)
        self._candidates = [components] if isinstance(components, int) else sorted(components)
        _at_least(1, self, components=min(self._candidates, default=0), capacity=capacity, max_iter=max_iter)
        if not 0 < regularization < math.inf:
            raise UserError(f"LatentDensity: regularization = {regularization} must be positive")
        self.features, self.regularization = list(features), regularization
        self.fit_on, self.capacity, self.max_iter, self.seed = fit_on, capacity, max_iter, seed
        self.requires = _methods_for(self, features)
        for name in ("means", "cholesky", "log_weights"):
            self.register_buffer(name, torch.empty(0))

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        features = (latent_features(model, x, self.features) for x in each(model, batches))
        rows = reservoir(features, self.capacity, 2 * self._candidates[0], "LatentDensity")
        center, scale = rows.mean(0), rows.std(0, correction=0).clamp_min(1e-6)
        mixture = self._mixture(((rows - center) / scale).cpu().numpy())
        cholesky = (
            torch.from_numpy(mixture.precisions_cholesky_).to(rows) / scale[:, None]
        )  # of the features as they come
        constant = cholesky.diagonal(dim1=1, dim2=2).log().sum(1) - rows.shape[1] / 2 * math.log(2 * math.pi)
        self.means, self.cholesky = torch.from_numpy(mixture.means_).to(rows) * scale + center, cholesky
        self.log_weights = torch.from_numpy(mixture.weights_).to(rows).log() + constant

    def _mixture(self, x: np.ndarray) -> GaussianMixture:
        """Of the candidate numbers of components, the first that the next one does not improve on."""
        if len(self._candidates) == 1:
            return self._em(x, self._candidates[0])
        left_out, rest = x[::10], np.delete(x, np.s_[::10], axis=0)
        best = self._em(rest, self._candidates[0])
        for components in self._candidates[1:]:
            if 2 * components > len(x):
                break
            mixture = self._em(rest, components)
            if mixture.score(left_out) <= best.score(left_out):
                break
            best = mixture
        return best

    def _em(self, x: np.ndarray, components: int) -> GaussianMixture:
        settings = {"reg_covar": self.regularization, "random_state": self.seed, "max_iter": self.max_iter}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return GaussianMixture(components, **settings).fit(x)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        d = latent_features(model, x, self.features)[:, None] - self.means  # (B, K, D)
        distance = torch.einsum("bkd,kde->bke", d, self.cholesky).square().sum(2)
        return -(self.log_weights - 0.5 * distance).logsumexp(1)


class KNearestNeighbours(Score):
    """The mean distance of μ(x) to the k nearest codes of normal samples.

    Ramaswamy et al. 2000, "Efficient Algorithms for Mining Outliers from Large Data Sets", with the mean of Angiulli
    and Pizzuti 2002 in place of the k-th distance.

    Args:
        k: Neighbours.
        fit_on: ``train`` or ``val`` samples.
        capacity: Codes that are kept at most.
    """

    requires: tuple[str, ...] = ("encode",)
    codes: Tensor

    def __init__(self, k: int = 5, fit_on: FitOn = "train", capacity: int = 8192) -> None:
        super().__init__()
        _at_least(1, self, k=k)
        _at_least(k, self, capacity=capacity)
        self.k, self.fit_on, self.capacity = k, fit_on, capacity
        self.register_buffer("codes", torch.empty(0))

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        self.codes = reservoir((model.encode(x) for x in batches), self.capacity, self.k, "KNearestNeighbours")

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return torch.cdist(model.encode(x), self.codes).topk(self.k, largest=False).values.mean(1)


class Combined(Score):
    """Σ_i w_i (s_i(x) − m_i) / d_i: several scores, brought to a common scale on normal validation samples.

    m_i is the mean and d_i the standard deviation of s_i on normal validation samples that s_i was not fitted on.

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

    @property
    def fit_on(self) -> FitOn | None:  # type: ignore[override]
        sources = {score.fit_on for score in self.scores}
        return "val" if "val" in sources else "train" if "train" in sources else None

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        self.calibrate(model, batches)

    def calibrate(self, model: Any, val: Iterable[Tensor], train: Iterable[Tensor] | None = None) -> list[Score]:
        parts = [score.calibrate(model, val, train) for score in self.scores]
        found = [torch.stack([alternate(part, model, x) for part in parts], 1) for x in each(model, val)]
        scores = torch.cat(found)
        self.mean, self.std = scores.mean(0), scores.std(0).clamp_min(1e-12)
        copies = [copy.copy(self) for _ in range(max(map(len, parts)))]
        for i, combined in enumerate(copies):
            combined.scores = [part[i % len(part)] for part in parts]
        return list(copies)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return self._combine(torch.stack([score(model, x) for score in self.scores], 1))

    def _combine(self, scores: Tensor) -> Tensor:
        weights = torch.tensor(self.weights or [1 / len(self.scores)] * len(self.scores)).to(scores)
        return (scores - self.mean) / self.std @ weights


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


def latent_features(model: Any, x: Tensor, features: list[Feature]) -> Tensor:
    """The features next to each other: (B, *input_shape) → (B, D)."""
    found = [model.encode(x)] if "code" in features else []
    if set(features) != {"code"}:
        layers = differences(model, x, _LAYERS if "errors" in features else ["input", "latent"])
        found += [layers[-1]] if "difference" in features else []
        if "errors" in features:
            found.append(_log(torch.stack([d.square().sum(1) for d in layers], 1)))
        if "blocks" in features:
            squares = layers[0].square().view_as(x)
            found.append(_log(F.adaptive_avg_pool2d(squares.mean(1), 7).flatten(1) if x.ndim == 4 else squares))
    return torch.cat(found, 1)


def _log(errors: Tensor) -> Tensor:
    return errors.clamp_min(1e-9).log()


def _methods(score: Score, layers: list[Layer]) -> tuple[str, ...]:
    """What a model must have for the differences in these layers."""
    if not layers or not set(layers) <= set(_LAYERS):
        raise UserError(f"{type(score).__name__}: layers = {layers} must name at least one of {', '.join(_LAYERS)}")
    return ("reconstruct", *(["hidden"] if "hidden" in layers else []), *(["encode"] if "latent" in layers else []))


def _methods_for(score: Score, features: list[Feature]) -> tuple[str, ...]:
    """What a model must have for these features."""
    known = get_args(Feature)
    if not features or not set(features) <= set(known):
        raise UserError(f"{type(score).__name__}: features = {features} must name at least one of {', '.join(known)}")
    if "errors" in features:
        return _methods(score, _LAYERS)
    return ("encode",) if set(features) == {"code"} else ("encode", "reconstruct")


def _at_least(minimum: int, score: Score, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < minimum:
            raise UserError(f"{type(score).__name__}: {name} = {value} must be at least {minimum}")


def _noise(samples: int, like: Tensor, seed: int) -> Tensor:
    """(samples, 1, D), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 1, like.shape[1], generator=generator).to(like)
