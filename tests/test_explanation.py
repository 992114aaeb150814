"""Why a sample scores as it does: sums that are the score, columns that are to blame, rows that are compared with."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from surface import SCORES, samples, surface_model
from torch import Tensor

from vae_lightning import MLP, VAE, Arrays, Detector, Gaussian, UserError, fit
from vae_lightning.detection import Columns
from vae_lightning.detection.explanation import GRADIENTS, SUM, Explanation, order
from vae_lightning.detection.heatmaps import heat, overlay, png
from vae_lightning.detection.rows import Draw
from vae_lightning.models.likelihoods import Bernoulli, ContinuousBernoulli, MeanSquaredError
from vae_lightning.models.mixed import Mixed
from vae_lightning.schema import Column, Schema
from vae_lightning.scores import (
    NAP,
    Combined,
    ImportanceWeighted,
    InputComplexity,
    KNearestNeighbours,
    LikelihoodRegret,
    NegativeELBO,
    NegativeLogLikelihood,
    ReconstructionError,
    ReconstructionProbability,
    Score,
)

SUMS = (
    ReconstructionError,
    NegativeLogLikelihood,
    NegativeELBO,
    ImportanceWeighted,
    ReconstructionProbability,
    LikelihoodRegret,
    InputComplexity,
)
# Gradients say little where the score jumps, or a path crosses the logarithm of 0; how much is missing is told.
ROUGH = "LatentDensity-errors", "Neighbours-code"
TRAIN, VAL = list(samples(300, 1).split(64)), list(samples(200, 5).split(64))
X = torch.cat([samples(20, 2), samples(20, 3, shift=1.5)])
NAMES = [f"c{i}" for i in range(8)]


def rows(n: int, seed: int) -> np.ndarray:
    """Eight columns that depend on two hidden ones; they are of all sizes, and some are noisier than others."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2)) @ np.array([[1, 1, 0, 0, 1, 2, -1, 1], [0, 1, 1, -1, -1, 1, 1, 2]])
    noise = np.array([0.05, 0.1, 0.1, 0.1, 0.2, 0.5, 1.5, 0.1]) * rng.normal(size=(n, 8))
    return (z + noise) * [1, 10, 0.1, 1, 1000, 1, 1, 1e-3] + [0, 0, 0, 50, 0, 0, 1e6, 0]


@pytest.fixture(scope="module")
def table() -> Detector:
    torch.set_num_threads(1)
    scores = [NegativeELBO(), ReconstructionError(), NAP()]
    model = VAE([8], MLP([32]), latent_dim=2, likelihood=Gaussian("per_feature"), scores=scores)
    import pandas

    data = Arrays(pandas.DataFrame(rows(2000, 0), columns=NAMES), test_fraction=0.0)
    return fit(model, data, max_epochs=25, verbose=False).detector


def planted(n: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Normal rows in each of which one column is off by so many of its standard deviations, and which one it is."""
    x, rng = rows(n, 2), np.random.default_rng(3)
    column = rng.integers(8, size=n)
    x[np.arange(n), column] += size * x.std(0)[column] * rng.choice([-1, 1], size=n)
    return x, column


# Sums


@pytest.fixture(scope="module")
def model() -> VAE:
    return surface_model()


@pytest.fixture(scope="module", params=SCORES)
def named(request: pytest.FixtureRequest, model: VAE) -> tuple[str, Score]:
    score = SCORES[request.param]()
    with torch.no_grad():
        score.fit(model, TRAIN, VAL)
    return request.param, score


@torch.no_grad()
def test_contributions_add_up_to_the_score(named: tuple[str, Score], model: VAE) -> None:
    name, score = named
    scores, found = score(model, X), score.contributions(model, X)
    assert found.features.shape == X.shape
    assert found.latent.shape[0] == found.base.shape[0] == len(X)
    assert found.exact == (isinstance(score, SUMS) or name in ("Neighbours", "Standardized"))
    if found.exact:
        torch.testing.assert_close(found.total, scores, rtol=1e-5, atol=1e-5)
    elif name not in ROUGH:  # completeness: what the columns add is the difference to the baseline's score
        assert ((found.total - scores).abs() <= 5e-3 * (scores - found.base).abs() + 2e-3 * scores.abs() + 1e-5).all()
    parts = [score.contributions(model, part).features for part in X.split(7)]
    if name not in ROUGH:
        torch.testing.assert_close(torch.cat(parts), found.features, rtol=2e-2, atol=2e-2)


class Quadratic(Score):
    """Σ w x² + v x, whose integrated gradients are known."""

    w, v = torch.arange(10.0), torch.arange(10.0).flip(0)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return (self.w * x.square() + self.v * x).sum(1)


class Blind(Score):
    """Has no gradient."""

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().sum(1))


def test_integrated_gradients_of_a_sum_of_squares_are_its_terms(model: VAE) -> None:
    score, baseline = Quadratic(), torch.randn(len(X), 10, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():  # as predictions are made
        found = score.contributions(model, X.clone(), baseline)
    expected = score.w * (X.square() - baseline.square()) + score.v * (X - baseline)
    torch.testing.assert_close(found.features, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.base, score(None, baseline))
    assert not found.exact
    with pytest.raises(UserError, match="no gradient"):
        Blind().contributions(model, X)


@torch.no_grad()
def test_a_combination_is_exact_if_its_parts_are(model: VAE) -> None:
    for scores, exact in (([ReconstructionError(), NegativeELBO()], True), ([NegativeELBO(), NAP()], False)):
        combined = Combined(scores, weights=[1.0, 3.0])
        combined.fit(model, TRAIN, VAL)
        found = combined.contributions(model, X)
        assert found.exact == exact
        assert found.latent.shape == (len(X), 2)
        torch.testing.assert_close(found.total, combined(model, X), rtol=1e-5 if exact else 1e-2, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("likelihood", [Bernoulli, ContinuousBernoulli, MeanSquaredError, Gaussian])
def test_each_feature_adds_what_it_would_add_alone(likelihood: Callable[[], Any]) -> None:
    whole, alone = likelihood(), likelihood()
    whole.build([5])
    alone.build([1])
    params, x = torch.randn(7, whole.heads, 5), torch.rand(7, 5)
    terms = whole.terms(params, x)
    for i in range(5):
        torch.testing.assert_close(terms[:, i], alone.log_prob(params[:, :, i : i + 1], x[:, i : i + 1]))


# Tables


def test_a_planted_fault_comes_first(table: Detector) -> None:
    x, column = planted(300, 4)
    for name in table.names:
        found = table.explain(x, name)
        assert (found.order(1)[:, 0] == column).mean() >= 0.9, name
        assert found.method == (GRADIENTS if name == "NAP" else SUM)
        assert np.median(found.p_value[np.arange(300), column]) <= 2 / (len(table.model.canary) + 1)


def test_the_noisiest_column_is_not_always_to_blame(table: Detector) -> None:
    normal = table.explain(rows(600, 7), "ReconstructionError")
    loudest = np.bincount(normal.contributions.argmax(1), minlength=8).max() / 600
    blamed = np.bincount(normal.order(1)[:, 0], minlength=8).max() / 600
    assert loudest > 0.5  # by what they add alone it would be
    assert blamed < 0.3


def test_p_values_of_normal_rows_keep_their_promise(table: Detector) -> None:
    p, n = table.explain(rows(2000, 8)).p_value, len(table.model.canary)
    for alpha in (0.05, 0.2):
        share = (p <= alpha).mean(0)
        assert (np.abs(share - alpha) < 4 * (alpha * (1 - alpha) * (1 / n + 1 / 2000)) ** 0.5).all()
    assert p.min() == np.float32(1 / (n + 1))


def test_what_stands_beside_a_contribution(table: Detector) -> None:
    x, column = planted(40, 6)
    found = table.explain(x)
    model = table.model
    with torch.no_grad():
        prepared = model.prepared(torch.from_numpy(x))
        reconstructed = model.reconstruct(prepared).double().numpy()
    train = rows(2000, 0)
    np.testing.assert_allclose(found.score, table.score(x), rtol=1e-5)
    np.testing.assert_allclose(found.contributions.sum(1) + found.latent.sum(1) + found.base, found.score, rtol=1e-5)
    np.testing.assert_array_equal(found.value, x)
    preprocessing = model.preprocessing
    mean, std = (b.double().numpy() for b in (preprocessing.mean, preprocessing.std))
    np.testing.assert_allclose(found.expected, reconstructed * std + mean, rtol=1e-5, atol=1e-6)
    low, high = map(float, next(r.usual for r in found.reasons(0, 8) if r.column == "c0").split(" to "))
    assert low < np.quantile(train[:, 0], 0.1) < np.quantile(train[:, 0], 0.9) < high
    for row in range(5):
        reason, *others = found.reasons(row, 4)
        assert reason.column == NAMES[column[row]]
        changed = x[row].copy()
        changed[column[row]] = reason.expected
        assert reason.without == pytest.approx(float(table.score(changed[None])[0]), rel=1e-4)
        assert reason.without < found.score[row]
        assert np.isnan(others[-1].without)  # three are tried
        assert reason.column in found.text(row).splitlines()[2]


def test_reasons_as_columns_of_a_table(table: Detector) -> None:
    x, column = planted(30, 8)
    found = table.explain(x)
    appended = found.appended(2)
    assert list(appended) == [f"reason_{i}{end}" for i in (1, 2) for end in ("", "_contribution", "_p_value")]
    assert (appended["reason_1"] == np.array(NAMES, dtype=object)[column]).mean() > 0.9
    first = found.reasons(3, 2)[1]
    assert appended["reason_2"][3] == first.column
    assert appended["reason_2_contribution"][3] == np.float32(first.contribution)


def test_columns_in_another_order_are_explained_alike(table: Detector) -> None:
    """The same net with its inputs and outputs in another order."""
    turned, order_ = copy.deepcopy(table), torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])
    model: Any = turned.model
    model.trained_on["columns"] = [NAMES[i] for i in order_]
    with torch.no_grad():
        first, last = model.encoder[0][1], model.decoder[-1][0]
        first.weight.copy_(first.weight[:, order_])
        for parameter in (last.weight, last.bias, model.likelihood._logvar):
            parameter.copy_(parameter[order_])
        for name, buffer in list(model.preprocessing.named_buffers()):
            setattr(model.preprocessing, name, buffer[..., order_])
        model.canary = model.canary[:, order_]
    x, _ = planted(20, 4)
    for name in ("NegativeELBO", "ReconstructionError"):
        one, other = table.explain(x, name), turned.explain(x[:, order_.numpy()], name)
        for part in ("contributions", "p_value", "expected"):
            expected = getattr(one, part)[:, order_]
            np.testing.assert_allclose(getattr(other, part), expected, rtol=1e-3, atol=1e-3)
        assert [r.column for r in one.reasons(0, 3)] == [r.column for r in other.reasons(0, 3)]


@pytest.fixture(scope="module")
def mixed() -> Detector:
    """Rows of two tied numbers and a category that goes with their signs; some numbers are missing."""
    torch.set_num_threads(1)
    prepares = Columns([0, 0, 5], gaps=[1])
    train, normal = mixed_rows(1500, 0), mixed_rows(400, 1)
    prepares.fit(train.split(500))
    scores = [NegativeELBO(), ReconstructionError()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(
            VAE([prepares.width], MLP([32]), 2, Mixed(), scores=scores, preprocessing=prepares), train, normal
        )


def trained(model: VAE, train: Tensor, normal: Tensor) -> Detector:
    prepares: Any = model.preprocessing
    model.likelihood.adopt(prepares)
    optimizer, x = torch.optim.Adam(model.parameters(), lr=5e-3), model.prepared(train)
    for _ in range(400):
        optimizer.zero_grad()
        model.objective(x, 0.2)["loss"].mean().backward()
        optimizer.step()
    columns = (Column("a"), Column("b"), Column("quadrant", "categorical", ("low", "<b>mid</b>", "high")))
    model.trained_on = {"columns": ["a", "b", "quadrant"], "schema": Schema(columns, "float64").to_json()}
    model.detector.calibrate(normal)
    return model.detector


def mixed_rows(n: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    x = np.stack([a, 100 * a + 10 * rng.normal(size=n), np.digitize(a, [-0.4, 0.4])], 1)
    x[rng.random(n) < 0.05, 1] = np.nan
    return torch.from_numpy(x)


def test_a_wrong_category_comes_first(mixed: Detector) -> None:
    x = mixed_rows(300, 2)
    sure = (x[:, 0].abs() > 0.8) & ~x[:, 1].isnan()
    x = x[sure]
    right = x[:, 2].clone()
    x[:, 2] = 2 - x[:, 2]  # low for high
    found = mixed.explain(x)
    assert found.contributions.shape == found.p_value.shape == (len(x), 3)
    total = found.contributions.sum(1) + found.latent.sum(1) + found.base
    np.testing.assert_allclose(total, found.score, rtol=1e-4, atol=1e-5)
    assert (found.order(1)[:, 0] == 2).mean() >= 0.9
    assert (torch.from_numpy(found.expected[:, 2]) == right).float().mean() > 0.6  # two numbers against a word
    reason = found.reasons(0, 1)[0]
    levels = ["low", "<b>mid</b>", "high"]
    assert (reason.column, reason.value) == ("quadrant", levels[int(x[0, 2])])
    assert reason.expected in levels
    assert reason.usual.endswith("% have it")
    by_error = mixed.explain(x, "ReconstructionError")
    np.testing.assert_allclose(by_error.contributions.sum(1), by_error.score, rtol=1e-4)
    x[0, 1] = np.nan
    assert {r.column: r.value for r in mixed.explain(x[:1]).reasons(0, 3)}["b"] == "missing"


def test_order() -> None:
    excess = np.array([[1.0, 3.0, 2.0], [np.nan, 5.0, 5.0]])
    assert order(excess).tolist() == [[1, 2, 0], [0, 1, 2]]
    assert order(excess, 1).tolist() == [[1], [0]]


def test_bad_input(table: Detector) -> None:
    with pytest.raises(UserError, match="no score Mine: the detector has NegativeELBO"):
        table.explain(rows(2, 0), "Mine")
    with pytest.raises(UserError, match="row 1, column c2 is nan"):
        table.explain(np.where(np.arange(16).reshape(2, 8) == 10, np.nan, rows(2, 0)))
    with pytest.raises(UserError, match="not calibrated"):
        VAE([8]).detector.explain(rows(2, 0))


# The rows that are compared with


def test_a_detector_keeps_few_rows_and_can_leave_them_out(table: Detector, tmp_path: Path) -> None:
    x, _ = planted(5, 4)
    kept = table.model.canary
    assert kept.dtype == torch.float64
    distance = np.abs(kept.numpy()[:, None] / rows(2000, 0) - 1).max(2).min(1)
    assert (distance < 1e-12).all()  # from a row of the data
    table.save(tmp_path / "whole.ckpt")
    table.save(tmp_path / "bare.ckpt", rows=False)
    whole, bare = (Detector.load(tmp_path / f"{name}.ckpt") for name in ("whole", "bare"))
    assert torch.equal(whole.model.canary, kept)
    np.testing.assert_array_equal(whole.explain(x).p_value, table.explain(x).p_value)
    assert bare.model.canary is None
    assert len(table.model.canary) == len(kept)  # saving takes nothing away
    found = bare.explain(x)
    np.testing.assert_allclose(found.contributions, table.explain(x).contributions)
    assert np.isnan(found.p_value).all()
    assert found.reasons(0)[0].usual == "–"


def test_rows_are_drawn_uniformly_and_bounded() -> None:
    counts = torch.zeros(1500)
    drawn = Draw()
    for part in torch.arange(1500).view(-1, 1).split([1, 700, 99, 700]):
        assert drawn.see(part) is part
    counts[drawn.rows.flatten()] += 1
    assert counts.sum() == 512
    assert counts.max() == 1
    assert abs(counts[:750].sum() - 256) < 45  # four standard deviations
    large = Draw()
    for _ in range(3):
        large.see(torch.zeros(20, 1024, 512, dtype=torch.uint8))
    assert large.rows.shape == (8, 1024, 512)
    assert large.rows.dtype == torch.uint8


# Images


@pytest.fixture(scope="module")
def faulty() -> tuple[Explanation, np.ndarray]:
    """Images of a smooth wave, some with a bright spot; explained, and where the spots are."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, size=(600, 1, 1))
    y, x = np.mgrid[:16, :16]
    images = (127 + 80 * np.sin(0.4 * x + 0.2 * y + phase) + rng.normal(0, 3, size=(600, 16, 16))).astype(np.uint8)
    model = VAE([1, 16, 16], MLP([64]), latent_dim=3, scores=[ReconstructionError(), KNearestNeighbours()])
    detector = fit(model, Arrays(images[:560], images=True, test_fraction=0.0), max_epochs=30, verbose=False).detector
    spots = np.zeros((40, 16, 16), bool)
    for i, (row, column) in enumerate(rng.integers(0, 13, size=(40, 2))):
        spots[i, row : row + 3, column : column + 3] = True
    strange = np.where(spots, images[560:] ^ 128, images[560:])
    return detector.explain(strange[:, None]), spots


def test_heat_lies_where_the_fault_is(faulty: tuple[Explanation, np.ndarray]) -> None:
    found, spots = faulty
    found_heat = heat(found)
    assert found_heat.shape == (40, 16, 16)
    assert roc_auc_score(spots.ravel(), found_heat.ravel()) > 0.9
    hottest = found.order(1)[:, 0]
    assert spots.reshape(40, -1)[np.arange(40), hottest].mean() > 0.9
    assert found.reasons(0, 1)[0].column.startswith("row ")
    assert found.without.size == 0


def test_pictures(faulty: tuple[Explanation, np.ndarray]) -> None:
    found, spots = faulty
    hot = heat(found)[0]
    picture = overlay(found.value[0], hot, found.ceiling)
    assert picture.shape == (16, 16, 3)
    cold = overlay(found.value[0], np.zeros((16, 16)), found.ceiling)
    assert np.array_equal(cold, np.repeat(found.value[0].transpose(1, 2, 0), 3, 2))
    changed = np.abs(picture.astype(int) - cold).sum(2)
    assert changed[spots[0]].mean() > 3 * changed[~spots[0]].mean()
    read = np.asarray(Image.open(io.BytesIO(png(picture, scale=3))))
    assert np.array_equal(read, picture.repeat(3, 0).repeat(3, 1))
    with pytest.raises(UserError, match="not images"):
        heat(_of_a_table())


def _of_a_table() -> Explanation:
    nothing = np.zeros((2, 3))
    return Explanation(None, None, SUM, *[nothing] * 9, None, 1.0, nothing)
