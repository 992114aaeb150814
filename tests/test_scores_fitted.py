"""The scores that are fitted, each against an independent truth."""

import math

import numpy as np
import pytest
import sklearn.covariance
import sklearn.mixture
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from scipy.stats import chisquare
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from surface import samples, surface_model
from torch import Tensor, nn

from vae_lightning.detection import Unchanged
from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.networks import MLP, Conv
from vae_lightning.scores import (
    NAP,
    SAP,
    Combined,
    InputComplexity,
    KNearestNeighbours,
    LatentDensity,
    Mahalanobis,
    NegativeELBO,
    Neighbours,
    ReconstructionError,
    Score,
    Standardized,
    latent_features,
)
from vae_lightning.scores.whitening import ledoit_wolf, reservoir


@pytest.fixture(scope="module")
def model() -> VAE:
    return surface_model()


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    return list(samples(300, 1).split(64))


class Identity(nn.Module):
    """Encodes x as itself."""

    def encode(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (200, 5)])
def test_ledoit_wolf_is_scikit_learns(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).double() * torch.linspace(0.1, 3, shape[1]) + 1
    truth = sklearn.covariance.LedoitWolf().fit(x.numpy())
    covariance = ledoit_wolf(x, rank=100)
    outside = torch.eye(shape[1]).double() - covariance.directions @ covariance.directions.T
    sigma = covariance.directions @ torch.diag(covariance.variances) @ covariance.directions.T
    sigma = sigma + (0 if covariance.rest.isinf() else covariance.rest * outside)
    np.testing.assert_allclose(sigma, truth.covariance_, atol=1e-10)


def test_ledoit_wolf_keeps_the_total_variance_with_few_directions() -> None:
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    whole, part = ledoit_wolf(x, rank=20), ledoit_wolf(x, rank=3)
    torch.testing.assert_close(part.variances, whole.variances[:3])
    assert part.variances.sum() + 17 * part.rest == pytest.approx(float(whole.variances.sum()))


@pytest.mark.parametrize("n", [8, 100])
def test_mahalanobis_is_scikit_learns(n: int) -> None:
    x = torch.randn(n, 20, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, 20)
    score = Mahalanobis()
    score.fit(Identity(), [x], [])
    truth = sklearn.covariance.LedoitWolf().fit(x.numpy())
    new = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(score(Identity(), new), truth.mahalanobis(new.numpy()), rtol=1e-4)


@pytest.mark.parametrize("score", [Mahalanobis(), LatentDensity(components=2)])
def test_codes_that_do_not_vary(score: Score) -> None:
    score.fit(Identity(), [torch.ones(20, 3)], [])
    scores = score(Identity(), torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.1]]))
    assert scores.isfinite().all()
    assert scores[0] < scores[1]


def test_latent_density_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 3, generator=generator) + m for m in (0.0, 5.0)])
    x = x * torch.tensor([1.0, 10.0, 0.1]) - 3
    score = LatentDensity(components=2, regularization=1e-3)
    score.fit(Identity(), x.split(100), [])
    scaler = StandardScaler().fit(x.double().numpy())
    truth = sklearn.mixture.GaussianMixture(2, reg_covar=1e-3, random_state=0, max_iter=200)
    truth.fit(scaler.transform(x.double().numpy()))
    new = 4 * torch.randn(50, 3, generator=generator)
    expected = np.log(scaler.scale_).sum() - truth.score_samples(scaler.transform(new.double().numpy()))
    np.testing.assert_allclose(score(Identity(), new), expected, rtol=1e-4)


def test_the_number_of_components_is_the_one_that_left_out_samples_ask_for() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = 8 * torch.eye(3)[torch.randint(3, (600,), generator=generator)]
    x = centers + torch.randn(600, 3, generator=generator)
    scaled = StandardScaler().fit_transform(x.numpy())
    left_out, rest = scaled[::10], np.delete(scaled, np.s_[::10], axis=0)
    truth = {k: sklearn.mixture.GaussianMixture(k, reg_covar=1e-3, random_state=0).fit(rest) for k in (1, 3, 60)}
    density = {k: mixture.score(left_out) for k, mixture in truth.items()}
    assert density[3] > max(density[1], density[60])
    score = LatentDensity([1, 3, 60, 1000], regularization=1e-3)
    score.fit(Identity(), x.split(100), [])
    assert len(score.means) == 3
    expected = torch.from_numpy(truth[3].means_) * x.std(0, correction=0) + x.mean(0)
    torch.testing.assert_close(score.means.sort(0).values, expected.float().sort(0).values, rtol=1e-3, atol=1e-3)
    few = LatentDensity([2, 30])
    few.fit(Identity(), [x[:40]], [])
    assert len(few.means) == 2  # 30 components are not tried on 40 samples


@torch.no_grad()
def test_features_of_images_say_where_the_error_is() -> None:
    torch.manual_seed(0)
    model = VAE([3, 14, 28], network=Conv([4]), latent_dim=2).eval()
    x = torch.rand(5, 3, 14, 28)
    features = latent_features(model, x, ["code", "difference", "errors", "blocks"])
    assert features.shape == (5, 2 + 2 + 3 + 49)
    torch.testing.assert_close(features[:, :2], model.encode(x))
    d = (x - model.reconstruct(x)).square()
    torch.testing.assert_close(features[:, 4].exp(), d.sum((1, 2, 3)))
    torch.testing.assert_close(features[:, -1].exp(), d[:, :, -2:, -4:].mean((1, 2, 3)))


@pytest.mark.parametrize("size", [(14, 28), (28, 28), (9, 33), (5, 7), (3, 1)])
@torch.no_grad()
def test_blocks_are_those_of_adaptive_pooling(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = VAE([2, *size], MLP([4]), 2).eval()
    x = torch.rand(5, 2, *size)
    squares = (x - model.reconstruct(x)).square().mean(1)
    expected = F.adaptive_avg_pool2d(squares, 7).flatten(1).log()
    torch.testing.assert_close(latent_features(model, x, ["blocks"]), expected)


def test_nearest_neighbours_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    x, new = torch.randn(100, 4, generator=generator), torch.randn(20, 4, generator=generator)
    score = KNearestNeighbours(k=3)
    score.fit(Identity(), x.split(30), [])
    truth, _ = NearestNeighbors(n_neighbors=3).fit(x.numpy()).kneighbors(new.numpy())
    np.testing.assert_allclose(score(Identity(), new), truth.mean(1), rtol=1e-5)


def test_nearest_neighbours_far_from_the_origin() -> None:
    """‖a‖² − 2ab + ‖b‖² of vectors as they come would have no digit left here."""
    generator = torch.Generator().manual_seed(0)
    x, new = (1000 + 0.1 * torch.randn(n, 4, generator=generator) for n in (100, 20))
    score = KNearestNeighbours(k=3)
    score.fit(Identity(), [x], [])
    truth, _ = NearestNeighbors(n_neighbors=3).fit(x.double().numpy()).kneighbors(new.double().numpy())
    np.testing.assert_allclose(score(Identity(), new), truth.mean(1), rtol=1e-3)


def test_reservoir_is_a_uniform_draw_of_bounded_size() -> None:
    counts = np.zeros(50)
    for start in range(400):  # 50 places in the stream, at another offset each time
        rows = torch.arange(start, start + 50)
        drawn = reservoir(rows.roll(-7 * start).split(13), 20, 1, "it")
        assert len(drawn) == len(drawn.unique()) == 20
        counts[drawn.numpy() - start] += 1
    assert chisquare(counts).pvalue > 1e-3
    torch.testing.assert_close(reservoir([rows], 20, 1, "it"), reservoir(rows.split(9), 20, 1, "it"))
    torch.testing.assert_close(reservoir(rows.split(9), 50, 1, "it"), rows)


@pytest.mark.parametrize(
    ("score", "needed"), [(LatentDensity(components=10), 20), (KNearestNeighbours(k=8), 8), (Mahalanobis(), 2)]
)
def test_too_few_training_samples(score: Score, needed: int) -> None:
    with pytest.raises(
        UserError, match=f"{type(score).__name__} needs {needed} normal .* the training split has {needed - 1}:"
    ):
        score.fit(Identity(), [torch.randn(needed - 1, 3)], [])


def test_a_ruined_model_is_not_fitted_on() -> None:
    with pytest.raises(UserError, match="Mahalanobis cannot be fitted: the model's outputs are NaN"):
        Mahalanobis().fit(Identity(), [torch.full((9, 3), math.nan)], [])


@torch.no_grad()
def test_pathway_scores_by_hand(model: VAE, batches: list[Tensor]) -> None:
    x = samples(5, 4)
    r = model.reconstruct(x)
    d = [x - r]
    for block in model.encoder[:-1]:
        x, r = block(x), block(r)
        d.append(x - r)
    d.append((model.encoder[-1](x) - model.encoder[-1](r))[:, :2])
    torch.testing.assert_close(SAP()(model, samples(5, 4)), torch.cat(d, 1).square().sum(1))
    torch.testing.assert_close(SAP(["input"])(model, samples(5, 4)) / 10, ReconstructionError()(model, samples(5, 4)))
    torch.testing.assert_close(NAP().represent(model, samples(5, 4)), torch.cat(d, 1))
    nap = NAP(capacity=10_000)
    nap.fit(model, batches, [])
    # the mean squared distance of what Σ was fitted on is its rank, at most: less where the shrinkage adds variance
    assert 5 < torch.cat([nap(model, x) for x in batches]).mean() < 10 + 32 + 16 + 2


@torch.no_grad()
def test_combined_is_the_mean_of_standard_scores(model: VAE, batches: list[Tensor]) -> None:
    val, x = [samples(150, 9), samples(7, 10)], samples(20, 5)
    parts = [KNearestNeighbours(k=2), NegativeELBO()]
    combined = Combined(parts, weights=[1.0, 3.0])
    combined.fit(model, batches, val)
    alone = KNearestNeighbours(k=2)
    alone.fit(model, batches, val)
    expected = torch.zeros(20)
    for weight, part in ((1.0, alone), (3.0, NegativeELBO())):
        scores = part(model, torch.cat(val)).numpy()
        expected += weight * (part(model, x) - scores.mean()) / scores.std(ddof=1)
    torch.testing.assert_close(combined(model, x), expected, rtol=1e-4, atol=1e-4)
    equal = Combined([alone, NegativeELBO()])
    equal.fit(model, batches, val)
    assert torch.cat([equal(model, x) for x in val]).mean().abs() < 1e-4
    assert equal(model, torch.cat(val)).std() > 0.5  # of two standard scores' mean, were they independent: 0.7


@torch.no_grad()
def test_standardized_is_in_standard_deviations_of_training_samples(model: VAE, batches: list[Tensor]) -> None:
    train, x = torch.cat(batches), samples(20, 5)
    score = Standardized(NegativeELBO())
    score.fit(model, batches, [])
    own = NegativeELBO()(model, train).numpy()
    torch.testing.assert_close(score(model, x), (NegativeELBO()(model, x) - own.mean()) / own.std())
    with pytest.raises(UserError, match="in standard deviations already"):
        Standardized(Neighbours())


def test_a_checkpoint_brings_nested_scores_back(tmp_path, model: VAE, batches: list[Tensor]) -> None:
    torch.manual_seed(0)
    scores = [
        Combined([NAP(["hidden"]), InputComplexity(NegativeELBO(samples=2), "zlib")]),
        LatentDensity(components=2),
    ]
    saved = VAE([10], network=MLP([32, 16]), latent_dim=2, scores=scores, preprocessing=Unchanged()).eval()
    saved.detector.fit(batches, batches)
    saved.detector.calibrate(batches)
    trainer = Trainer(max_epochs=0, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(saved)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = VAE.load_from_checkpoint(tmp_path / "model.ckpt")
    for name, expected in saved.detector(batches[0]).each.items():
        assert torch.equal(loaded.detector(batches[0]).each[name], expected)
