"""A schema: the same row is the same numbers, whatever library holds it and however its values are stored."""

import datetime
import decimal
import json
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from vae_lightning import arrow
from vae_lightning.errors import UserError
from vae_lightning.schema import Column, Schema

SCHEMA = Schema(
    (
        Column("amount"),
        Column("country", "categorical", ("DE", "3", "true"), ("FR", "é")),
        Column("day", "categorical", ("2026-01-31",)),
    )
)
ROWS: dict[str, list[Any]] = {
    "amount": [1.5, None, 3.0, -2.0, 1e300],
    "country": ["DE", "3", None, "FR", "XX"],
    "day": [datetime.date(2026, 1, 31), None, datetime.date(2026, 2, 1), None, datetime.date(2026, 1, 31)],
}
NAN, MOST = float("nan"), float(torch.finfo(torch.float32).max)
CODES = [[1.5, 0, 0], [NAN, 1, NAN], [3, NAN, 2], [-2, 3, NAN], [MOST, 4, 0]]  # other is 3, unknown 4 and 2

TABLES: dict[str, Any] = {
    "a dict of lists": ROWS,
    "a dict of arrays": {name: np.array(column, object) for name, column in ROWS.items()},
    "a dict of masked arrays": {
        **ROWS,
        "amount": np.ma.masked_invalid([1.5, NAN, 3, -2, 1e300]),
    },
    "pandas": pd.DataFrame(ROWS),
    "pandas, its own types": pd.DataFrame(ROWS).convert_dtypes(),
    "pandas, dates as midnights": pd.DataFrame(ROWS).assign(day=pd.to_datetime(ROWS["day"])),
    "pandas, categories": pd.DataFrame(ROWS).astype({"country": "category"}),
    "pandas, another index": pd.DataFrame(ROWS, index=list("vwxyz")),
    "polars": pl.DataFrame(ROWS),
    "polars, categories": pl.DataFrame(ROWS).with_columns(pl.col("country").cast(pl.Categorical)),
    "pyarrow": pa.table(ROWS),
    "pyarrow, dictionaries": pa.table({**ROWS, "country": pa.array(ROWS["country"]).dictionary_encode()}),
    "pyarrow, in pieces": pa.concat_tables([pa.table(ROWS).slice(i, 1) for i in range(5)]),
    "a record batch": pa.RecordBatch.from_pydict(ROWS),
    "text": pa.table(ROWS).cast(pa.schema([(name, pa.string()) for name in ROWS])),
    "another order": pa.table(dict(reversed(ROWS.items()))),
}


def same(found: Tensor, wanted: Any) -> bool:
    return np.array_equal(found.numpy(), np.array(wanted, found.numpy().dtype), equal_nan=True)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_gives_the_same_numbers(name: str) -> None:
    found = SCHEMA.encode(TABLES[name])
    assert found.x.dtype == torch.float32
    assert same(found.x, CODES)
    assert found.unknown == {"country": 1, "day": 1}
    assert found.extra == []


def test_in_batches_it_is_the_same() -> None:
    parts = list(SCHEMA.encode_batches(TABLES["pyarrow, in pieces"], rows=2))
    assert [len(part.x) for part in parts] == [2, 2, 1]
    assert same(torch.cat([part.x for part in parts]), CODES)
    with pytest.raises(UserError, match="row 13, column 'amount' is 'x', not a number"):
        list(SCHEMA.encode_batches({**ROWS, "amount": ["1", "x", "2", "y", "3"]}, 12, rows=1))


def test_no_rows_are_no_rows() -> None:
    empty = pa.chunked_array([], pa.dictionary(pa.int8(), pa.string_view()))
    tables = [pa.table(ROWS).slice(0, 0), pd.DataFrame(ROWS)[:0], *(dict.fromkeys(ROWS, no) for no in ([], empty))]
    for table in tables:
        assert SCHEMA.encode(table).x.shape == (0, 3)


def test_other_columns_are_left_out_and_named() -> None:
    table = pd.DataFrame({"note": [object()] * 5, **ROWS, "list": [[1]] * 5})
    found = SCHEMA.encode(table)
    assert found.extra == ["note", "list"]
    assert same(found.x, CODES)


def test_what_is_encoded_already_is_checked_and_passed_on() -> None:
    for rows in (np.array(CODES), torch.tensor(CODES), CODES):
        found = SCHEMA.encode(rows)
        assert same(found.x, CODES)
        assert found.unknown == {"country": 1, "day": 1}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (pa.array([3, None], pa.int8()), ["3", None]),
        (pa.array([2**63], pa.uint64()), ["9223372036854775808"]),
        (pa.array([3.0, -0.0, 0.1, 1e300, NAN, float("inf"), None]), ["3", "0", "0.1", "1e+300", None, "inf", None]),
        (pa.array([3, 0.1, None], pa.float32()), ["3", "0.1", None]),
        (pa.array([decimal.Decimal("3.00"), decimal.Decimal("3.10")]), ["3", "3.1"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array(["3.0", "-0.0", "007", "1.10", "True", ""]), ["3", "0", "007", "1.10", "true", ""]),
        (pa.array(["2026-01-31 00:00:00", "2026-01-31 05:06:07.500"]), ["2026-01-31", "2026-01-31T05:06:07.5"]),
        *[
            (pa.array([datetime.datetime(2026, 1, 31, 5, 6, 7), None], kind), ["2026-01-31T05:06:07", None])
            for kind in map(pa.timestamp, ("s", "ms", "us", "ns"))
        ],
        (pa.array([datetime.datetime(2026, 1, 31)], pa.timestamp("us", "UTC")), ["2026-01-31T00:00:00Z"]),
        (pa.array([datetime.date(2026, 1, 31)], pa.date64()), ["2026-01-31"]),
        (pa.array([datetime.time(5, 6)]), ["05:06:00.000000"]),
        (pa.array([None, None]), [None, None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    ],
)
def test_canonical_text(values: Any, words: list[str | None]) -> None:
    assert arrow.texts(pa.chunked_array([values]), "x").to_pylist() == words


def test_objects_of_python_are_spelled_as_arrow_spells_them() -> None:
    day = datetime.datetime(2026, 1, 31, 5, 6)
    mixed = [3, 3.0, np.float64(0.5), True, "3.0", "a", None, NAN, pd.NA, pd.NaT, decimal.Decimal("2.50"), day]
    found = arrow.columns({"x": np.array(mixed, object)})["x"]()
    words = ["3", "3", "0.5", "true", "3", "a", None, None, None, None, "2.5", "2026-01-31T05:06:00"]
    assert arrow.texts(found, "x").to_pylist() == words


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (pa.array([1, None], pa.int64()), [1, NAN]),
        (pa.array([2**62 + 1]), [2.0**62]),
        (pa.array([True, None]), [1, NAN]),
        (pa.array(["1", "-1.5e3", None, "nan"]), [1, -1500, NAN, NAN]),
        (pa.array([decimal.Decimal("1.25")]), [1.25]),
        (pa.array([datetime.date(1970, 1, 2), None]), [86_400, NAN]),
        *[(pa.array([datetime.datetime(1970, 1, 2, 0, 0, 1)], pa.timestamp(unit)), [86_401]) for unit in ("s", "ns")],
        (pa.array([datetime.time(0, 1)]), [60]),
        (pa.array([datetime.timedelta(hours=1)]), [3600]),
        (pa.array([None, None]), [NAN, NAN]),
        (pa.array([1.5], pa.float16()), [1.5]),
    ],
)
def test_numbers(values: Any, found: list[float]) -> None:
    assert np.array_equal(arrow.numbers(pa.chunked_array([values]), "x"), found, equal_nan=True)


def test_timestamps_keep_their_seconds_in_double_precision() -> None:
    seconds = 1_700_000_000 + np.arange(5)
    schema = Schema((Column("time"),), "float64")
    found = schema.encode({"time": pd.to_datetime(seconds, unit="s")}).x
    assert found.dtype == torch.float64
    assert np.array_equal(found[:, 0].numpy(), seconds)


# Its file


def test_it_travels_as_primitives() -> None:
    content = SCHEMA.to_json()
    assert Schema.from_json(json.loads(json.dumps(content))) == SCHEMA
    assert SCHEMA.names == ["amount", "country", "day"]
    assert [column.codes for column in SCHEMA] == [0, 5, 3]
    assert len(SCHEMA) == 3


def changed(**keys: Any) -> dict[str, Any]:
    return {**SCHEMA.to_json(), "columns": [{"name": "a", "kind": "numeric", "levels": [], "rare": [], **keys}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "expected columns"),
        ({}, "expected columns"),
        ({"columns": [], "dtype": "float32"}, "there must be a column"),
        ({**SCHEMA.to_json(), "dtype": "int8"}, "dtype = 'int8'"),
        ({**SCHEMA.to_json(), "dtype": []}, "dtype"),
        ({**SCHEMA.to_json(), "more": 1}, "expected columns"),
        ({**SCHEMA.to_json(), "columns": 2 * SCHEMA.to_json()["columns"]}, "its own name"),
        ({**SCHEMA.to_json(), "columns": ["a"]}, "is not a column"),
        (changed(kind="picture"), "kind 'picture'"),
        (changed(kind=[]), "kind"),
        (changed(name=5), "column 5"),
        (changed(name=[]), "column"),
        (changed(levels="ab"), "must be lists"),
        (changed(kind="categorical", levels=[1]), "must be strings"),
        (changed(kind="categorical", levels=[[]]), "must be strings"),
        (changed(kind="categorical", levels=["a"], rare=["a"]), "each of them once"),
        (changed(levels=["a"]), "is numeric and has levels"),
        (changed(extra=1), "is not a column"),
    ],
)
def test_a_file_that_is_no_schema_is_refused(content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        Schema.from_json(content)
    assert "\n" not in str(error.value)


# What is refused


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"amount": [1]}, "^the table lacks columns country, day$"),
        ({**ROWS, "day": [None]}, "of unequal length"),
        ({**ROWS, "amount": [1, 2, "x", 3, 4]}, "^row 2, column 'amount' is 'x', not a number$"),
        ({**ROWS, "amount": pa.array(["1", "2", "", "3", "4"])}, "^row 2, column 'amount' is '', not a number$"),
        ({**ROWS, "amount": [1, 2, 3, float("-inf"), 4]}, "^row 3, column 'amount' is -inf: fill it in"),
        ({**ROWS, "amount": ["1", "2", "3", "inf", "4"]}, "^row 3, column 'amount' is inf: fill it in"),
        ({**ROWS, "amount": [b"1"] * 5}, "column 'amount' holds binary"),
        ({**ROWS, "country": [["DE"]] * 5}, "column 'country' holds list"),
        ({**ROWS, "country": [{"a": 1}] * 5}, "column 'country' holds struct"),
        ({**ROWS, "country": np.array([object()] * 5)}, "column 'country' holds object"),
        ({**ROWS, "country": "DE"}, "column 'country' is a str"),
        ({**ROWS, "country": 1}, "column 'country' is a int"),
        (pd.DataFrame(np.zeros((5, 4)), columns=[*ROWS, "day"]), "'day' appears more than once"),
        (pa.table([[1], [2]], ["day", "day"]), "'day' appears more than once"),
        ({1: [1], "1": [2]}, "'1' appears more than once"),
        (pd.Series([1.0]), "Series holds no table"),
        (pl.DataFrame({"a\0b": [1.0]}), r"column 'a\\x00b': its name has a null character"),
        (np.zeros((5, 2)), r"encoded rows have shape \[rows, 3\], not \[5, 2\]"),
        (np.zeros(3), r"encoded rows have shape \[rows, 3\], not \[3\]"),
        (np.array([[0, 5, 0]]), "^row 0, column 'country' is 5: codes are 0 to 4, or NaN$"),
        (np.array([[0, 0.5, 0]]), "^row 0, column 'country' is 0.5"),
        (np.array([[0, -1, 0]]), "^row 0, column 'country' is -1"),
        (np.array([[0, np.inf, 0]]), "^row 0, column 'country' is inf"),
        (np.array([[np.inf, 0, 0]]), "^row 0, column 'amount' is inf"),
        (np.array([["1", "a", "b"]]), "holds strings, not numbers"),
    ],
)
def test_what_is_no_row_is_refused_in_one_line(table: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        SCHEMA.encode(table)
    assert "\n" not in str(error.value)
