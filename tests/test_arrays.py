"""Data of one's own out of Python: arrays, tensors, tables; each mistake has one line."""

import importlib

import numpy as np
import pytest
import torch

from vae_lightning.data import ANOMALY, Arrays
from vae_lightning.detection import Images, Standardize
from vae_lightning.errors import UserError
from vae_lightning.frames import columns_of

X = np.stack([1.7e9 + np.arange(100.0), np.arange(100.0) ** 0.5], 1)
Y = np.arange(100) % 4 == 0


class Column:
    """As pandas and polars have them: a type and ``to_numpy``."""

    def __init__(self, array, dtype=None):
        self.array, self.dtype = np.asarray(array), dtype or np.asarray(array).dtype

    def to_numpy(self, dtype=None, na_value=None):
        if dtype is None:
            return self.array
        return np.array([na_value if value is None else value for value in self.array], dtype)


class Table:
    """As pandas and polars have them: named columns, one by one."""

    def __init__(self, **columns):
        self.table = {
            name: column if isinstance(column, Column) else Column(column) for name, column in columns.items()
        }

    @property
    def columns(self):
        return list(self.table)

    def __getitem__(self, name):
        return self.table[name]

    def __len__(self):
        return len(next(iter(self.table.values())).array) if self.table else 0

    def to_numpy(self):
        raise AssertionError("a table of mixed types would become objects")


def rows(data, split):
    split = data.loader(split).split
    return split[torch.arange(len(split))]


TABLE = Table(t=X[:, 0], r=X[:, 1])


@pytest.mark.parametrize(
    "x", [X, torch.from_numpy(X), X.tolist(), np.asfortranarray(X), X[::-1][::-1], X.astype(">f8"), TABLE]
)
def test_whatever_holds_the_numbers_they_are_the_same(x):
    data, truth = Arrays(x, Y), Arrays(X, Y)
    for split in ("train", "val", "calibration", "test"):
        found, expected = rows(data, split), rows(truth, split)
        assert found.x.dtype == torch.float64
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert torch.equal(found.x, torch.from_numpy(X[found.row]))  # rows are those of the array
        assert torch.equal(found.label == ANOMALY, torch.from_numpy(Y[found.row]))
    assert data.input_shape == [2]
    assert data.columns == (["t", "r"] if isinstance(x, Table) else None)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("f4", torch.float32), ("f8", torch.float64), ("f2", torch.float16), ("i8", torch.float64), ("u1", torch.float64)],
)
def test_numbers_stay_as_exact_as_they_are(dtype, stored):
    data = Arrays((X % 256).astype(dtype))
    assert data.load()[0].x.dtype == stored
    assert isinstance(data.preprocessing, Standardize)  # bytes too: the dtype decides nothing


def test_an_array_alone_is_normal_data():
    data = Arrays(X)
    assert data.classes == ["normal"]
    assert [len(rows(data, split).x) for split in ("train", "val", "calibration", "test")] == [64, 8, 8, 20]
    everything = Arrays(X, test_fraction=0)
    assert [len(rows(everything, split).x) for split in ("train", "val", "calibration")] == [80, 10, 10]
    with pytest.raises(UserError, match="the test split is empty"):
        everything.test_dataloader()


def test_the_test_part_is_stratified_and_drawn_by_the_seed():
    y = np.arange(100) % 10 == 0
    one, other, same = (rows(Arrays(X, y, seed=seed), "test") for seed in (0, 1, 0))
    assert int(one.label.sum()) == int(other.label.sum()) == 2
    assert len(one.label) == 20
    assert one.row.tolist() == same.row.tolist() != other.row.tolist()


@pytest.mark.parametrize("labels", [Y, Y.tolist(), Y.astype(int), torch.from_numpy(Y), Y.astype(float), Column(Y)])
def test_labels_are_zero_for_normal(labels):
    data = Arrays(X, labels)
    assert data.classes == ["normal", "anomaly"]
    assert data.division() == ([0], [1])
    assert torch.equal(rows(data, "test").label, rows(Arrays(X, Y), "test").label)


def test_labels_may_be_classes():
    assert Arrays(X, np.arange(100) % 3).division() == ([0], [1, 2])
    named = Arrays(X, np.arange(100) % 3, classes=["a", "b", "c"], normal_classes=[1, 2])
    assert named.division() == ([1, 2], [0])
    assert named.classes == ["a", "b", "c"]
    assert Arrays(X, None, X, np.arange(100) % 3).division() == ([0], [1, 2])  # anomalies in the test part alone


def test_a_test_part_of_its_own():
    data = Arrays(X[:60].astype(np.float32), None, X[60:], Y[60:])
    train, test = data.load()
    assert train.x.dtype == test.x.dtype == torch.float64
    assert torch.equal(rows(data, "test").x, torch.from_numpy(X[60:]))
    assert rows(data, "test").row.tolist() == list(range(40))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 5, 6), [1, 5, 6]),
        ((9, 3, 5, 6), [3, 5, 6]),
        ((9, 5, 6, 3), [3, 5, 6]),
        ((9, 5, 6, 1), [1, 5, 6]),
        ((9, 3, 5, 3), [3, 5, 3]),
        ((9, 7, 5, 6), [7, 5, 6]),
    ],
)
def test_images_have_their_channels_first(shape, expected):
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    data = Arrays(x, images=True, test_fraction=0)
    assert data.input_shape == expected
    assert isinstance(data.preprocessing, Images)
    assert data.columns is None
    found = rows(data, "train")
    moved = x[found.row].transpose(0, 3, 1, 2) if list(shape[1:]) != expected and len(shape) == 4 else x[found.row]
    assert np.array_equal(found.x.numpy(), moved.reshape(-1, *expected))


def test_the_callers_arrays_are_not_written_to():
    x, y = X.copy(), Y.copy()
    x.flags.writeable = y.flags.writeable = False
    data = Arrays(x, y)
    data.preprocessing.fit(batch.x for batch in data.reference_dataloader())
    for batch in data.train_dataloader():
        data.preprocessing(batch.x)
    assert np.array_equal(x, X)


def test_missing_values_in_a_table_of_ones_own_types_are_named():
    kind = type("Int64", (), {"kind": "i"})()
    table = Table(a=X[:3, 0], b=Column(np.array([1, None, 3], dtype=object), kind))
    x, names = columns_of(table)
    assert names == ["a", "b"]
    assert x[1, 1].isnan()
    with pytest.raises(UserError, match=r"train holds NaN or infinity in row 1, column 1 \('b'\)"):
        Arrays(table)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_tables_of_other_libraries(library):
    module = importlib.import_module(library)
    make = module.table if library == "pyarrow" else module.DataFrame
    table = make({"t": X[:, 0], "r": X[:, 1]})
    if library == "pandas":
        table.index = table.index + 7  # an index is no column
    x, names = columns_of(table)
    assert names == ["t", "r"]
    assert torch.equal(x, torch.from_numpy(X))
    assert Arrays(table, make({"label": np.arange(100) % 2})["label"]).division() == ([0], [1])
    with pytest.raises(UserError, match="column 'word' holds"):
        columns_of(make({"t": [1.0, 2.0], "word": ["a", "b"]}))


def spoilt(value, row=3, column=1):
    x = X.copy()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((spoilt(np.nan),), "train holds NaN or infinity in row 3, column 1"),
        ((X, None, spoilt(-np.inf)), "test holds NaN or infinity in row 3, column 1"),
        ((np.ma.masked_array(X, X[3, 1] == X),), "train holds NaN .* row 3, column 1"),
        ((X.astype(object),), "train: ndarray holds objects"),
        ((X.astype(str),), "train: ndarray holds strings"),
        ((X.astype("M8[s]"),), "train: ndarray holds datetime64"),
        ((X.astype(complex),), "train: complex128 holds complex"),
        ((torch.zeros(3, 3, dtype=torch.complex64),), "train: complex64 holds complex"),
        (([[1, 2], [3]],), "rows of unequal length"),
        ((None,), "train: NoneType holds objects"),
        (("data.csv",), "train: str holds strings"),
        ((Table(a=X[:, 0], word=X[:, 1].astype(str)),), "train: column 'word' holds <U"),
        ((Table(a=X[:, 0], when=X[:, 1].astype("M8[s]")),), "train: column 'when' holds datetime64"),
        ((Table(a=X[:, 0], kind=Column(np.arange(100), "category")),), "train: column 'kind' holds category"),
        ((X[:1],), "train has 1 rows"),
        ((X[:0],), "train has 0 rows"),
        ((X[:, :0],), "train has no columns"),
        ((Table(),), "train has no columns"),
        ((X[:, 0],), r"train has shape \[100\]"),
        ((X[:, :, None],), r"train has shape \[100, 2, 1\].*images=True"),
        ((X, Y[:50]), r"labels has shape \[50\], not \[100\]"),
        ((X, Y[:, None]), r"labels has shape \[100, 1\]"),
        ((X, Y.astype(str)), "labels: ndarray holds strings"),
        ((X, np.where(Y, -1, 0)), "labels holds -1 in row 0"),
        ((X, Y / 2), "labels holds 0.5 in row 0"),
        ((X, np.where(Y, np.nan, 0)), "labels holds nan in row 0"),
        ((X, np.where(Y, 2**40, 0)), "labels holds 1.*in row 0"),
        ((X, None, X, Y[:50]), r"test_labels has shape \[50\]"),
        ((X, None, None, Y), "test_labels are given and test is not"),
        ((X, None, X[:, :1]), r"test has samples of shape \[1\], not \[2\]"),
        (
            (Table(a=X[:, 0], b=X[:, 1]), None, Table(a=X[:, 0], c=X[:, 1])),
            "test has 'c' where train has the column 'b'",
        ),
    ],
)
def test_a_mistake_has_one_line(arguments, message):
    with pytest.raises(UserError, match=f"^Arrays: .*{message}") as error:
        Arrays(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"images": True}, "train holds float64: images are uint8"),
        ({"test_fraction": 1}, "test_fraction = 1 is not a share"),
        ({"test_fraction": float("nan")}, "test_fraction = nan is not a share"),
        ({"labels": Y, "classes": ["one"]}, "names 1, and labels go up to 1"),
        ({"normal_classes": [1]}, r"normal_classes = \[1\] must name at least one class"),
    ],
)
def test_a_wrong_keyword_has_one_line(keywords, message):
    with pytest.raises(UserError, match=f"^Arrays: .*{message}"):
        Arrays(X, **keywords)


def test_labels_without_anything_normal_are_refused():
    with pytest.raises(UserError, match="0 normal samples are too few"):
        Arrays(X, np.ones(100)).setup()
