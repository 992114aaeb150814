"""Every likelihood against a density that someone else wrote, or that integrates to one."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from vae_lightning.errors import UserError
from vae_lightning.models.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian, Likelihood, MeanSquaredError


def continuous_bernoulli(logit: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Its density is exponential in x on [0, 1]: exp(η x) over its integral."""
    norm = np.array([integrate.quad(lambda t, e=e: math.exp(e * (t - (e > 0))), 0, 1)[0] for e in logit.ravel()])
    return logit * (x - (logit > 0)) - np.log(norm).reshape(logit.shape)


# A new likelihood costs one line here: how to make it, and its log-density of each feature by other means.
# p[i] is head i, (k, l, B, *input_shape) in double precision, as is x.
LIKELIHOODS: dict[str, tuple[Callable[[], Likelihood], Callable[[list[np.ndarray], np.ndarray], np.ndarray]]] = {
    "Bernoulli": (Bernoulli, lambda p, x: stats.bernoulli.logpmf(np.round(x), 1 / (1 + np.exp(-p[0])))),
    "ContinuousBernoulli": (ContinuousBernoulli, lambda p, x: continuous_bernoulli(p[0], x)),
    "MeanSquaredError": (
        MeanSquaredError,
        lambda p, x: stats.norm.logpdf(x, p[0], math.sqrt(0.5)) + 0.5 * math.log(math.pi),
    ),
    "Gaussian, fixed": (lambda: Gaussian(0.3), lambda p, x: stats.norm.logpdf(x, p[0], math.sqrt(0.3))),
    "Gaussian, shared": (lambda: Gaussian("shared"), lambda p, x: stats.norm.logpdf(x, p[0], math.exp(0.35))),
    "Gaussian, per feature": (
        lambda: Gaussian("per_feature"),
        lambda p, x: stats.norm.logpdf(x, p[0], np.exp(0.05 * np.arange(x[0, 0, 0].size).reshape(x.shape[3:]))),
    ),
    "Gaussian, predicted": (
        lambda: Gaussian("predicted"),
        lambda p, x: stats.norm.logpdf(x, p[0], np.exp(np.maximum(p[1], -10) / 2)),
    ),
}
SHAPES = [[5], [2, 3, 4]]


def make(name: str, shape: list[int]) -> Likelihood:
    likelihood = LIKELIHOODS[name][0]()
    likelihood.build(shape)
    for parameter in likelihood.parameters():  # learned log-variances that are not all zero
        n = parameter.numel()
        parameter.data = torch.full([], 0.7) if n == 1 else 0.1 * torch.arange(n).float().view(parameter.shape)
    return likelihood


def drawn(likelihood: Likelihood, shape: list[int], *leading: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(leading[-1], *shape, generator=generator)
    if isinstance(likelihood, Bernoulli):
        x = x.round()
    return 3 * torch.randn(*leading, likelihood.heads, *shape, generator=generator), x


@pytest.fixture(params=LIKELIHOODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
def test_log_prob_is_the_sum_of_an_independent_log_density(name: str, shape: list[int]) -> None:
    likelihood = make(name, shape)
    params, x = drawn(likelihood, shape, 2, 3, 7)
    heads = [head.double().numpy() for head in params.unbind(3)]
    densities = LIKELIHOODS[name][1](heads, np.broadcast_to(x.double().numpy(), heads[0].shape))
    expected = torch.from_numpy(densities.reshape(2, 3, 7, -1).sum(-1)).float()
    for some, truth in ((params, expected), (params[0], expected[0]), (params[0, 0], expected[0, 0])):
        log_prob = likelihood.log_prob(some, x)
        assert log_prob.shape == truth.shape
        torch.testing.assert_close(log_prob, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_has_the_shape_of_x_and_takes_leading_dimensions(name: str, shape: list[int]) -> None:
    likelihood = make(name, shape)
    params, x = drawn(likelihood, shape, 3, 7)
    mean = likelihood.mean(params)
    assert mean.shape == (3, *x.shape)
    for k in range(3):
        torch.testing.assert_close(likelihood.mean(params[k]), mean[k])


def test_mean_is_the_expectation_under_the_density(name: str) -> None:
    """∫ x p(x) dx on a grid over [0, 1] where the support ends there, and far beyond it where it does not."""
    likelihood = make(name, [1])
    params, _ = drawn(likelihood, [1], 9)
    bounded = isinstance(likelihood, ContinuousBernoulli)
    grid = torch.linspace(0, 1, 20_001) if bounded else torch.linspace(-200, 200, 400_001)
    if isinstance(likelihood, Bernoulli):
        grid = torch.tensor([0.0, 1.0])
    for mean, param in zip(likelihood.mean(params), params, strict=True):
        with torch.no_grad():
            density = likelihood.log_prob(param.expand(len(grid), *param.shape), grid[:, None]).double().exp()
        weight = density if len(grid) == 2 else torch.ones_like(density)
        integral = density.sum() if len(grid) == 2 else torch.trapezoid(density, grid.double())
        moment = (weight * grid).sum() if len(grid) == 2 else torch.trapezoid(density * grid, grid.double())
        torch.testing.assert_close(mean.double().squeeze(), moment / integral, rtol=1e-3, atol=1e-3)
        if not isinstance(likelihood, MeanSquaredError):  # which leaves its constant out
            assert float(integral) == pytest.approx(1, abs=1e-3)


def test_gradients_reach_the_parameters_and_stay_finite_far_out(name: str) -> None:
    likelihood = make(name, [4])
    for scale in (0.0, 1e-3, 1.0, 100.0):
        params = (scale * torch.linspace(-1, 1, 3 * likelihood.heads * 4)).view(3, likelihood.heads, 4).requires_grad_()
        log_prob = likelihood.log_prob(params, torch.tensor([[0.0, 0.25, 0.5, 1.0]]).expand(3, 4))
        gradients = torch.autograd.grad(log_prob.sum(), [params, *likelihood.parameters()])
        assert log_prob.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_density_of_a_sample_does_not_depend_on_the_others(name: str) -> None:
    likelihood = make(name, [4])
    params, x = drawn(likelihood, [4], 6)
    torch.testing.assert_close(likelihood.log_prob(params[2:3], x[2:3]), likelihood.log_prob(params, x)[2:3])


# Each one's own


def test_grey_pixels_with_bernoulli_are_the_binary_cross_entropy() -> None:
    likelihood, x = make("Bernoulli", [4]), torch.rand(5, 4)
    logits = torch.randn(5, 1, 4)
    expected = torch.nn.functional.binary_cross_entropy(logits[:, 0].sigmoid(), x, reduction="none").sum(1)
    torch.testing.assert_close(-likelihood.log_prob(logits, x), expected)


@pytest.mark.parametrize(
    "logit", [-200.0, -30.0, -10.0, -0.21, -0.19, -1e-3, -1e-6, 0.0, 1e-4, 0.19, 0.21, 5.0, 17.0, 90.0]
)
def test_the_continuous_bernoulli_is_exact_near_zero_and_far_out(logit: float) -> None:
    """Its mean is 1 / (1 − e^−η) − 1/η, and its log-density's derivative in η is x − E[x]."""
    likelihood, x = make("ContinuousBernoulli", [1]), torch.tensor([[0.3]])
    eta = torch.tensor([[[logit]]], requires_grad=True)
    e = np.longdouble(logit)
    mean = 0.5 + e / 12 if abs(e) < 1e-2 else -1 / np.expm1(-e) - 1 / e
    assert float(likelihood.mean(eta).detach()) == pytest.approx(float(mean), rel=1e-5, abs=1e-7)
    log_prob = likelihood.log_prob(eta, x)
    expected = continuous_bernoulli(np.array([logit]), np.array([0.3]))
    assert float(log_prob.detach()) == pytest.approx(float(expected[0]), rel=1e-5, abs=1e-6)
    (gradient,) = torch.autograd.grad(log_prob.sum(), eta)
    assert float(gradient) == pytest.approx(0.3 - float(mean), rel=1e-4, abs=1e-6)


def test_the_mean_squared_error_is_the_gaussian_of_variance_one_half_up_to_a_constant() -> None:
    gaussian, mse = Gaussian(0.5), MeanSquaredError()
    for likelihood in (gaussian, mse):
        likelihood.build([4])
    params, x = torch.randn(6, 1, 4), torch.randn(6, 4)
    constant = 4 * 0.5 * math.log(math.pi)
    torch.testing.assert_close(gaussian.log_prob(params, x) + constant, mse.log_prob(params, x))


def test_a_learned_variance_is_bounded_below() -> None:
    likelihood = Gaussian("shared", min_logvar=-2.0)
    likelihood.build([4])
    likelihood._logvar.data.fill_(-50.0)
    params, x = torch.zeros(1, 1, 4), torch.zeros(1, 4)
    expected = 4 * stats.norm.logpdf(0, scale=math.exp(-1))
    assert float(likelihood.log_prob(params, x).detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("variance", "parameters", "heads"), [(0.5, 0, 1), ("shared", 1, 1), ("per_feature", 12, 1), ("predicted", 0, 2)]
)
def test_a_variance_is_learned_where_it_says_so(variance: float | str, parameters: int, heads: int) -> None:
    likelihood = Gaussian(variance)  # type: ignore[arg-type]
    likelihood.build([3, 4])
    assert sum(p.numel() for p in likelihood.parameters()) == parameters
    assert likelihood.heads == heads


@pytest.mark.parametrize("variance", [0.0, -1.0, float("inf"), float("nan"), "shard"])
def test_a_wrong_variance_is_named(variance: float | str) -> None:
    with pytest.raises(UserError, match=f"Gaussian: variance = {variance}"):
        Gaussian(variance)  # type: ignore[arg-type]
