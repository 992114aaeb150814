"""What the columns of a table are, and a row as numbers: categories as codes, NaN where a value is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from . import arrow
from .errors import UserError

Kind = Literal["numeric", "categorical"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Column:
    """A column of numbers or of categories.

    Of K levels a category's code is 0 … K − 1; ``other`` is K, ``unknown`` K + 1; a missing value is NaN.

    Attributes:
        name: As the table has it.
        kind: ``numeric`` or ``categorical``.
        levels: The categories that have codes of their own, most frequent first, as ``texts`` spells them.
        rare: Categories seen in training beyond those: ``other``. What is in neither is ``unknown``.
    """

    name: str
    kind: Kind = "numeric"
    levels: tuple[str, ...] = ()
    rare: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.kind not in get_args(Kind):
            raise UserError(f"schema: column {self.name!r} has kind {self.kind!r}: give numeric or categorical")
        words = [*self.levels, *self.rare]
        if not all(isinstance(word, str) for word in words) or len(set(words)) < len(words):
            raise UserError(f"schema: column {self.name!r}: levels and rare must be strings, each of them once")
        if self.kind == "numeric" and words:
            raise UserError(f"schema: column {self.name!r} is numeric and has levels: leave them out")

    @property
    def codes(self) -> int:
        """K + 2 for K levels, ``other`` and ``unknown`` among them; 0 for numbers."""
        return len(self.levels) + 2 if self.kind == "categorical" else 0


class Encoded(NamedTuple):
    """A table as numbers.

    Attributes:
        x: (N, D) of the schema's dtype: numbers and codes, NaN where a value is missing. A tensor, or an array.
        unknown: How many values of each column no training row had, columns without any left out.
        extra: Columns that the schema does not have, left out.
    """

    x: Any
    unknown: dict[str, int]
    extra: list[str]


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order of a row's numbers.

    Attributes:
        columns: At least one, each with a name of its own.
        dtype: Of encoded rows: float32, or float64 where a column's spread would be lost (timestamps, identifiers).
    """

    columns: tuple[Column, ...]
    dtype: Precision = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            raise UserError(f"schema: dtype = {self.dtype!r} is neither float32 nor float64")
        if not self.columns or len(set(self.names)) < len(self):
            raise UserError("schema: there must be a column, and each needs its own name")

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    @property
    def names(self) -> list[str]:
        """Of the columns, in order."""
        return [column.name for column in self.columns]

    def to_json(self) -> dict[str, Any]:
        """Primitives, for ``from_json``."""
        columns = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(column).items()}
            for column in self.columns
        ]
        return {"columns": columns, "dtype": self.dtype}

    @classmethod
    def from_json(cls, content: Any) -> Schema:
        """The schema that ``to_json`` gave.

        Raises:
            UserError: For anything else.
        """
        entries = content.get("columns") if isinstance(content, dict) else None
        if not isinstance(entries, (list, tuple)) or set(content) != {"columns", "dtype"}:
            raise UserError("schema: expected columns, a list, and dtype")
        keys = set(Column.__dataclass_fields__)
        columns = []
        for entry in entries:
            if not isinstance(entry, dict) or set(entry) != keys:
                raise UserError(f"schema: {str(entry)[:80]} is not a column: expected {', '.join(sorted(keys))}")
            if not all(isinstance(entry[key], (list, tuple)) for key in ("levels", "rare")):
                raise UserError(f"schema: column {entry['name']!r}: levels and rare must be lists")
            columns.append(Column(entry["name"], entry["kind"], tuple(entry["levels"]), tuple(entry["rare"])))
        return cls(tuple(columns), content["dtype"])

    def encode(self, table: Any, first_row: int = 0) -> Encoded:
        """Rows as numbers; columns are matched by name, in any order.

        Args:
            table: See ``columns``; or an (N, D) array or tensor that is encoded already, which is checked.
            first_row: Where the first row stands in the whole, for messages.

        Raises:
            UserError: When a column is missing or there twice; a number is infinite or no number, a code no code.
        """
        return next(self.encode_batches(table, first_row, None))

    def encode_batches(self, table: Any, first_row: int = 0, rows: int | None = 65_536) -> Iterator[Encoded]:
        """``encode``, so many rows at a time; at least one batch, if an empty one."""
        from torch import from_numpy

        return (found._replace(x=from_numpy(found.x)) for found in self._batches(table, first_row, rows))

    def encode_array(self, table: Any, first_row: int = 0) -> Encoded:
        """``encode`` with x as a NumPy array: whoever scores with an exported file need not have torch."""
        return next(self._batches(table, first_row, None))

    def _batches(self, table: Any, first_row: int, rows: int | None) -> Iterator[Encoded]:
        if not arrow.is_table(table):
            yield self._checked(_array(table), first_row)
            return
        given = arrow.columns(table)
        if missing := [name for name in self.names if name not in given]:
            raise UserError(f"the table lacks column{'s' * (len(missing) > 1)} {', '.join(missing)}")
        arrays, known = arrow.aligned(given[name] for name in self.names), set(self.names)
        n = len(arrays[0])
        extra = [name for name in given if name not in known]
        for start in range(0, max(1, n), rows or max(1, n)):
            slices = [array.slice(start, rows) for array in arrays]
            yield self._encoded(slices, first_row + start)._replace(extra=extra)

    def _encoded(self, arrays: Sequence[Any], first_row: int) -> Encoded:
        columns, unknown = [], {}
        for column, array in zip(self.columns, arrays, strict=True):
            if column.kind == "numeric":
                found = arrow.numbers(array, column.name, first_row)
                self._refuse(np.isinf(found), found, column, first_row, "fill it in, or leave the row out")
            else:
                found = _codes(array, column)
                if count := int((found == column.codes - 1).sum()):
                    unknown[column.name] = count
            columns.append(found)
        return Encoded(self._stacked(columns), unknown, [])

    def _stacked(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        x = np.empty((len(columns[0]), len(columns)), self.dtype)
        most = np.finfo(x.dtype).max  # a number beyond float32 is far out, and not infinite
        for i, found in enumerate(columns):
            np.clip(found, -most, most, out=x[:, i], casting="same_kind")
        return x

    def _checked(self, x: np.ndarray, first_row: int) -> Encoded:
        if x.ndim != 2 or x.shape[1] != len(self):
            raise UserError(f"encoded rows have shape [rows, {len(self)}], not {list(x.shape)}")
        unknown = {}
        columns = [found.astype(np.float64) for found in x.T]
        for column, found in zip(self.columns, columns, strict=True):
            if column.kind == "numeric":
                self._refuse(np.isinf(found), found, column, first_row, "fill it in, or leave the row out")
                continue
            good = np.isnan(found) | ((found >= 0) & (found < column.codes) & (found == np.floor(found)))
            self._refuse(~good, found, column, first_row, f"codes are 0 to {column.codes - 1}, or NaN")
            if count := int((found == column.codes - 1).sum()):
                unknown[column.name] = count
        return Encoded(self._stacked(columns), unknown, [])

    @staticmethod
    def _refuse(bad: np.ndarray, found: np.ndarray, column: Column, first_row: int, what: str) -> None:
        if bad.any():
            row = int(bad.argmax())
            raise UserError(f"row {first_row + row}, column {column.name!r} is {found[row]:g}: {what}")


def _array(x: Any) -> np.ndarray:
    if isinstance(x, np.ndarray) and not isinstance(x, np.ma.MaskedArray) and x.dtype.kind in "iufb":
        return x
    from .frames import columns_of  # imports torch

    return columns_of(x)[0].numpy()


def _codes(array: Any, column: Column) -> np.ndarray:
    """float64 (N,): the codes of a column's values, NaN where one is missing."""
    pa = arrow.pyarrow()
    words = arrow.texts(array, column.name)
    places = pa.compute.index_in(words, value_set=pa.array([*column.levels, *column.rare], pa.string()))
    places = places.cast(pa.float64()).to_numpy(zero_copy_only=False)
    codes = np.minimum(places, len(column.levels))  # NaN stays NaN
    missing = words.is_null().to_numpy(zero_copy_only=False).astype(bool)
    codes[np.isnan(codes) & ~missing] = column.codes - 1
    return codes
