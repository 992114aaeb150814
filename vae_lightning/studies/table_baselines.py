"""What a detector of tables has to beat: methods of scikit-learn and PyOD on standardised rows, on the same splits."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from ..data import AnomalyDataModule
from ..detection import Standardize
from ..errors import UserError
from .baselines import one_class_svm

NEURAL_CAPACITY = 5_000  # training rows of PyOD's networks at most: they take 10 and 30 epochs of batches of 32

Method = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # training (N, D), test (M, D), seed -> (M,)


def nearest_neighbours(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """The mean distance to the nearest training rows, at most 5."""
    return NearestNeighbors(n_neighbors=min(5, len(train))).fit(train).kneighbors(test)[0].mean(1)


def local_outlier_factor(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Breunig et al. 2000, "LOF: Identifying Density-Based Local Outliers", of at most 20 neighbours."""
    fitted = LocalOutlierFactor(n_neighbors=min(20, len(train) - 1), novelty=True).fit(train)
    return -fitted.score_samples(test)


def isolation_forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Liu, Ting and Zhou 2008, "Isolation Forest"."""
    return -IsolationForest(n_estimators=200, random_state=seed).fit(train).score_samples(test)


def pca(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Shyu et al. 2003, PyOD's; no more components than the rows have directions: it divides by their variances."""
    rank = int(np.linalg.matrix_rank(train - train.mean(0)))
    return _pyod("pca", "PCA")(n_components=rank, random_state=seed).fit(train).decision_function(test)


def copula(module: str, name: str) -> Method:
    """A method of PyOD without a seed, with its defaults."""
    return lambda train, test, seed: _pyod(module, name)().fit(train).decision_function(test)


def neural(module: str, name: str) -> Method:
    """A network of PyOD, with its defaults."""

    def scores(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        chosen = np.random.default_rng(0).permutation(len(train))[:NEURAL_CAPACITY]
        detector = _pyod(module, name)(random_state=seed, device="cpu", verbose=0)
        found: np.ndarray = detector.fit(train[chosen]).decision_function(test)
        return found

    return scores


def _pyod(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"pyod.models.{module}"), name)
    except ImportError:
        raise UserError(f"{name} needs pyod: pip install 'vae_lightning[benchmark]', or --no_baselines") from None


METHODS: dict[str, Method] = {
    "kNN": nearest_neighbours,
    "LOF": local_outlier_factor,
    "isolation forest": isolation_forest,
    "one-class SVM": lambda train, test, seed: one_class_svm(train, test),
    "PCA": pca,
    "ECOD": copula("ecod", "ECOD"),
    "COPOD": copula("copod", "COPOD"),
    "PyOD AutoEncoder": neural("auto_encoder", "AutoEncoder"),
    "PyOD VAE": neural("vae", "VAE"),
}


def figures(method: str, data: AnomalyDataModule, seed: int) -> dict[str, float]:
    """AUROC and average precision of a method on the test part, and the seconds that it took.

    It has all of the training part: what others validate and calibrate on, too.
    """
    parts = data.load()
    standardize = Standardize()
    standardize.fit([parts[0].x])
    train, test = (standardize(part.x).numpy() for part in parts)
    start = time.perf_counter()
    scores = np.nan_to_num(METHODS[method](train, test, seed), nan=np.inf)
    seconds = time.perf_counter() - start
    labels, scores = parts[1].target.numpy(), scores.clip(-1e30, 1e30)
    auroc, ap = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    return {"auroc": float(auroc), "average_precision": float(ap), "seconds": seconds}
