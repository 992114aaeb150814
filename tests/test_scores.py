"""One contract for every score, on a VAE that was trained for a moment; and what each one is, by other means."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from sklearn.metrics import mean_squared_error, roc_auc_score
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vae_lightning.data import ANOMALY, NORMAL, GaussianMixture
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.scores import ImportanceWeighted, NegativeELBO, NegativeLogLikelihood, ReconstructionError, Score

# A new score costs one line here.
SCORES: dict[str, Callable[[], Score]] = {
    "ReconstructionError": ReconstructionError,
    "NegativeLogLikelihood": NegativeLogLikelihood,
    "NegativeELBO": NegativeELBO,
    "NegativeELBO(samples=16)": lambda: NegativeELBO(samples=16),
    "ImportanceWeighted(k=16)": lambda: ImportanceWeighted(k=16),
}


@pytest.fixture(scope="module")
def trained() -> tuple[VAE, GaussianMixture]:
    seed_everything(0, verbose=False)
    data = GaussianMixture(samples=1500, anomaly_fraction=0.1, anomaly_variance=6.0)
    model = VAE(
        data.input_shape, MLP([32]), 3, Gaussian("shared"), optimizer=lambda p: torch.optim.Adam(p, lr=1e-2), beta=0.5
    )
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    Trainer(accelerator="cpu", max_epochs=15, **quiet).fit(model, data)
    return model.eval(), data


@pytest.fixture(params=SCORES)
def fitted(request: pytest.FixtureRequest, trained: tuple[VAE, GaussianMixture]) -> Score:
    model, data = trained
    score = SCORES[request.param]()
    score.check(model)
    with torch.no_grad():
        score.fit(model, [batch.x for batch in data.calibration_dataloader()])
    return score


@pytest.fixture
def scored(trained: tuple[VAE, GaussianMixture]) -> tuple[Tensor, Tensor]:
    batches = list(trained[1].test_dataloader())
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.label for batch in batches])


# The contract


@torch.no_grad()
def test_planted_anomalies_score_higher(fitted: Score, trained: tuple[VAE, Any], scored: tuple[Tensor, Tensor]) -> None:
    x, label = scored
    scores = fitted(trained[0], x)
    assert scores.shape == (len(x),)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert scores[label == ANOMALY].mean() > scores[label == NORMAL].mean()
    assert roc_auc_score(label, scores) > 0.9
    assert fitted(trained[0], 100 * x).isfinite().all()


@torch.no_grad()
def test_a_score_is_deterministic(fitted: Score, trained: tuple[VAE, Any], scored: tuple[Tensor, Tensor]) -> None:
    x, _ = scored
    torch.manual_seed(1)
    first = fitted(trained[0], x)
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(1).get_state())  # nothing drawn from it
    torch.manual_seed(2)
    assert torch.equal(fitted(trained[0], x), first)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_score_is_of_each_sample_alone(
    size: int, fitted: Score, trained: tuple[VAE, Any], scored: tuple[Tensor, Tensor]
) -> None:
    """The order of sums within a matrix product may change with the size of a batch, nothing else."""
    x = scored[0][:64]
    whole = fitted(trained[0], x)
    parts = torch.cat([fitted(trained[0], part) for part in x.split(size)])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fitted(trained[0], x[order]), whole[order], rtol=1e-5, atol=1e-5)
    assert fitted(trained[0], x[:0]).shape == (0,)


@torch.no_grad()
def test_what_a_score_has_learned_is_in_its_state_dict(
    request: pytest.FixtureRequest, fitted: Score, trained: tuple[VAE, Any], scored: tuple[Tensor, Tensor]
) -> None:
    fresh = SCORES[request.node.callspec.params["fitted"]]()
    fresh.load_state_dict(fitted.state_dict())
    assert not any(buffer.dtype == torch.float64 for buffer in fitted.buffers())  # not every accelerator has doubles
    x, _ = scored
    assert torch.equal(fresh(trained[0], x), fitted(trained[0], x))


def test_a_score_leaves_the_model_as_it_was(
    fitted: Score, trained: tuple[VAE, Any], scored: tuple[Tensor, Any]
) -> None:
    model = trained[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        fitted(model, scored[0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training


# Each one, by other means


@torch.no_grad()
def test_reconstruction_error_is_the_mean_squared_error(trained: tuple[VAE, Any], scored: tuple[Tensor, Any]) -> None:
    model, x = trained[0], scored[0]
    expected = [mean_squared_error(row, hat) for row, hat in zip(x, model.reconstruct(x), strict=True)]
    torch.testing.assert_close(ReconstructionError()(model, x), torch.tensor(expected).float())
    images = VAE([2, 3, 3], MLP([4]), 2)  # over all of an image's pixels
    x = torch.rand(5, 2, 3, 3)
    expected = ((x - images.reconstruct(x)) ** 2).view(5, 18).mean(1)
    torch.testing.assert_close(ReconstructionError()(images, x), expected)


@torch.no_grad()
def test_the_likelihood_scores_are_torchs(trained: tuple[VAE, Any], scored: tuple[Tensor, Any]) -> None:
    model, x = trained[0], scored[0]
    mu, logvar = model.encoder(x).chunk(2, 1)
    scale = (0.5 * model.likelihood._logvar).exp()  # type: ignore[operator]
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


def test_a_score_names_what_a_model_lacks() -> None:
    with pytest.raises(UserError, match="NegativeELBO needs a model with `posterior`, which Autoencoder has not"):
        Autoencoder([4], MLP([3]), 2, scores=[NegativeELBO()])


def test_a_wrong_number_of_samples_is_named() -> None:
    with pytest.raises(UserError, match="NegativeELBO: samples = -1"):
        NegativeELBO(samples=-1)
