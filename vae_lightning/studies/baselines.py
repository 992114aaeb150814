"""What a detector has to beat: methods of scikit-learn on the raw features, on the same splits."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from ..data import AnomalyDataModule, Loader
from ..detection import Preprocessing

Scores = Callable[[np.ndarray, np.ndarray], np.ndarray]  # training (N, D), test (M, D) -> (M,), high is anomalous

CAPACITY = 10_000  # training samples of the support vector machine at most: its cost grows with their square


def one_class_svm(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Schölkopf et al. 2001, "Estimating the Support of a High-Dimensional Distribution"."""
    chosen = np.random.default_rng(0).permutation(len(train))[:CAPACITY]
    return -OneClassSVM(nu=0.1, gamma="scale").fit(train[chosen]).score_samples(test)


def isolation_forest(seed: int) -> Scores:
    """Liu, Ting and Zhou 2008, "Isolation Forest"."""
    return lambda train, test: -IsolationForest(n_estimators=200, random_state=seed).fit(train).score_samples(test)


def pca_reconstruction(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The squared distance to the plane of the first principal components, at most 32."""
    pca = PCA(min(32, *train.shape), svd_solver="covariance_eigh").fit(train)
    return np.square(test - pca.inverse_transform(pca.transform(test))).sum(1)


def nearest_neighbours(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The mean distance to the nearest training samples, at most 5."""
    neighbours = NearestNeighbors(n_neighbors=min(5, len(train)), algorithm="brute").fit(train)
    return neighbours.kneighbors(test)[0].mean(1)


# the forests differ in their seeds; the others know no chance
BASELINES: dict[str, list[Scores]] = {
    "one-class SVM": [one_class_svm],
    "isolation forest": [isolation_forest(seed) for seed in range(3)],
    "PCA reconstruction": [pca_reconstruction],
    "5 nearest neighbours": [nearest_neighbours],
}


def aurocs(data: AnomalyDataModule) -> dict[str, list[float]]:
    """Each baseline's AUROC on the test split, once for each of its seeds."""
    data.prepare_data()
    data.setup("test")
    preprocessing = copy.deepcopy(data.preprocessing)
    preprocessing.fit(batch.x for batch in data.reference_dataloader())
    (train, _), (test, labels) = (_arrays(data.loader(split), preprocessing) for split in ("train", "test"))
    return {
        name: [float(roc_auc_score(labels, scores(train, test))) for scores in variants]
        for name, variants in BASELINES.items()
    }


def _arrays(loader: Loader, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Features as the models see them, (N, D), and labels, (N,)."""
    batches = list(loader)
    x = torch.cat([preprocessing(batch.x).flatten(1) for batch in batches])
    return x.numpy(), torch.cat([batch.label for batch in batches]).numpy()
