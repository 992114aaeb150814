"""The likelihood of mixed columns: scipy's densities and scikit-learn's cross-entropy are the truth."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax
from sklearn.metrics import log_loss
from torch import Tensor

from vae_lightning.detection import Columns
from vae_lightning.errors import UserError
from vae_lightning.models import IWAE, VAE, Autoencoder, Mixed
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.scores import NegativeELBO, NegativeLogLikelihood, ReconstructionError

CODES, GAPS = [4, 0, 0, 102, 0], [0, 1, 4]  # two categories, one of 100 levels, three numbers
NAN = float("nan")


def columns() -> Columns:
    found = Columns(CODES, GAPS)
    found.fit([rows(500, 9)])
    return found


def rows(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(n, 5, generator=generator)
    for column, codes in enumerate(CODES):
        if codes:
            raw[:, column] = torch.randint(codes, (n,), generator=generator).float()
    for column in GAPS:
        raw[torch.rand(n, generator=generator) < 0.2, column] = NAN
    return raw


def made(n: int = 12, **arguments: Any) -> tuple[Mixed, Tensor, Tensor, Tensor]:
    """A likelihood with learned variances that are not all one, raw and prepared rows, parameters of two draws."""
    prepares, likelihood = columns(), Mixed(**arguments)
    likelihood.build([prepares.width])
    likelihood.adopt(prepares)
    for parameter in likelihood.parameters():
        parameter.data = torch.linspace(-1, 1, parameter.numel()).view(parameter.shape)
    raw = rows(n)
    generator = torch.Generator().manual_seed(1)
    params = 2 * torch.randn(2, n, likelihood.heads, prepares.width, generator=generator)
    return likelihood, raw, prepares(raw), params


def start(prepares: Columns) -> np.ndarray:
    """Log-frequencies of codes and log-odds of gaps in the rows that it was fitted on."""
    x = prepares(rows(500, 9)).double().numpy()
    shares = (x.sum(0) + 0.5) / 501
    kind = [0] * 3 + [1] * len(GAPS) + [2] * (prepares.width - 3 - len(GAPS))
    return np.choose(kind, [np.zeros(prepares.width), np.log(shares / (1 - shares)), np.log(shares)])


def truth(likelihood: Mixed, raw: Tensor, x: Tensor, params: Tensor) -> np.ndarray:
    """Terms of each raw column, column by column, by scipy: (draws, B, columns)."""
    head, prepares = params[..., 0, :].double().numpy(), columns()
    head = head + start(prepares)
    terms = np.zeros((*head.shape[:2], len(CODES)))
    logvar = {"per_feature": np.linspace(-1, 1, prepares.width), "shared": np.full(prepares.width, -1.0)}
    first = dict(zip(prepares.categories, prepares.groups, strict=True))
    for column, codes in enumerate(CODES):
        missing = raw[:, column].isnan().numpy()
        if codes:
            log_p = log_softmax(head[..., slice(*first[column])], -1)
            code = np.where(missing, 0, raw[:, column].numpy()).astype(int)
            found = np.take_along_axis(log_p, np.broadcast_to(code[:, None], (*log_p.shape[:2], 1)), -1)[..., 0]
            weight = likelihood.category_weight
            found = found * (0.5 * math.log(2 * math.pi * math.e) / math.log(codes) if weight == "balanced" else weight)
        else:
            at = prepares.numbers.index(column)
            variance = likelihood.gaussian.variance
            log_s2 = np.maximum(params[..., 1, at].numpy(), -10) if variance == "predicted" else None
            log_s2 = logvar[variance][at] if isinstance(variance, str) and log_s2 is None else log_s2
            sigma = np.sqrt(variance) if not isinstance(variance, str) else np.exp(log_s2 / 2)
            law = stats.norm if likelihood.df is None else stats.t(likelihood.df)
            found = law.logpdf((x[:, at].double().numpy() - head[..., at]) / sigma) - np.log(sigma)
        terms[..., column] = np.where(missing, 0, found)
        if column in GAPS:
            p = 1 / (1 + np.exp(-head[..., len(prepares.numbers) + GAPS.index(column)]))
            terms[..., column] += likelihood.gap_weight * stats.bernoulli.logpmf(missing.astype(int), p)
    return terms


KINDS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "columns alike": {"category_weight": "balanced"},
    "Student-t": {"df": 3.5},
    "gaps as given": {"gap_weight": 0.0, "category_weight": 0.25},
    "one variance": {"variance": "shared"},
    "a fixed variance": {"variance": 0.3},
    "predicted variances": {"variance": "predicted", "df": 10.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_terms_are_those_of_scipy_and_add_up(kind: str) -> None:
    likelihood, raw, x, params = made(**KINDS[kind])
    expected = torch.from_numpy(truth(likelihood, raw, x, params)).float()
    for some, wanted in ((params, expected), (params[0], expected[0])):
        terms = likelihood.terms(some, x)
        torch.testing.assert_close(terms, wanted, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(likelihood.log_prob(some, x), wanted.sum(-1), rtol=2e-5, atol=1e-4)
    several = likelihood.log_prob(params, x)
    for i in range(len(x)):
        torch.testing.assert_close(likelihood.log_prob(params[:, i : i + 1], x[i : i + 1]), several[:, i : i + 1])


@torch.no_grad()
def test_categories_cost_what_scikit_learn_says() -> None:
    likelihood, raw, x, params = made(200, category_weight=1.0)
    there = ~raw[:, 3].isnan()
    probabilities = likelihood.mean(params[0])[:, slice(*columns().groups[1])]
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200))
    exact = probabilities[there].double()
    expected = log_loss(raw[there, 3].numpy(), (exact / exact.sum(1, keepdim=True)).numpy(), labels=range(102))
    assert -likelihood.terms(params[0], x)[there, 3].mean().item() == pytest.approx(expected, rel=1e-5)


def test_balanced_columns_cost_alike_before_anything_is_learnt() -> None:
    prepares, likelihood = Columns([0, 102, 4, 12]), Mixed(variance=1.0, category_weight="balanced")
    likelihood.build([prepares.width])
    likelihood.adopt(prepares)
    generator = torch.Generator().manual_seed(0)
    raw = torch.stack([torch.randn(20_000, generator=generator), *torch.zeros(3, 20_000)], 1)
    for column, codes in ((1, 102), (2, 4), (3, 12)):
        raw[:, column] = torch.randint(codes, (20_000,), generator=generator).float()
    prepares.fit([raw])
    cost = -likelihood.terms(torch.zeros(20_000, 1, prepares.width), prepares(raw)).mean(0)
    torch.testing.assert_close(cost, torch.full((4,), 0.5 * math.log(2 * math.pi * math.e)), rtol=1e-2, atol=0)


def test_what_is_missing_changes_nothing() -> None:
    """Whatever the decoder says of it, and whatever fills the gap."""
    likelihood, raw, x, params = made(gap_weight=0.0)
    prepares = columns()
    for column in GAPS:
        other, missing = params.clone(), raw[:, column].isnan()
        at = [i for i, owner in enumerate(prepares.columns) if owner == column]
        other[:, missing.nonzero()[:, 0, None], 0, torch.tensor(at)] += 3.0
        assert not torch.equal(other, params)
        assert torch.equal(likelihood.log_prob(other, x), likelihood.log_prob(params, x))
        filled = x.clone()
        if column in prepares.numbers:
            filled[missing, prepares.numbers.index(column)] = 1e6
        assert torch.equal(likelihood.log_prob(params, filled), likelihood.log_prob(params, x))


@pytest.mark.parametrize("gap_weight", [0.0, 1.0])
def test_a_reconstruction_has_no_error_where_nothing_is(gap_weight: float) -> None:
    likelihood, raw, x, params = made(gap_weight=gap_weight)
    found, mean = likelihood.reconstruction(params, x), likelihood.mean(params)
    prepares = columns()
    missing = raw.isnan()[:, prepares.columns]
    is_gap = torch.zeros(prepares.width, dtype=torch.bool)
    is_gap[3:6] = True
    left_out = torch.where(is_gap, torch.tensor(gap_weight == 0), missing)
    assert torch.equal(found, torch.where(left_out, x, mean))
    assert (found != x)[:, :, ~left_out[0]].any()


def test_log_probabilities_stay_finite_far_out() -> None:
    likelihood, _, x, params = made()
    for scale in (0.0, 1e-3, 100.0, 1e4):
        some = (scale * params).requires_grad_()
        log_prob = likelihood.log_prob(some, x)
        gradients = torch.autograd.grad(log_prob.sum(), [some, *likelihood.parameters()])
        assert log_prob.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert likelihood.mean(some).isfinite().all()


def test_before_it_has_met_columns_every_feature_is_a_number() -> None:
    likelihood, gaussian = Mixed(), Gaussian("per_feature")
    for one in (likelihood, gaussian):
        one.build([7])
        one.adopt(None)
    x, params = torch.randn(5, 7), torch.randn(3, 5, 1, 7)
    torch.testing.assert_close(likelihood.log_prob(params, x), gaussian.log_prob(params, x))
    assert torch.equal(likelihood.reconstruction(params, x), gaussian.mean(params))


def test_a_code_that_was_never_there_is_unlikely_from_the_start() -> None:
    prepares, likelihood = Columns([5, 0], [1]), Mixed(category_weight=1.0)
    raw = torch.tensor([[0.0, 1.0], [0.0, NAN], [1.0, 2.0], [2.0, 3.0]]).repeat(250, 1)
    prepares.fit([raw])
    likelihood.build([prepares.width])
    likelihood.adopt(prepares)
    untrained = torch.zeros(4, 1, prepares.width)
    terms = likelihood.terms(untrained, prepares(torch.tensor([[0, NAN], [1.0, NAN], [4.0, NAN], [NAN, NAN]])))
    expected = torch.tensor([math.log(500.5 / 1002.5), math.log(250.5 / 1002.5), -math.log(2005), 0.0])
    torch.testing.assert_close(terms[:, 0], expected)
    torch.testing.assert_close(terms[:, 1], torch.full((4,), math.log(250.5 / 1001)))


# In a model


def model(kind: str, likelihood: Mixed | None = None) -> Autoencoder:
    torch.manual_seed(0)
    scores = [NegativeLogLikelihood(), ReconstructionError(), *([NegativeELBO(4)] if kind != "Autoencoder" else [])]
    cls = {"Autoencoder": Autoencoder, "VAE": VAE, "IWAE": IWAE}[kind]
    prepares = columns()
    return cls([prepares.width], MLP([16]), 3, likelihood or Mixed(), scores=scores, preprocessing=prepares)


@pytest.mark.parametrize("kind", ["Autoencoder", "VAE", "IWAE"])
def test_every_parameter_of_a_model_has_a_gradient(kind: str) -> None:
    made = model(kind)
    terms = made.objective(made.prepared(rows(50)), 1.0)
    assert terms["loss"].shape == (50,)
    terms["loss"].mean().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_a_model_of_mixed_columns_is_exported_from_raw_rows() -> None:
    made = model("Autoencoder", Mixed(df=4.0, variance="predicted", gap_weight=0.0)).eval()
    with pytest.warns(UserWarning, match="nothing raises an alarm"):
        made.detector.calibrate(rows(10, 1))
    made.detector.calibrate(rows(200, 1))
    raw = rows(40, 2)
    free = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        graph = torch.export.export(made.detector.graph, (raw[:3],), dynamic_shapes=({0: free},), strict=False).module()
        for part in (raw, raw[:1], raw[5:12]):
            found, wanted = graph(part), made.detector(part)
            assert torch.equal(found.anomaly, wanted.anomaly)
            for name in wanted.each:
                torch.testing.assert_close(found.each[name], wanted.each[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"df": 0.0}, "df = 0.0 must be positive"),
        ({"df": math.inf}, "df = inf must be positive"),
        ({"variance": -1.0}, "variance = -1.0 must be positive"),
        ({"category_weight": -1.0}, "category_weight = -1.0 must be"),
        ({"category_weight": "even"}, "category_weight = even must be"),
        ({"gap_weight": "balanced"}, "gap_weight = balanced must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Mixed(**arguments)
    with pytest.raises(UserError, match="are not rows of a table"):
        Mixed().build([1, 8, 8])
