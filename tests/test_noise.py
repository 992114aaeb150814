"""Noise of each sample's own: normal, independent, and a function of nothing but the sample and the seed."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from vae_lightning.models import VAE
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.scores import (
    ImportanceWeighted,
    LikelihoodRegret,
    NegativeELBO,
    ReconstructionProbability,
    Score,
    sample_noise,
)

X = {
    "normal": torch.randn(2000, 20, generator=torch.Generator().manual_seed(0)),
    "levels": torch.arange(2000)[:, None].expand(2000, 5) / 255,
    "close": 0.5 + torch.arange(2000)[:, None] * 2.0**-24,  # neighbours among float32
    "one-hot": torch.eye(2000),
    "images": torch.rand(2000, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round(),
}


@pytest.mark.parametrize("name", X)
def test_it_is_normal_and_independent(name: str) -> None:
    x = X[name].flatten(1).unique(dim=0)
    noise = sample_noise(x, 16, 10, seed=0).double()
    assert noise.shape == (16, len(x), 10)
    assert kstest(noise.flatten(), "norm").pvalue > 1e-3
    assert noise.mean().abs() < 4 / noise.numel() ** 0.5
    assert abs(noise.var() - 1) < 4 * (2 / noise.numel()) ** 0.5
    rows = noise.transpose(0, 1).flatten(1)[:1000]  # (samples, draws × features)
    for values in (rows, rows.square()):
        for table in (values, values.T):  # between samples, between draws and features
            correlation = torch.corrcoef(table).fill_diagonal_(0)
            assert correlation.abs().max() < 8 / table.shape[1] ** 0.5
            assert correlation.square().mean() == pytest.approx(1 / table.shape[1], rel=0.05)


def test_its_law_holds_for_every_seed() -> None:
    """Over seeds, the p-values of a test that holds are uniform: of one sample, of one draw, of all."""
    for n, samples in ((1, 1000), (1000, 1), (100, 10)):
        draws = [sample_noise(X["normal"][:n], samples, 3, seed).flatten() for seed in range(-100, 100)]
        assert kstest([kstest(draw, "norm").pvalue for draw in draws], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", X)
def test_it_is_the_samples_own(name: str) -> None:
    x = X[name][:100]
    whole = sample_noise(x, 5, 7, seed=3)
    for size in (1, 7, 64):
        assert torch.equal(torch.cat([sample_noise(part, 5, 7, seed=3) for part in x.split(size)], 1), whole)
    assert torch.equal(sample_noise(x.flip(0), 5, 7, seed=3), whole.flip(1))
    assert torch.equal(sample_noise(x.repeat(2, *[1] * (x.ndim - 1)), 5, 7, seed=3), whole.repeat(1, 2, 1))
    assert torch.equal(sample_noise(x, 3, 7, seed=3), whole[:3])  # more draws go on from fewer
    assert sample_noise(x[:0], 5, 7, seed=3).shape == (5, 0, 7)
    assert len(whole[0].unique(dim=0)) == len(x.unique(dim=0))


def test_every_feature_and_the_seed_matter() -> None:
    x = torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([x, x + 1e-6 * torch.eye(6), x + torch.eye(6), x.flip(1), -x, torch.zeros(1, 6)])
    assert len(sample_noise(changed, 1, 4, 0)[0].unique(dim=0)) == len(changed)
    seeds = [0, 1, -1, 2**31 - 1, 2**31, 2**40, 2**62]
    assert len(torch.cat([sample_noise(x, 1, 4, seed) for seed in seeds]).unique(dim=0)) == len(seeds)


@pytest.mark.parametrize("x", [1e30, -1e30, math.inf, -math.inf, 1e-40])
def test_it_is_finite_whatever_the_sample(x: float) -> None:
    assert sample_noise(torch.tensor([[x, 1.0]]), 3, 5, 0).isfinite().all()


# In the scores


@pytest.fixture
def model() -> VAE:
    """A linear decoder of 20 latent dimensions, and an encoder that knows little."""
    torch.manual_seed(0)
    model = VAE([40], MLP([]), 20, Gaussian(0.5)).eval()
    with torch.no_grad():
        model.decoder[0][0].weight.normal_(0, 0.3)  # type: ignore[index, operator]
    return model


def spread(bounds: Tensor) -> float:
    """The standard deviation over seeds of a mean over the test set: (seeds, samples)."""
    return float(bounds.mean(1).std())


@torch.no_grad()
def test_errors_of_a_mean_over_samples_average_out(model: VAE) -> None:
    """As with independent draws. One draw for all samples makes the mean's error three times as large here."""
    x = torch.randn(400, 40)
    mu, logvar = model.posterior(x)

    def independent(noise: Tensor) -> Tensor:
        log_p, log_ratio = model.log_weights(x, mu + (0.5 * logvar).exp() * noise, noise, logvar)
        return math.log(10) - (log_p + log_ratio).logsumexp(0)

    ours = torch.stack([ImportanceWeighted(10, seed)(model, x) for seed in range(100)])
    truth = torch.stack([independent(torch.randn(10, 400, 20)) for _ in range(100)])
    one_for_all = torch.stack([independent(torch.randn(10, 1, 20)) for _ in range(100)])
    error = (spread(ours) ** 2 + spread(truth) ** 2) ** 0.5 / 10
    assert abs(ours.mean() - truth.mean()) < 4 * error
    assert 0.7 < spread(ours) / spread(truth) < 1.4
    assert spread(one_for_all) > 3 * spread(truth)  # there is something to be told apart


@torch.no_grad()
@pytest.mark.parametrize(
    "build",
    [
        lambda seed: NegativeELBO(4, seed),
        lambda seed: ImportanceWeighted(4, seed),
        lambda seed: ReconstructionProbability(4, seed),
        lambda seed: LikelihoodRegret(3, samples=4, seed=seed),
    ],
    ids=["NegativeELBO", "ImportanceWeighted", "ReconstructionProbability", "LikelihoodRegret"],
)
def test_no_two_samples_share_their_errors(build, model: VAE) -> None:
    """Over seeds the scores of 30 samples are as uncorrelated as independent numbers are."""

    def of_seed(seed: int) -> Tensor:
        score: Score = build(seed)
        return score(model, x)

    x = torch.randn(30, 40)
    correlation = torch.corrcoef(torch.stack([of_seed(seed) for seed in range(100)], 1)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.55
    assert correlation.mean().abs() < 0.02
