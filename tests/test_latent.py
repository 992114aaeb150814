"""The latent mixture as a classifier, and the maps: on latent spaces whose clusters are known."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from sklearn.metrics import adjusted_rand_score

from vae_lightning.data import SyntheticMixture
from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.networks import MLP
from vae_lightning.training.callbacks import LatentMap, LatentMixture
from vae_lightning.training.callbacks.latent import agreement, apart, majority
from vae_lightning.training.callbacks.pictures import histogram, latent_pca


def identity(features):
    """A VAE whose latent means are its inputs."""
    model = VAE([features], MLP(hidden=[]), features)
    with torch.no_grad():
        model.encoder[0][1].weight.copy_(torch.eye(2 * features)[:, :features])
        model.encoder[0][1].bias.zero_()
    return model


def run(callback, folder, **kwargs):
    data = SyntheticMixture(samples=2000, components=4, variance=0.1, **kwargs)
    trainer = Trainer(
        accelerator="cpu",
        logger=TensorBoardLogger(folder, "", ""),
        callbacks=[callback],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (metrics,) = trainer.test(identity(data.features), data, verbose=False)
    return metrics


def test_the_mixture_finds_the_clusters_that_are_there(tmp_path):
    metrics = run(LatentMixture(components=4), tmp_path)
    assert metrics["test/accuracy"] > 0.99
    assert metrics["test/nmi"] > 0.98
    assert metrics["test/ari"] > 0.98
    assert imread(tmp_path / "pictures/mixture.png").std() > 0.05


def test_too_few_components_name_what_most_samples_are(tmp_path):
    """One cluster has one name, the commonest of four equally likely classes, and says nothing about the others."""
    metrics = run(LatentMixture(components=1), tmp_path)
    assert metrics["test/accuracy"] == pytest.approx(0.25, abs=0.05)
    assert metrics["test/nmi"] == pytest.approx(0, abs=1e-6)
    assert metrics["test/ari"] == pytest.approx(0, abs=1e-6)


def test_more_components_than_training_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"components = 3000 are too many for \d+ training samples"):
        run(LatentMixture(components=3000), tmp_path)
    with pytest.raises(UserError, match="components = 0"):
        LatentMixture(components=0)


def test_majority_and_agreement_on_a_case_done_by_hand():
    clusters, target = np.array([0, 0, 0, 1, 1, 3]), np.array([5, 5, 2, 2, 2, 5])
    names = majority(clusters, target, 4)
    assert names.tolist() == [5, 2, -1, 5]
    assert agreement(clusters, names, target)["accuracy"] == pytest.approx(5 / 6)
    renamed = np.array([2, 0, 3, 1])[clusters]
    assert agreement(clusters, names, target)["ari"] == adjusted_rand_score(renamed, target)
    empty = agreement(np.array([2, 2]), names, np.array([5, 2]))
    assert empty["accuracy"] == 0  # a cluster without a name is never right


def test_the_map_is_drawn_where_there_are_two_dimensions(tmp_path):
    run(LatentMap(points=200), tmp_path / "map", anomaly_fraction=0.2)
    assert imread(tmp_path / "map/pictures/latent_map.png").std() > 0.05
    run(LatentMap(), tmp_path / "line", features=1)
    assert not (tmp_path / "line/pictures").exists()


@pytest.mark.parametrize("arguments", [{"points": 2}, {"perplexity": 0.0}, {"points": 20, "perplexity": 30.0}])
def test_a_map_of_too_few_points_is_refused(arguments):
    with pytest.raises(UserError, match="LatentMap: perplexity"):
        LatentMap(**arguments)


def test_labels_are_moved_apart_and_no_further():
    crowded = np.array([[0.0, 0.0], [0.0, 0.0], [0.05, 0.0], [5.0, 5.0]])
    moved = apart(crowded, 0.3)
    gaps = np.linalg.norm(moved[:, None] - moved, axis=2)[~np.eye(4, dtype=bool)]
    assert gaps.min() > 0.29
    np.testing.assert_allclose(moved[3], crowded[3], atol=1e-4)
    assert np.abs(moved - crowded).max() < 0.5


def test_a_picture_says_which_samples_it_shows():
    label = torch.arange(20) % 2
    pictures = (
        histogram(torch.rand(20), label, 0.5, "Mahalanobis", title="Scores of test samples"),
        latent_pca(torch.rand(20, 3), label, title="Latent means of test samples"),
    )
    assert [picture.axes[0].get_title() for picture in pictures] == [
        "Scores of test samples",
        "Latent means of test samples",
    ]
    assert pictures[0].axes[0].get_xlabel().startswith("Mahalanobis")
    kinds = [text.get_text().split(" ")[0] for text in pictures[0].legends[0].get_texts()]
    assert sorted(kinds) == ["anomalous", "normal", "threshold"]
