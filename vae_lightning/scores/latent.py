"""Where a sample is in latent space, and among the errors of its reconstruction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .base import Score, at_least
from .features import Feature, latent_features, methods_for_features
from .sharing import each
from .whitening import Whitened, reservoir

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture


class Mahalanobis(Whitened):
    """(f(x) − m)ᵀ Σ⁻¹ (f(x) − m), of the code or of more features.

    Denouden et al. 2018, "Improving Reconstruction Autoencoder Out-of-distribution Detection with Mahalanobis
    Distance".

    Args:
        features: Any of ``code``: μ(x); ``difference``: μ(x) − μ(x̂); ``errors``: log ‖h_l(x) − h_l(x̂)‖² in each layer
            l, from x to the code; ``blocks``: log of the mean (x − x̂)² in each of 7 × 7 blocks of an image, of each
            feature of a table: not how large the error is but where.
        capacity, rank: See ``Whitened``.
    """

    def __init__(
        self,
        features: list[Feature] = ["code"],  # noqa: B006 (never changed)
        capacity: int = 8192,
        rank: int = 512,
    ) -> None:
        super().__init__(capacity, rank)
        self.features, self.requires = list(features), methods_for_features(self, features)

    def represent(self, model: Any, x: Tensor) -> Tensor:
        return latent_features(model, x, self.features)


class LatentDensity(Score):
    """−log Σ_k w_k N(f(x); m_k, Σ_k) in nats: a mixture of Gaussians fitted to features of normal samples by EM.

    Zong et al. 2018, "Deep Autoencoding Gaussian Mixture Model for Unsupervised Anomaly Detection", eq. 6, without the
    estimation network: the mixture is scikit-learn's.

    Args:
        components: Of the mixture. Several numbers, in rising order: they are tried until one gives samples that were
            left out of the fit, every tenth of them, a lower mean log-density than the one before; no label is needed.
        features: As for ``Mahalanobis``.
        regularization: Added to the diagonal of each Σ_k, as a share of each feature's variance.
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
        capacity: int = 8192,
        max_iter: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.components = components if isinstance(components, int) else list(components)
        self._candidates = [components] if isinstance(components, int) else sorted(components)
        at_least(1, self, components=min(self._candidates, default=0), capacity=capacity, max_iter=max_iter)
        if not 0 < regularization < math.inf:
            raise UserError(f"LatentDensity: regularization = {regularization} must be positive")
        self.features, self.regularization = list(features), regularization
        self.capacity, self.max_iter, self.seed = capacity, max_iter, seed
        self.requires = methods_for_features(self, features)
        for name in ("means", "cholesky", "log_weights"):
            self.register_buffer(name, torch.empty(0))

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        features = (latent_features(view, x, self.features) for view, x in each(model, train))
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
        from sklearn.exceptions import (
            ConvergenceWarning,
        )  # half a second of every start, that other scores need not take
        from sklearn.mixture import GaussianMixture

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
        capacity: Codes that are kept at most.
    """

    requires: tuple[str, ...] = ("encode",)
    center: Tensor
    codes: Tensor

    def __init__(self, k: int = 5, capacity: int = 8192) -> None:
        super().__init__()
        at_least(1, self, k=k)
        at_least(k, self, capacity=capacity)
        self.k, self.capacity = k, capacity
        for name in ("center", "codes"):
            self.register_buffer(name, torch.empty(0))

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        codes = (view.encode(x) for view, x in each(model, train))
        rows = reservoir(codes, self.capacity, self.k, "KNearestNeighbours")
        self.center = rows.mean(0)
        self.codes = rows - self.center  # short vectors: their squares cancel with little loss in ‖a‖² − 2ab + ‖b‖²

    def forward(self, model: Any, x: Tensor) -> Tensor:
        code = model.encode(x) - self.center
        # squared distances less ‖a‖², which changes no order; only those to the nearest are then summed term by term
        squares = self.codes.square().sum(1) - 2 * code @ self.codes.T
        nearest = self.codes[squares.topk(self.k, largest=False).indices]  # (B, k, D)
        return (code[:, None] - nearest).square().sum(2).sqrt().mean(1)
