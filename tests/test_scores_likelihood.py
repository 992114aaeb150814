"""What the likelihood scores and the reconstruction error are, by other means."""

import io
import math
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import mean_squared_error
from surface import samples, surface_model
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vae_lightning.models import VAE
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.scores import (
    InputComplexity,
    LikelihoodRegret,
    NegativeELBO,
    NegativeLogLikelihood,
    ReconstructionError,
    ReconstructionProbability,
    Score,
)


@pytest.fixture(scope="module")
def model() -> VAE:
    return surface_model()


@torch.no_grad()
def test_reconstruction_error_is_the_mean_squared_error(model: VAE) -> None:
    x = samples(50, 2)
    expected = [mean_squared_error(row, hat) for row, hat in zip(x, model.reconstruct(x), strict=True)]
    torch.testing.assert_close(ReconstructionError()(model, x), torch.tensor(expected).float())
    images = VAE([2, 3, 3], MLP([4]), 2)  # over all of an image's pixels
    x = torch.rand(5, 2, 3, 3)
    expected = ((x - images.reconstruct(x)) ** 2).view(5, 18).mean(1)
    torch.testing.assert_close(ReconstructionError()(images, x), expected)


@torch.no_grad()
def test_the_likelihood_scores_are_torchs(model: VAE) -> None:
    x = samples(50, 2)
    mu, logvar = model.encoder(x).chunk(2, 1)
    scale = torch.tensor(0.1)  # the likelihood's variance is 0.01
    nll = -Normal(model.decoder(mu)[:, 0], scale).log_prob(x).sum(1)
    kl = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(NegativeLogLikelihood()(model, x), nll, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(NegativeELBO()(model, x), nll + kl, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_monte_carlo_elbo_converges_to_its_closed_form() -> None:
    """A linear decoder: E_q ‖x − W z − b‖² = ‖x − W μ − b‖² + Σ_j σ_j² ‖w_j‖²."""
    torch.manual_seed(0)
    model = VAE([5], MLP([]), 2, Gaussian(0.7))
    x = torch.randn(20, 5)
    mu, logvar = model.posterior(x)
    weight, bias = model.decoder[-1][0].weight, model.decoder[-1][0].bias  # type: ignore[index]
    squares = (x - mu @ weight.T - bias).square().sum(1) + logvar.exp() @ weight.square().sum(0)
    nll = 0.5 * (squares / 0.7 + 5 * np.log(2 * np.pi * 0.7))
    expected = nll + kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    estimates = torch.stack([NegativeELBO(samples=2000, seed=seed)(model, x) for seed in range(20)])
    error = estimates.std(0) / 20**0.5
    assert error.max() < 0.05
    assert ((estimates.mean(0) - expected).abs() < 4.5 * error).all()
    assert not torch.equal(estimates[0], estimates[1])  # the seed has a say


def linear_model(sigma: float) -> tuple[VAE, Tensor]:
    """Decoder x = W z + N(0, σ²), WᵀW diagonal, so that the true posterior is diagonal; the encoder halves its mean."""
    w = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(0))).Q * torch.tensor([2.0, 1.0])
    model = VAE([6], network=MLP([]), latent_dim=2, likelihood=Gaussian(sigma**2)).eval()
    precision = 1 + w.square().sum(0) / sigma**2
    with torch.no_grad():
        model.decoder[0][0].weight.copy_(w)
        model.decoder[0][0].bias.zero_()
        model.encoder[0][1].weight.copy_(torch.cat([0.5 * w.T / sigma**2 / precision[:, None], torch.zeros(2, 6)]))
        model.encoder[0][1].bias.copy_(torch.cat([torch.zeros(2), -precision.log()]))
    return model, w


@torch.no_grad()
def test_reconstruction_probability_in_closed_form() -> None:
    model, w = linear_model(sigma=0.5)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    mu, logvar = model.posterior(x)
    spread = (logvar.exp() * w.square().sum(0)).sum(1)
    truth = 0.5 * (((x - mu @ w.T).square().sum(1) + spread) / 0.25 + 6 * math.log(2 * math.pi * 0.25))
    found = ReconstructionProbability(samples=20000)(model, x)
    torch.testing.assert_close(found, truth, rtol=0.01, atol=0.1)


@torch.no_grad()
def test_likelihood_regret_is_the_gap_to_the_evidence() -> None:
    # with a diagonal true posterior the best ELBO is log p(x) itself
    model, w = linear_model(sigma=0.5)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    marginal = torch.distributions.MultivariateNormal(torch.zeros(6), w @ w.T + 0.25 * torch.eye(6))
    gap = marginal.log_prob(x) + NegativeELBO(samples=5000)(model, x)
    found = LikelihoodRegret(steps=300, lr=0.02, samples=5000)(model, x)
    assert (gap > 0).all()
    torch.testing.assert_close(found, gap, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_likelihood_regret_is_that_of_its_best_step() -> None:
    """With steps far too long the last one is hardly ever the best."""
    model, _ = linear_model(sigma=0.5)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    regrets = torch.stack([LikelihoodRegret(steps, lr=0.7)(model, x) for steps in range(1, 9)])
    assert (regrets >= 0).all()
    assert (regrets.diff(dim=0) >= 0).all()
    assert (LikelihoodRegret(3, lr=100.0)(model, x) == 0).all()  # no step is better than the encoder


def test_likelihood_regret_leaves_the_models_gradients_alone() -> None:
    model, _ = linear_model(sigma=0.5)
    LikelihoodRegret(steps=2)(model, torch.randn(3, 6))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_input_complexity_is_the_compressed_length() -> None:
    class Flat(Score):
        requires = ()

        def forward(self, model: object, x: Tensor) -> Tensor:
            return torch.full((len(x),), 1000.0)

    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.full((3, 12, 12), 0.5), torch.rand(3, 12, 12, generator=generator)])
    lengths = []
    for image in (x * 255).round().byte().numpy():
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG", optimize=True)
        lengths.append([len(file.getvalue()), len(zlib.compress(image.tobytes(), 9))])
    expected = 1000 - 8 * math.log(2) * torch.tensor(lengths).float()
    torch.testing.assert_close(InputComplexity(Flat(), "png")(None, x), expected[:, 0])
    torch.testing.assert_close(InputComplexity(Flat(), "zlib")(None, x), expected[:, 1])
    assert expected[0, 0] > expected[1, 0]
