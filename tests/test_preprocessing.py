"""From raw samples to a network's input: scikit-learn's StandardScaler in double precision is the truth."""

import io
import itertools

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from vae_lightning.data import Digits
from vae_lightning.detection import Images, Preprocessing, Standardize, Unchanged
from vae_lightning.errors import UserError

NUMBERS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8]
NUMBERS += [torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def table(rows=1000, seed=0):
    """A well-behaved column, timestamps of a minute, one far from zero and small, one large and one constant."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=rows), 1.7e9 + rng.uniform(0, 60, rows), 1e-3 + 1e-9 * rng.normal(size=rows)
    return torch.from_numpy(np.stack([*columns, 1e20 * rng.exponential(size=rows), np.full(rows, 0.1)], 1))


def fitted(x, *sizes):
    """Standardize fitted on x in batches of these sizes, the last one over and over."""
    sizes, batches = sizes or (len(x),), []
    for size in itertools.chain(sizes, itertools.repeat(sizes[-1])):
        batches.append(x[:size])
        x = x[size:]
        if not len(x):
            break
    standardize = Standardize()
    standardize.fit(batches)
    return standardize


# The contract


@pytest.mark.parametrize(
    ("preprocessing", "raw"),
    [
        (Images(), torch.arange(256, dtype=torch.uint8).view(16, 1, 4, 4)),
        (Unchanged(), torch.randn(16, 3)),
        (fitted(table()), table(16, seed=1)),
    ],
)
def test_every_preprocessing_keeps_to_the_contract(preprocessing, raw):
    assert isinstance(preprocessing, Preprocessing)
    assert preprocessing.fitted
    before, x = raw.clone(), preprocessing(raw)
    assert torch.equal(raw, before)
    assert (x.dtype, x.shape) == (torch.float32, raw.shape)
    assert torch.equal(preprocessing(raw), x)
    assert torch.equal(torch.cat([preprocessing(row) for row in raw.split(3)]), x)  # of each sample alone
    assert not list(preprocessing.parameters())
    assert all(buffer.dtype != torch.float64 for buffer in preprocessing.buffers())  # not every device has it
    preprocessing.check(raw, list(raw.shape[1:]))
    free = torch.export.Dim("batch", min=1)
    exported = torch.export.export(preprocessing, (raw,), dynamic_shapes=({0: free},)).module()
    for n in (1, 5, 16):
        assert torch.equal(exported(raw[:n]), x[:n])


def test_images_are_what_the_loader_made_of_them():
    x = Digits(normal_classes=[0]).load()[0].x
    assert torch.equal(Images()(x), x.float().div_(255))
    assert Images()(torch.tensor([[0, 255]], dtype=torch.uint8)).tolist() == [[0.0, 1.0]]


# Standardize


@pytest.mark.parametrize("sizes", [(1000,), (1,), (7,), (1, 999), (999, 1), (0, 500, 0, 3)])
def test_a_table_is_standardised_as_scikit_learn_does_in_double_precision(sizes):
    train, new = table(), table(100, seed=1)
    standardize = fitted(train, *sizes)
    # its own reading of "constant" asks for an offset below the spread, so it is shown the centred timestamps
    offset = torch.tensor([0.0, 1.7e9, 1e-3, 0.0, 0.0], dtype=torch.float64)
    truth = StandardScaler().fit((train - offset).numpy())
    for x in (train, new):
        expected = torch.from_numpy(truth.transform((x - offset).numpy()))[:, :4]
        torch.testing.assert_close(standardize(x)[:, :4].double(), expected, rtol=1e-6, atol=1e-6)
        assert (standardize(x)[:, 4].abs() < 1e-12).all()
    assert standardize.std[4] == 1


def test_timestamps_survive():
    """A second is a second, where float32's grid is 128."""
    seconds = torch.arange(86_400, dtype=torch.int64) + 1_700_000_000
    standardize = fitted(seconds[:, None], 1024)
    x = standardize(seconds[:, None]).flatten()
    exact = (torch.arange(86_400).double() - 43_199.5) / ((86_400**2 - 1) / 12) ** 0.5
    torch.testing.assert_close(x.double(), exact, rtol=2e-7, atol=0)
    assert (x.diff() > 0).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1000.1, -1e30, 1e-30, 1.7e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_column_is_only_centred(value, dtype):
    x = torch.full((1001, 1), value, dtype=dtype)
    standardize = fitted(x, 100)
    assert standardize.std.item() == 1
    assert abs(standardize(x)).max() <= abs(value) * 2.0**-47
    if abs(value) < 1e10:
        torch.testing.assert_close(standardize(x.double() + 3), torch.full((1001, 1), 3.0), rtol=1e-6, atol=1e-6)


def test_a_spread_that_float32_cannot_hold_is_no_spread():
    standardize = fitted(1e-42 * torch.randn(50, 1, dtype=torch.float64))
    assert standardize.std.item() == 1


@pytest.mark.parametrize("dtype", NUMBERS)
def test_the_same_number_gives_the_same_bits(dtype):
    raw = torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype)
    if dtype != torch.bool:
        raw = torch.tensor([[0, 100], [7, 3], [55, 1]]).to(dtype)
    double = fitted(raw.double())
    assert all(torch.equal(a, b) for a, b in zip(fitted(raw).buffers(), double.buffers(), strict=True))
    assert torch.equal(double(raw), double(raw.double()))
    assert torch.equal(double(raw), double(raw.float()))


def test_a_stream_is_as_good_as_the_whole():
    x = table(3000)
    whole, streamed = fitted(x), fitted(x, 11)
    for name in ("mean", "std"):
        torch.testing.assert_close(getattr(streamed, name), getattr(whole, name), rtol=2e-7, atol=0)
    torch.testing.assert_close(streamed(x), whole(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_features_may_have_any_shape(shape):
    x = torch.randn(20, *shape) * 3 + 1
    assert fitted(x).mean.shape == shape
    torch.testing.assert_close(fitted(x)(x), (x - x.mean(0)) / x.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_what_is_learnt_travels_in_a_state_dict():
    x, file = table(), io.BytesIO()
    one, other = nn.Sequential(fitted(x)), nn.Sequential(Standardize())
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other[0].fitted
    assert torch.equal(one(x), other(x))
    other.load_state_dict(nn.Sequential(fitted(x[:, :2])).state_dict())  # another width
    assert other(x[:, :2]).shape == (1000, 2)
    other.load_state_dict(nn.Sequential(Standardize()).state_dict())
    assert not other[0].fitted


# What is refused


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda: Standardize()(torch.zeros(3, 2)), "Standardize is not fitted: fit it"),
        (lambda: Standardize().fit([]), "no samples to fit on"),
        (lambda: Standardize().fit([torch.zeros(0, 2)]), "no samples to fit on"),
        (lambda: fitted(torch.tensor([[0.0, 1.0], [0.0, float("nan")]])), "column 1 holds NaN, infinity"),
        (lambda: fitted(torch.tensor([[0.0, float("inf")], [0.0, 1.0]]), 1), "column 1 holds NaN, infinity"),
        (lambda: fitted(torch.tensor([[1e300], [0.0]], dtype=torch.float64)), "column 0 holds .* beyond float32"),
        (lambda: fitted(torch.zeros(3, 2, dtype=torch.complex64)), "Standardize takes real numbers, not complex64"),
        (lambda: fitted(table())(torch.zeros(3, 1)), r"of shape \[samples, 5\], not \[3, 1\]"),
        (lambda: fitted(table()).check(np.zeros((3, 5)), [5]), "takes a tensor of real numbers, not ndarray"),
        (
            lambda: Images()(torch.zeros(3, 1, 2, 2)),
            r"Images takes uint8 .*, not float32 of shape \[3, 1, 2",
        ),
        (lambda: Images().check(torch.zeros(3, 4, dtype=torch.uint8), [5]), r"of shape \[samples, 5\], not \[3, 4\]"),
        (lambda: Unchanged()(torch.zeros(3, 2).double()), "Unchanged takes float32, not float64"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(apply, message):
    with pytest.raises(UserError, match=message) as error:
        apply()
    assert "\n" not in str(error.value)
