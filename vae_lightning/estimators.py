"""The scikit-learn interface: the same models, the same Trainer, the same detector."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .data import Arrays
from .detection import Conformal, conformal
from .models import VAE, AnomalyModel, Autoencoder, Ensemble
from .models.likelihoods import Gaussian, Likelihood
from .models.networks import MLP, Network
from .scores import Score
from .training.fitting import fit

FEWEST_ROWS = 4  # one to validate on, one to calibrate on, two to train on


class _Detector(OutlierMixin, BaseEstimator):
    """What both detectors share: everything but the model."""

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        members: int = 1,
        network: list[int] | Network | None = None,
        latent_dim: int | None = None,
        likelihood: Likelihood | None = None,
        scores: list[Score] | None = None,
        max_epochs: int = 50,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        val_fraction: float = 0.1,
        random_state: Any = None,
        verbose: bool = False,
        device: str = "auto",
    ) -> None:
        self.alpha, self.members = alpha, members
        self.network, self.latent_dim, self.likelihood = network, latent_dim, likelihood
        self.scores = scores
        self.max_epochs, self.batch_size, self.learning_rate = max_epochs, batch_size, learning_rate
        self.val_fraction, self.random_state = val_fraction, random_state
        self.verbose, self.device = verbose, device

    @abstractmethod
    def _model(self, **arguments: Any) -> AnomalyModel:
        """The model that is trained, given the arguments that both models take."""

    def fit(self, X: Any, y: Any = None) -> Any:
        """Train on normal rows, and calibrate on some of them that are held out.

        Parameters
        ----------
        X : array or DataFrame of shape (n_samples, n_features)
            Normal rows: finite numbers, four rows or more.
        y : ignored

        Returns
        -------
        self
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32), ensure_min_samples=FEWEST_ROWS)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        data = Arrays(X, test_fraction=0, batch_size=self.batch_size, seed=seed, **self._held_out(len(X)))
        if hasattr(self, "feature_names_in_"):
            data.columns = list(self.feature_names_in_)
        widths = [64, 32] if self.network is None else self.network
        model = self._model(
            input_shape=[X.shape[1]],
            network=widths if isinstance(widths, Network) else MLP(list(widths)),
            latent_dim=max(1, min(8, X.shape[1] // 2)) if self.latent_dim is None else self.latent_dim,
            scores=self.scores,
            threshold=Conformal(self.alpha),
            optimizer=partial(torch.optim.Adam, lr=self.learning_rate),
        )
        if self.members > 1:
            model = Ensemble([X.shape[1]], model, self.members)
        options: dict[str, Any] = {"verbose": bool(self.verbose), "device": self.device}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*nothing raises an alarm")  # said below, for a caller of this method
            run = fit(model, data, max_epochs=self.max_epochs, seed=seed, **options)
        self.detector_, self.n_iter_ = run.detector, run.epochs
        self.offset_ = -self.detector_.threshold.value.item()
        if not self.detector_.threshold.reachable:
            warnings.warn(self.detector_.threshold.describe(), stacklevel=2)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """The higher, the more normal: the negative score that decides, float64 (n_samples,)."""
        return -self._scored(X).score.astype(np.float64)

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples(X) - offset_``, float64 (n_samples,): negative where there is an alarm.

        Where ``alpha`` is out of reach nothing raises an alarm, and all of it is +∞.
        """
        score = self.score_samples(X)
        return np.full_like(score, np.inf) if self.offset_ == -np.inf else score - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """−1 for an anomaly, 1 for a normal row, int (n_samples,)."""
        return np.where(self._scored(X).anomaly, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """The share of normal rows that score at least as high, float64 (n_samples,), in (0, 1]."""
        return self._scored(X).p_value.astype(np.float64)

    def _scored(self, X: Any) -> Any:
        check_is_fitted(self)
        return self.detector_(validate_data(self, X, reset=False, dtype=(np.float64, np.float32)))

    def _held_out(self, rows: int) -> dict[str, Any]:
        """Shares for validation and calibration: few rows calibrate as many as alpha needs, if half are left."""
        validation = max(1, round(self.val_fraction * rows))
        needed = conformal.needed(Conformal(self.alpha).alpha)
        calibration = needed if validation < needed <= rows // 2 - validation else validation
        if validation + calibration + 2 > rows:
            calibration = max(1, rows - validation - 2)
        return {"val_fraction": self.val_fraction, "calibration_fraction": calibration / rows}


class VAEDetector(_Detector):
    """Detect anomalies in a table with a variational autoencoder trained on normal rows.

    Rows are standardised. One share of them is held out for validation, an equal share for calibration, and the epoch
    with the smallest validation loss is kept. At most a share ``alpha`` of new normal rows raises an alarm, on
    average over calibration sets: see ``Conformal``. Nothing is written to disk.

    Parameters
    ----------
    alpha : float, default=0.05
        The rate of false alarms to allow, in (0, 1). 0.05 needs 19 rows for calibration, 0.01 needs 99.
    members : int, default=1
        Networks that differ in their initial weights and are trained at once; a row's score is their mean.
    network : list of int or Network, default=None
        Widths of the encoder's hidden layers, which the decoder mirrors, or an architecture; None: ``[64, 32]``.
    latent_dim : int, default=None
        Size of the code; None: half of the columns, at most 8.
    likelihood : Likelihood, default=None
        Of a standardised row; None: a Gaussian whose one variance is learned.
    beta : float or Annealing, default=1.0
        Weight of the KL term.
    scores : list of Score, default=None
        What counts as anomalous; the first one decides. None: the reconstruction error.
    max_epochs : int, default=50
        Epochs of training.
    batch_size : int, default=128
        Rows a training step.
    learning_rate : float, default=1e-3
        Of Adam.
    val_fraction : float, default=0.1
        Share of the rows held out for validation.
    random_state : int, RandomState or None, default=None
        Of the split, the weights and the noise. An int gives the same scores each time.
    verbose : bool, default=False
        Show a progress bar.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Attributes
    ----------
    detector_ : Detector
        The detector: it can be saved, and does more than this interface.
    offset_ : float
        ``score_samples`` below this raise an alarm; −∞ if alpha cannot be reached.
    n_features_in_ : int
        Columns.
    feature_names_in_ : array of str
        Their names, if they have names.
    n_iter_ : int
        Epochs trained.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        members: int = 1,
        network: list[int] | Network | None = None,
        latent_dim: int | None = None,
        likelihood: Likelihood | None = None,
        beta: Any = 1.0,
        scores: list[Score] | None = None,
        max_epochs: int = 50,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        val_fraction: float = 0.1,
        random_state: Any = None,
        verbose: bool = False,
        device: str = "auto",
    ) -> None:
        super().__init__(
            alpha=alpha,
            members=members,
            network=network,
            latent_dim=latent_dim,
            likelihood=likelihood,
            scores=scores,
            max_epochs=max_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            val_fraction=val_fraction,
            random_state=random_state,
            verbose=verbose,
            device=device,
        )
        self.beta = beta

    def _model(self, **arguments: Any) -> AnomalyModel:
        return VAE(**arguments, likelihood=self.likelihood or Gaussian(), beta=self.beta)


class AutoencoderDetector(_Detector):
    """Detect anomalies in a table with an autoencoder trained on normal rows.

    Parameters and attributes are those of ``VAEDetector``, without ``beta``. ``likelihood`` None is the
    mean squared error.
    """

    def _model(self, **arguments: Any) -> AnomalyModel:
        return Autoencoder(**arguments, likelihood=self.likelihood)
