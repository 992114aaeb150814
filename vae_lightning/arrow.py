"""Columns of any table as Arrow arrays, and their values as numbers or as text: the same whatever they are stored as.

pyarrow is imported when a function is called, and not before.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import UserError

SPELLED = re.compile(
    r"(?P<whole>-?\d+)\.0+|(?P<truth>True|TRUE|False|FALSE)|"
    r"(?P<day>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def pyarrow() -> Any:
    """The module, with ``compute`` and ``interchange``.

    Raises:
        UserError: Where it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.interchange
    except ImportError:
        raise UserError("a table of mixed columns needs pyarrow: pip install 'vae_lightning[table]'") from None
    return pyarrow


def is_table(x: Any) -> bool:
    """Whether x has columns with names: a pyarrow Table or RecordBatch, a DataFrame, a dict of columns."""
    return isinstance(x, Mapping) or any(
        hasattr(x, name) for name in ("column_names", "__arrow_c_stream__", "__dataframe__")
    )


def columns(table: Any) -> dict[str, Callable[[], Any]]:
    """What gives each column of a table as a pyarrow ChunkedArray, by its name; a column not asked for costs nothing.

    Args:
        table: A pyarrow Table or RecordBatch, a DataFrame (pandas, polars, or anything else with ``__arrow_c_stream__``
            or ``__dataframe__``), or a dict of arrays, lists or Series.

    Raises:
        UserError: When two columns have one name, or a column holds what no table column can.
    """
    pa = pyarrow()
    if isinstance(table, Mapping):
        names, at = list(table), lambda i: _array(table[names[i]], str(names[i]))
    elif hasattr(table, "iloc") and hasattr(table, "columns"):
        # pandas itself hands over its index as one more column, and stumbles over mixed ones
        names, at = list(table.columns), lambda i: _array(table.iloc[:, i], str(names[i]))
    else:
        if not isinstance(table, (pa.Table, pa.RecordBatch)):
            table = _read(table)
        names, at = list(table.column_names), lambda i: _chunked(table.column(i))
    labels = [str(name) for name in names]
    if twice := sorted({name for name in labels if labels.count(name) > 1}):
        raise UserError(f"column {twice[0]!r} appears more than once: give each column its own name")
    return {label: (lambda i=i: at(i)) for i, label in enumerate(labels)}  # type: ignore[misc]


def aligned(columns: Iterable[Callable[[], Any]]) -> list[Any]:
    """The columns themselves.

    Raises:
        UserError: When they are of unequal length.
    """
    arrays = [column() for column in columns]
    if len({len(array) for array in arrays}) > 1:
        raise UserError("the table's columns are of unequal length: give each row every column")
    return arrays


def _read(table: Any) -> Any:
    pa = pyarrow()
    if named := [name for name in getattr(table, "columns", []) if isinstance(name, str) and "\0" in name]:
        # polars would end the whole process: a name is a C string in what it hands over
        raise UserError(f"column {named[0]!r}: its name has a null character: rename it")
    try:
        return pa.table(table) if hasattr(table, "__arrow_c_stream__") else pa.interchange.from_dataframe(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{type(table).__name__} holds no table: give it columns with names ({reason})") from error


def _array(values: Any, name: str) -> Any:
    """A pandas Series, a NumPy array or a list as a ChunkedArray; a mixed one becomes text."""
    pa = pyarrow()
    if isinstance(values, (str, bytes)) or not (isinstance(values, Sequence) or hasattr(values, "__array__")):
        raise UserError(f"column {name!r} is a {type(values).__name__}: give a list or an array of values")
    if isinstance(values, np.ma.MaskedArray):
        return pa.chunked_array([pa.array(values.data, mask=np.ma.getmaskarray(values))])
    try:
        return _chunked(pa.array(values, from_pandas=True))
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.chunked_array([pa.array([_text(value, name) for value in values], pa.string())])


def _chunked(array: Any) -> Any:
    pa = pyarrow()
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def numbers(array: Any, name: str, first_row: int = 0) -> np.ndarray:
    """The values of a ChunkedArray as float64 (N,), NaN where one is missing.

    Booleans are 0 and 1; dates and times are seconds (since 1970, where they have a date, in UTC); text is read as
    numbers.

    Args:
        array: As ``columns`` gives it.
        name: What the message calls the column.
        first_row: Where its first value stands in the whole table.

    Raises:
        UserError: When a value is text that is no number, or of a type that holds none.
    """
    pa = pyarrow()
    array = plain(array)
    types, kind = pa.types, array.type
    scale = 1.0
    if types.is_date32(kind):
        array = array.cast(pa.timestamp("s")).cast(pa.int64())
    elif types.is_date64(kind):
        array, scale = array.cast(pa.int64()), 1e3
    elif types.is_timestamp(kind) or types.is_duration(kind) or types.is_time(kind):
        array, scale = array.cast(pa.int32() if types.is_time32(kind) else pa.int64()), PER_SECOND[kind.unit]
    elif types.is_string(kind):
        array = _parsed(array, name, first_row)
    elif not (types.is_null(kind) or types.is_boolean(kind) or _is_number(kind)):
        raise UserError(f"column {name!r} holds {kind}, not numbers: leave it out")
    if types.is_boolean(kind):
        array = array.cast(pa.uint8())
    found = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found if scale == 1 else found / scale


def texts(array: Any, name: str) -> Any:
    """The values of a ChunkedArray as canonical text, a ChunkedArray of strings, null where one is missing.

    The same value is the same text however it is stored: 3 and 3.0 are ``3``, true is ``true``, a day is
    ``2026-01-31`` as a date and as its midnight. Text is as it is, unless it spells one of these: ``3.0``, ``True``,
    ``2026-01-31 00:00:00``.

    Raises:
        UserError: For lists, structs, bytes, and whatever else is no single value.
    """
    pa = pyarrow()
    array = plain(array)
    types, kind = pa.types, array.type
    if types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind):
        return array.cast(pa.string())
    if not (_is_number(kind) or types.is_temporal(kind) or types.is_string(kind)):
        raise UserError(f"column {name!r} holds {kind}, not single values: leave it out")
    if types.is_temporal(kind) or types.is_string(kind):  # as its own text: Python has no nanoseconds
        array = array.cast(pa.string())
        spell: Callable[[Any], str | None] = _spelled
    else:
        spell = (lambda value: _number(np.float32(value))) if kind == pa.float32() else _number
    encoded = array.dictionary_encode().unify_dictionaries()
    chunks = []
    for chunk in encoded.chunks:
        words = pa.array([spell(value) for value in chunk.dictionary.to_pylist()], pa.string())
        chunks.append(words.take(chunk.indices))
    return pa.chunked_array(chunks, pa.string())


def plain(array: Any) -> Any:
    """The values themselves, without a dictionary; text of any layout as strings."""
    pa = pyarrow()
    types, kind = pa.types, array.type
    if types.is_dictionary(kind):  # by hand: not every layout can be decoded
        words = [plain(pa.chunked_array([chunk.dictionary])).combine_chunks() for chunk in array.chunks]
        found = [word.take(chunk.indices) for word, chunk in zip(words, array.chunks, strict=True)]
        return pa.chunked_array(found) if found else plain(pa.chunked_array([], kind.value_type))
    return array.cast(pa.string()) if types.is_large_string(kind) or types.is_string_view(kind) else array


def _is_number(kind: Any) -> bool:
    types = pyarrow().types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def _parsed(array: Any, name: str, first_row: int) -> Any:
    pa = pyarrow()
    try:
        return array.cast(pa.float64())
    except pa.ArrowInvalid:
        for row, value in enumerate(array):
            try:
                value.cast(pa.float64())
            except pa.ArrowInvalid:
                wrong = repr(value.as_py())
                wrong = wrong if len(wrong) <= 40 else f"{wrong[:37]}..."
                raise UserError(f"row {first_row + row}, column {name!r} is {wrong}, not a number") from None
        raise


def _number(value: Any) -> str | None:
    """A float or Decimal as text: whole numbers without a fraction, None for NaN."""
    if value is None or value != value:
        return None
    if abs(value) < 2**63 and value == int(value):
        return str(int(value))
    return format(value.normalize(), "f") if isinstance(value, decimal.Decimal) else str(value)


def _spelled(value: str | None) -> str | None:
    """Text with what it may spell in its canonical form: whole numbers, truth, dates and times as ISO has them."""
    if value is None or not (match := SPELLED.fullmatch(value)):
        return value
    if match["whole"]:
        return match["whole"].removeprefix("-") if match["whole"] == "-0" else match["whole"]
    if match["truth"]:
        return value.lower()
    time, fraction, zone = match["time"], (match["fraction"] or "").rstrip("0").rstrip("."), match["zone"] or ""
    if time == "00:00:00" and not fraction and not zone:
        return match["day"]
    return f"{match['day']}T{time}{fraction}{zone}"


def _text(value: Any, name: str) -> str | None:
    """A Python object as canonical text, None where it is missing."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, str):
        return _spelled(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, decimal.Decimal)):
        return _number(value) if math.isfinite(value) or value != value else str(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return _spelled(str(value))
    raise UserError(f"column {name!r} holds {type(value).__name__}, not single values: leave it out")
