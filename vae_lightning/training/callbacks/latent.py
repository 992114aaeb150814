"""What the latent space holds: a Gaussian mixture as a classifier, and maps in two dimensions.

scikit-learn is imported where it is used: runs without these callbacks start half a second earlier.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...colours import BLACK, CLASS_COLOURS, CLASS_MARKERS
from ...data import ANOMALY, NORMAL, Loader
from ...errors import UserError
from .pictures import show


class LatentMixture(Callback):
    """At the end of a test, a Gaussian mixture in latent space as a classifier of the normal classes.

    Fitted by EM (from k-means) to the latent vectors of the training split, without labels. Each cluster is given the
    class that most normal validation samples in it have; a cluster with none is never right. On the normal test
    samples:

    ============= =========================================================================
    test/accuracy share whose cluster has their class
    test/nmi      normalised mutual information of clusters and classes, arithmetic mean
    test/ari      Rand index of clusters and classes, adjusted for chance
    ============= =========================================================================

    ``pictures/mixture.png`` in the run's folder shows the clusters on the two first principal components.

    Args:
        components: Gaussians, each with a full covariance matrix.
        seed: Of k-means.
        points: Samples at most in the picture.

    Raises:
        UserError: When the training split has fewer samples than the mixture has components.
    """

    def __init__(self, components: int = 10, seed: int = 0, points: int = 2500) -> None:
        if components < 1:
            raise UserError(f"LatentMixture: components = {components} must be at least 1")
        self.components, self.seed, self.points = components, seed, points

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from sklearn.decomposition import PCA
        from sklearn.mixture import GaussianMixture

        data = trainer.datamodule  # type: ignore[attr-defined]
        z_train, _, _ = latents(pl_module, data.loader("train"))
        z_val, val, _ = latents(pl_module, data.validation_normals_dataloader())
        z_test, test, label = latents(pl_module, data.test_dataloader())
        z_test, test = z_test[label == NORMAL], test[label == NORMAL]
        if len(z_train) < self.components:
            raise UserError(
                f"LatentMixture: components = {self.components} are too many for {len(z_train)} training samples"
            )
        mixture = GaussianMixture(self.components, init_params="kmeans", random_state=self.seed).fit(z_train)
        names = majority(mixture.predict(z_val), val, self.components)
        clusters = mixture.predict(z_test)
        for name, value in agreement(clusters, names, test).items():
            pl_module.log(f"test/{name}", value, sync_dist=True)  # every rank has worked on everything
        if z_test.shape[1] >= 2 and trainer.is_global_zero:
            some = np.linspace(0, len(z_test) - 1, min(self.points, len(z_test))).astype(int)
            plane = PCA(2).fit(z_train)
            centres = plane.transform(mixture.means_)
            picture = clusters_in(
                plane.transform(z_test[some]), clusters[some], test[some], centres, names, data.classes
            )
            show(trainer, picture, "mixture", "mixture", trainer.global_step)


class LatentMap(Callback):
    """At the end of a test, the latent vectors of test samples in two dimensions, by PCA and t-SNE.

    van der Maaten and Hinton 2008, "Visualizing Data using t-SNE". ``pictures/latent_map.png`` in the run's folder.

    Args:
        points: Test samples at most, drawn at random; t-SNE takes some 10 s for 2000.
        perplexity: Of t-SNE, about the number of neighbours that a sample is kept close to.
        seed: Of the draw and of t-SNE.
    """

    def __init__(self, points: int = 2000, perplexity: float = 30.0, seed: int = 0) -> None:
        if points < 3 or not 0 < perplexity < points:
            raise UserError(f"LatentMap: perplexity = {perplexity} must lie between 0 and points = {points}")
        self.points, self.perplexity, self.seed = points, perplexity, seed

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        z, target, label = latents(pl_module, data.test_dataloader())
        if z.shape[1] < 2:
            return
        some = np.random.default_rng(self.seed).permutation(len(z))[: self.points]
        z, target, label = z[some], target[some], label[some]
        pca = PCA(2).fit(z[label == NORMAL])
        perplexity = min(self.perplexity, (len(z) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=self.seed).fit_transform(z)
        picture = latent_map(pca.transform(z), tsne, target, label, data.classes)
        show(trainer, picture, "latent_map", "latent_map", trainer.global_step)


@torch.no_grad()
def latents(model: Any, loader: Loader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent means (N, d), classes (N,) and labels (N,) of a whole split, on every rank."""
    loader.rank, loader.world = 0, 1
    batches = [
        (model.encode(model.prepared(batch.x)).flatten(1).cpu().double(), batch.target, batch.label) for batch in loader
    ]
    z, target, label = (torch.cat(columns).cpu().numpy() for columns in zip(*batches, strict=True))
    return z, target, label


def majority(clusters: np.ndarray, target: np.ndarray, components: int) -> np.ndarray:
    """The class that most samples of each cluster have, (components,); −1 where a cluster has no samples."""
    names = np.full(components, -1)
    for cluster in np.unique(clusters):
        names[cluster] = np.bincount(target[clusters == cluster]).argmax()
    return names


def agreement(clusters: np.ndarray, names: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Accuracy of the clusters' names, and how well clusters (N,) and classes (N,) go together whatever the names."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "accuracy": float((names[clusters] == target).mean()),
        "nmi": float(normalized_mutual_info_score(target, clusters)),
        "ari": float(adjusted_rand_score(target, clusters)),
    }


def clusters_in(
    points: np.ndarray,
    clusters: np.ndarray,
    target: np.ndarray,
    centres: np.ndarray,
    names: np.ndarray,
    classes: list[str],
) -> Figure:
    """Test samples in the plane (N, 2): by true class, by their cluster's class, and one against the other."""
    figure = Figure(figsize=(16.5, 5.2), layout="constrained")
    true, found, table = figure.subplots(1, 3)
    found.sharex(true)
    found.sharey(true)
    for c in np.unique([*target, *names]):
        scatter(true, points[target == c], c, classes[c] if c >= 0 else "no class")
        scatter(found, points[names[clusters] == c], c, "")
    for name, centre in zip(names, apart(centres, 0.04 * np.ptp(points, axis=0).max()), strict=True):
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
        text = classes[name].split(" ")[0] if name >= 0 else "–"
        found.annotate(text, centre, ha="center", va="center", weight="bold", bbox=box)
    true.set(title="True classes", xlabel="principal component 1", ylabel="principal component 2")
    found.set(title="Clusters, by the class that each was given", xlabel="principal component 1")
    confusion(table, target, names[clusters], classes)
    figure.legend(*true.get_legend_handles_labels(), loc="outside left center", markerscale=2)
    figure.suptitle(f"Gaussian mixture on the latent means of {len(points):,} test samples")
    return figure


def confusion(axis: Axes, target: np.ndarray, given: np.ndarray, classes: list[str]) -> None:
    """Which class the samples of each class (N,) were given (N,), in percent of the class; no class is the last."""
    rows = np.unique(target)
    columns = [*np.unique([*target, *given[given >= 0]]), *([-1] if (given < 0).any() else [])]
    share = np.array([[(given[target == row] == column).mean() for column in columns] for row in rows])
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(share):
        if value >= 0.005:
            axis.text(j, i, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.5 else "black", size=8)
    named = ["none" if c < 0 else classes[c].split(" ")[0] for c in columns]
    axis.set_xticks(range(len(columns)), named, rotation=45 if max(map(len, named)) > 4 else 0)
    axis.set_yticks(range(len(rows)), [classes[c].split(" ")[0] for c in rows])
    axis.set(title="Confusion: true classes by row, in percent", xlabel="class of the cluster")


def apart(places: np.ndarray, distance: float) -> np.ndarray:
    """Places (N, 2) of labels, moved until each is about ``distance`` from the next: none hides another."""
    places = places + 1e-6 * np.random.default_rng(0).standard_normal(places.shape)  # none on top of another
    for _ in range(100):
        gaps = places[:, None] - places
        lengths = np.linalg.norm(gaps, axis=2, keepdims=True) + np.eye(len(places))[:, :, None]
        places = places + 0.25 * (np.clip(distance - lengths, 0, None) / lengths * gaps).sum(1)
    return places


def latent_map(pca: np.ndarray, tsne: np.ndarray, target: np.ndarray, label: np.ndarray, classes: list[str]) -> Figure:
    """Two maps (N, 2) of the same samples, normal ones by class, anomalies as black crosses."""
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    for axis, points, title, unit in zip(
        figure.subplots(1, 2), (pca, tsne), ("PCA", "t-SNE"), ("principal component", "t-SNE dimension"), strict=True
    ):
        for c in np.unique(target[label == NORMAL]):
            scatter(axis, points[(label == NORMAL) & (target == c)], c, classes[c])
        strange = points[label == ANOMALY]
        alpha = 0.9 if len(strange) < len(points) / 10 else 0.25  # many of them would hide the others
        axis.scatter(
            strange[:, 0], strange[:, 1], s=20, c="black", marker="x", linewidths=1, alpha=alpha, label="anomalies"
        )
        axis.set(title=title, xlabel=f"{unit} 1", ylabel=f"{unit} 2")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", markerscale=1.5)
    figure.suptitle(f"Latent means of {len(pca):,} test samples")
    return figure


def scatter(axis: Axes, points: np.ndarray, index: int, title: str) -> None:
    color, marker = CLASS_COLOURS[index % len(CLASS_COLOURS)], CLASS_MARKERS[index % len(CLASS_MARKERS)]
    if index < 0:  # no class
        color, marker = BLACK, "P"
    axis.scatter(points[:, 0], points[:, 1], s=13, alpha=0.6, color=color, marker=marker, linewidths=0, label=title)
