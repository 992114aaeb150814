"""Rows of mixed columns as a network sees them: pandas, scikit-learn and scipy are the truth."""

import io
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest, norm
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, StandardScaler
from torch import Tensor

from vae_lightning.detection import Columns, Standardize
from vae_lightning.detection.statistics import Moments, Sample
from vae_lightning.errors import UserError
from vae_lightning.models import Autoencoder, Mixed
from vae_lightning.models.networks import MLP
from vae_lightning.recipe import build, describe
from vae_lightning.scores import NegativeLogLikelihood, ReconstructionError

CODES, GAPS = [0, 5, 0, 0, 3, 0], [0, 1, 3]  # amounts, a category, timestamps, skewed sums, a category, a constant
NAN = float("nan")
TRANSFORMS: list[Literal["none", "quantile", "blend", "log"]] = ["none", "quantile", "blend", "log"]


def rows(n: int = 3000, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    columns = [rng.normal(5, 2, n), rng.integers(0, 5, n), 1.7e9 + rng.uniform(0, 60, n), rng.lognormal(0, 2, n)]
    x = np.stack([*columns, rng.integers(0, 3, n), np.full(n, 0.1)], 1)
    for column in GAPS:
        x[rng.random(n) < 0.1, column] = NAN
    return torch.from_numpy(x)


def fitted(x: Tensor, transform: str = "none", size: int = 700, codes: list[int] = CODES) -> Columns:
    columns = Columns(codes, GAPS if codes is CODES else [], transform)  # type: ignore[arg-type]
    columns.fit(x.split(size))
    return columns


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_contract_of_preprocessing(transform: str) -> None:
    train, raw = rows(), rows(16, seed=1)
    columns = fitted(train, transform)
    before, x = raw.clone(), columns(raw)
    assert np.array_equal(raw, before, equal_nan=True)
    assert (x.dtype, list(x.shape)) == (torch.float32, [16, columns.width])
    assert columns.raw_shape([columns.width]) == [6]
    assert torch.equal(torch.cat([columns(row) for row in raw.split(3)]), x)
    assert all(buffer.dtype != torch.float64 for buffer in columns.buffers())
    assert not list(columns.parameters())
    free = torch.export.Dim("batch", min=1)
    exported = torch.export.export(columns, (raw[:3],), dynamic_shapes=({0: free},))
    assert not any("searchsorted" in str(node.target) for node in exported.graph.nodes)
    graph = exported.module()
    far = torch.cat([raw, 1e3 * raw[:, [0, 0, 2, 3, 4, 5]], train])
    for part in (raw, raw[:1], far):
        assert torch.equal(graph(part), columns(part))
    # by batches, as recipe and as state
    again = build(describe(columns))
    file = io.BytesIO()
    torch.save(columns.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again(raw), x)
    torch.testing.assert_close(fitted(train, transform, 11)(raw), x, rtol=1e-5, atol=1e-6)
    assert torch.equal(fitted(train, transform)(raw), x)


def test_what_each_feature_is() -> None:
    train = rows()
    columns = fitted(train)
    assert columns.columns == [0, 2, 3, 5, 0, 1, 3, 1, 1, 1, 1, 1, 4, 4, 4]
    assert columns.groups == [(7, 12), (12, 15)]
    table = pd.DataFrame(train.numpy())
    numbers = table[[0, 2, 3, 5]]
    expected = ((numbers.fillna(numbers.median()) - numbers.mean()) / numbers.std(ddof=0).replace(0, 1)).to_numpy()
    x = columns(train)
    np.testing.assert_allclose(x[:, :3], expected[:, :3], atol=2e-6)
    assert x[:, 3].abs().max() < 1e-12
    assert np.array_equal(x[:, 4:7], table[GAPS].isna())
    for group, column, levels in (((7, 12), 1, 5), ((12, 15), 4, 3)):
        encoder = OneHotEncoder(categories=[np.arange(levels)], handle_unknown="ignore", sparse_output=False)
        assert np.array_equal(x[:, slice(*group)], encoder.fit_transform(table[[column]].to_numpy()))


@pytest.mark.parametrize("transform", [*dict.fromkeys([*TRANSFORMS, "blend"])])
def test_prepared_rows_can_be_told_again(transform: str) -> None:
    columns, raw = fitted(rows(), transform), rows(200, seed=1)
    told = columns.restore(columns(raw))
    np.testing.assert_array_equal(told[:, [1, 4]], raw[:, [1, 4]])  # codes, and their gaps
    np.testing.assert_array_equal(told.isnan(), raw.isnan())
    for column, size in ((0, 2), (2, 60), (3, 10)):
        there = ~raw[:, column].isnan()
        np.testing.assert_allclose(told[there, column], raw[there, column], rtol=1e-4, atol=1e-5 * size)
    features = torch.arange(columns.width).float()[None]
    expected = [sum(i for i, of in enumerate(columns.columns) if of == column) for column in range(6)]
    assert columns.fold(features).tolist() == [expected]


def test_numbers_alone_are_standardised_to_the_bit() -> None:
    x = rows()[:, [2, 5]]
    standardize = Standardize()
    standardize.fit(x.split(100))
    assert torch.equal(fitted(x, size=100, codes=[0, 0])(x), standardize(x))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_prepared_rows_tell_the_raw_ones(transform: str) -> None:
    raw = rows()
    columns = fitted(raw, transform)
    found = columns.restore(columns(raw))
    offset = torch.tensor([0, 0, 1.7e9, 0, 0, 0])
    torch.testing.assert_close(found - offset, raw - offset, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_the_same_number_gives_the_same_bits() -> None:
    x = rows().float()
    for transform in TRANSFORMS:
        columns = fitted(x, transform)
        assert torch.equal(columns(x), columns(x.double()))


def test_quantiles_make_any_number_normal_and_keep_what_is_out_of_range_out_of_it() -> None:
    train = torch.from_numpy(np.random.default_rng(0).lognormal(0, 2, (20_000, 1)))
    columns = fitted(train, "quantile", codes=[0])
    x = columns(train)[:, 0]
    assert kstest(x.numpy(), norm.cdf).statistic < 0.003
    sklearn = QuantileTransformer(output_distribution="normal", n_quantiles=1000, subsample=None).fit(train.numpy())
    inner = (train[:, 0] > train.quantile(0.001)) & (train[:, 0] < train.quantile(0.999))
    assert np.abs(x.numpy() - sklearn.transform(train.numpy())[:, 0])[inner].max() < 0.05
    assert (x[train[:, 0].argsort()].diff() >= 0).all()
    most = train.max()
    far = columns(torch.tensor([[most], [2 * most], [10 * most], [-most]]))[:, 0]
    assert far[0] == x.max()
    assert 1.9 < far[1] / far[0] < 2.1
    assert 9 < far[2] / far[0] < 11
    assert far[3] < -2 * x.max()
    assert far.isfinite().all()


def test_ties_are_given_the_middle_of_their_scores() -> None:
    train = torch.tensor([[0.0]] * 800 + [[1.0]] * 150 + [[7.0]] * 50)
    found = fitted(train, "quantile", codes=[0])(torch.tensor([[0.0], [1.0], [7.0], [0.5]]))[:, 0]
    scores = norm.ppf((np.arange(1000) + 0.5) / 1000)
    for value, part in zip(found.tolist(), (scores[:800], scores[800:950], scores[950:]), strict=False):
        assert part.min() < value < part.max()
    assert found[0] < found[3] < found[1]
    alone = fitted(torch.full((9, 1), 3.0), "quantile", codes=[0])(torch.tensor([[3.0], [4.0]]))
    torch.testing.assert_close(alone, torch.tensor([[0.0], [1.0]]))


def test_log_takes_the_skew_out_and_leaves_even_numbers_be() -> None:
    rng = np.random.default_rng(0)
    raw = np.stack([rng.lognormal(0, 2, 20_000), -rng.lognormal(3, 1, 20_000), rng.normal(300, 5, 20_000)], 1)
    columns = fitted(torch.from_numpy(raw), "log", codes=[0, 0, 0])
    x = columns(torch.from_numpy(raw)).numpy()
    assert (np.abs(pd.DataFrame(x).skew()) < 0.6).all()
    assert pd.DataFrame(raw).skew().abs()[0] > 20
    np.testing.assert_allclose(np.arcsinh(raw / columns.scale.numpy()).mean(0), columns.mean, rtol=1e-4)
    np.testing.assert_allclose(x, StandardScaler().fit_transform(np.arcsinh(raw / columns.scale.numpy())), atol=1e-4)
    assert np.abs(x[:, 2] - StandardScaler().fit_transform(raw[:, 2:])[:, 0]).max() < 0.2


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e-30, NAN])
def test_columns_that_say_nothing(value: float, transform: str) -> None:
    x = torch.tensor([[value, 1.0], [value, NAN], [value, 0.0]], dtype=torch.float64)
    columns = Columns([0, 3], [0], transform)  # type: ignore[arg-type]
    columns.fit(x.split(2))
    assert columns(x).isfinite().all()
    assert columns(x)[:, 0].abs().max() <= 1e-6 + np.nan_to_num(abs(value)) * 2.0**-47
    only = Columns([3], [], transform)  # type: ignore[arg-type]
    only.fit([x[:, 1:]])
    assert only(x[:, 1:]).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


# What the pass learns


@pytest.mark.parametrize("size", [1, 7, 3000])
def test_moments_leave_gaps_out(size: int) -> None:
    x, moments = rows(), Moments()
    x[:5, 0] = NAN
    for batch in x.split(size):
        moments.update(batch)
    table = pd.DataFrame(x.numpy())
    assert moments.rows == 3000
    np.testing.assert_array_equal(moments.count, table.count())
    np.testing.assert_allclose(moments.mean, table.mean(), rtol=1e-14)
    shifted = table.sub([0, 0, 1.7e9, 0, 0, 0.1])
    np.testing.assert_allclose(moments.std[:5], shifted.std(ddof=0)[:5], rtol=1e-8)
    np.testing.assert_array_equal(moments.low, table.min())
    np.testing.assert_array_equal(moments.high, table.max())
    assert moments.std[5] == 0


def test_a_sample_does_not_depend_on_the_batches_and_is_even() -> None:
    x, found = torch.arange(10_000, dtype=torch.float64)[:, None], []
    for size in (1, 33, 10_000):
        sample = Sample(500)
        for batch in x.split(size):
            sample.update(batch)
        found.append(sample.column(0))
    assert len(found[0]) == 500
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert kstest(found[0] / 10_000, "uniform").pvalue > 0.01
    few = Sample(500)
    few.update(torch.tensor([[3.0], [NAN], [1.0]], dtype=torch.float64))
    assert few.column(0).tolist() == [1, 3]


# What is refused


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        (lambda: Columns([]), "codes = .* must hold"),
        (lambda: Columns([0, 1]), "codes = .* must hold"),
        (lambda: Columns([0, -3]), "codes = .* must hold"),
        (lambda: Columns([0, 3], [2]), "gaps = .* must be columns from 0 to 1"),
        (lambda: Columns([0, 3], [1, 0]), "gaps = .* ascending"),
        (lambda: Columns([0, 3], [1, 1]), "gaps = .* ascending"),
        (lambda: Columns([0, 3], transform="square"), "transform = square is not one of none, quantile"),
        (lambda: Columns([0, 3])(torch.zeros(2, 2)), "Columns is not fitted"),
        (lambda: Columns([0, 3]).fit([]), "no rows to fit on"),
        (lambda: Columns([0, 3]).fit([torch.zeros(0, 2)]), "no rows to fit on"),
        (lambda: Columns([3, 0]).fit([torch.tensor([[0, torch.inf], [0, 1]])]), "column 1 holds infinity"),
        (lambda: Columns([0]).fit([torch.tensor([[1e300], [0]], dtype=torch.float64)]), "column 0 .* beyond float32"),
        (lambda: fitted(rows())(torch.zeros(2, 5)), r"of shape \[samples, 6\], not \[2, 5\]"),
        (lambda: fitted(rows())(torch.zeros(2, 6).long()), "Columns takes rows that a schema has encoded"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(apply, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=said) as error:
        apply()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_largest_numbers_are_scored(transform: str) -> None:
    """Where training has seen one number alone, as where it has seen nearly the same ones."""
    largest = torch.finfo(torch.float32).max
    train = torch.stack([torch.zeros(40), 5 + 1e-6 * torch.arange(40.0).double(), torch.linspace(-1, 1, 40)], 1)
    train[::3, 0] = NAN
    columns = Columns([0, 0, 0], [0], transform)  # type: ignore[arg-type]
    columns.fit([train])
    far = columns(torch.tensor([[x] * 3 for x in (-largest, -2.9e38, 2.9e38, largest)]))
    assert (far[:2, :3] < columns(train)[:, :3].amin(0)).all()
    assert (far[2:, :3] > columns(train)[:, :3].amax(0)).all()
    model = Autoencoder([columns.width], MLP([8]), 2, Mixed(), preprocessing=columns)
    for score in (NegativeLogLikelihood(), ReconstructionError()):
        assert (score(model, far) > score(model, columns(train)).max()).all()
        assert score(model, far).isfinite().all()
