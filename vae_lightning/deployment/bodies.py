"""What the body of a request holds, as samples: rows as JSON, the bytes of a table's file, or image files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..arrow import pyarrow
from ..data.readers import Source, open_table
from ..errors import UserError
from ..schema import Encoded
from .opening import reading_of, schema_of
from .scorer import Scorer

JSON, FORM = "application/json", "multipart/form-data"
TABLES = {
    "text/csv": ".csv",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.apache.arrow.stream": ".arrow",
    "application/vnd.apache.arrow.file": ".arrow",
}
FAULTS = 20  # that are named

Pair = tuple[str, bytes]  # the name and the content of a file


class TooManyError(UserError):
    """More rows than a request may have."""


class BadRowsError(UserError):
    """Rows that cannot be scored.

    Attributes:
        faults: The first ones: their numbers from 0, and what is wrong with each.
    """

    def __init__(self, faults: list[dict[str, Any]], rows: int) -> None:
        n = f"{len(faults)} or more" if len(faults) == FAULTS else str(len(faults))
        super().__init__(f"{n} of {rows:,} rows cannot be scored, so none was: {faults[0]['error']}")
        self.faults = faults


class Samples(NamedTuple):
    """Of a request.

    Attributes:
        x: As the detector's graph takes them, (N, *shape).
        notes: What the sender ought to know, each a line.
    """

    x: np.ndarray
    notes: list[str]


def of_json(scorer: Scorer, content: bytes, most: int) -> Samples:
    """The samples of ``{"rows": […]}``: a row is an object, by the names of columns, or a list where there are none.

    Raises:
        UserError: For anything else.
    """
    rows = _parsed(content)
    _check_count(len(rows), most)
    if scorer.schema is None:
        return _encoded(scorer.encoded, _matrix(rows, np.dtype(scorer.manifest.dtype)))
    names = scorer.schema.names
    faults = []
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            faults.append({"row": i, "error": f"row {i} is not an object with the columns' names"})
        elif lacking := [name for name in names if name not in row]:
            faults.append({"row": i, "error": f"row {i} lacks column {lacking[0]!r}: null says that it is missing"})
    if faults:
        raise BadRowsError(faults[:FAULTS], len(rows))
    known = dict.fromkeys(name for row in rows for name in row)
    table: Any = open_table({name: [row.get(name) for row in rows] for name in known}, name="rows")
    return _encoded(scorer.encoded, table.table)


def of_table(scorer: Scorer, content: bytes, suffix: str, most: int) -> Samples:
    """The samples of a CSV, Parquet or Arrow file's bytes, read as a file of that kind is.

    Raises:
        UserError: When it is none, or holds no such table.
    """
    if len(scorer.manifest.shape) > 1:
        raise UserError("the detector takes images, not tables")
    with tempfile.TemporaryDirectory() as folder:  # the readers' way: one implementation, and no large file in memory
        file = Path(folder) / f"body{suffix}"
        file.write_bytes(content)
        try:
            source = open_table(file, *reading_of(scorer.manifest))
            table = _read(source, most)
        except UserError as error:
            raise type(error)(str(error).replace(str(file), "the body")) from None
    if scorer.schema is not None:
        return _encoded(scorer.encoded, table)
    schema = schema_of(scorer.manifest, source)
    return _encoded(lambda part, first: scorer.encoded(schema.encode_array(part, first).x, first), table)


def of_images(scorer: Scorer, files: list[Pair], most: int) -> Samples:
    """The samples of image files.

    Raises:
        UserError: When one is none.
    """
    _check_count(len(files), most)
    decoder, faults, images = scorer.manifest.decoder, [], []
    for i, (name, content) in enumerate(files):
        try:
            images.append(decoder.decode(name, content)[0])
        except UserError as error:
            faults.append({"row": i, "error": str(error)})
    if faults:
        raise BadRowsError(faults[:FAULTS], len(files))
    return Samples(np.stack(images), [])


def _parsed(content: bytes) -> list[Any]:
    try:
        found = json.loads(content, parse_constant=_refuse_constant)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not JSON ({str(error)[:100]})") from None
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list) or len(found) > 1:
        raise UserError('the body is not {"rows": […]}')
    return rows


def _refuse_constant(word: str) -> NoReturn:
    raise UserError(f"the body holds {word}, which JSON has no word for: null says that a value is missing")


def _check_count(rows: int, most: int) -> None:
    if rows > most:
        raise TooManyError(f"a request has at most {most:,} rows, and this one has {rows:,}: send several")
    if not rows:
        raise UserError("the request holds no rows")


def _matrix(rows: list[Any], dtype: np.dtype[Any]) -> np.ndarray:
    """Lists of numbers as an array; null is a gap. Pixels are whole numbers."""
    try:
        x = np.array(rows, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise UserError("rows are not lists of numbers of equal length") from None
    if dtype != np.uint8:
        return x.astype(dtype)
    if not ((x == np.floor(x)) & (x >= 0) & (x <= 255)).all():
        raise UserError("pixels are whole numbers from 0 to 255")
    return x.astype(np.uint8)


def _read(source: Source, most: int) -> Any:
    """A table whole, as long as it is not too long: what is compressed may be much larger than the body."""
    found, rows = [], 0
    for batch in source.batches():
        found.append(batch)
        rows += len(batch)
        if rows > most:
            raise TooManyError(f"a request has at most {most:,} rows, and this one has more: send several")
    _check_count(rows, most)
    return pyarrow().Table.from_batches(found, source.schema)


def _encoded(encode: Callable[[Any, int], Encoded], rows: Any) -> Samples:
    """All rows, or none and a word on each bad one."""
    try:
        found = encode(rows, 0)
    except UserError as error:
        if not str(error).startswith("row "):  # of no row in particular
            raise
        raise BadRowsError(_faults(encode, rows, 0, FAULTS), len(rows)) from None
    notes = [f"column {name!r}: {n:,} values were never seen in training" for name, n in found.unknown.items()]
    if found.extra:
        notes.append(f"columns that the detector does not know are left out: {', '.join(found.extra)}")
    return Samples(found.x, notes)


def _faults(encode: Callable[[Any, int], Any], rows: Any, first: int, most: int) -> list[dict[str, Any]]:
    """What is wrong with single rows, found by halves."""
    try:
        encode(rows, first)
    except UserError as error:
        if len(rows) == 1:
            return [{"row": first, "error": str(error)}]
        half = len(rows) // 2
        found = _faults(encode, rows[:half], first, most)
        if len(found) < most:
            found += _faults(encode, rows[half:], first + half, most - len(found))
        return found
    return []
