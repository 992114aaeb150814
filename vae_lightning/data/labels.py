"""What a table says of its rows beside their features: which are normal, when they were, and how many there are."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import arrow
from ..errors import UserError
from .readers import Source

NORMAL_WORDS = "0", "false", "normal"  # of labels that do not say which value is normal
MOST = 1000  # values of a label


class Marks(NamedTuple):
    """Of N rows.

    Attributes:
        rows: N.
        label: int16 (N,), places in ``words``; None without labels.
        words: The values of the label as text, in the order of their appearance.
        time: float64 (N,), seconds or whatever the column counts; None without times.
    """

    rows: int
    label: np.ndarray | None
    words: list[str]
    time: np.ndarray | None


def read_marks(source: Source, label: str | None, time: str | None) -> Marks:
    """One pass over the columns that hold labels and times; none for a count that the file itself knows.

    Raises:
        UserError: For an empty table, or a row without label or time.
    """
    columns = list(dict.fromkeys(name for name in (label, time) if name is not None))
    codes: dict[str, int] = {}
    labels, times, rows = [], [], 0
    if not columns and source.rows is not None:
        rows = source.rows
    else:

        def read(batch: Any, first_row: int) -> int:
            given = arrow.columns(batch)
            if label is not None:
                labels.append(_codes(given[label](), label, first_row, codes))
            if time is not None:
                times.append(_times(given[time](), time, first_row))
            return len(batch)

        rows = sum(source.apply(read, columns=columns or source.names[:1]))
    if not rows:
        raise UserError(f"{source.name}: has columns, and no rows")
    return Marks(
        rows,
        np.concatenate(labels) if labels else None,
        list(codes),
        np.concatenate(times) if times else None,
    )


class Classes(NamedTuple):
    """The values of a label as classes.

    Attributes:
        names: Of the classes, the normal ones first.
        normal: How many of them are normal.
        train: int16 (N,), the class of each row of the training part.
        test: The same of the test part; None without one of its own.
    """

    names: list[str]
    normal: int
    train: Tensor
    test: Tensor | None


def classes(train: Marks, test: Marks | None, column: str | None, chosen: Sequence[Any] | None, source: str) -> Classes:
    """Classes of the rows of both parts; a part without labels is normal.

    Args:
        train: The training part's.
        test: The test part's, None without one of its own.
        column: Of the label; None if there is none.
        chosen: The values that are normal, as the user names them; None: 0, false or normal.
        source: What messages call the training part.

    Raises:
        UserError: When no value is normal, or one that is named is not there.
    """
    words = list(dict.fromkeys([*train.words, *(test.words if test else [])]))
    normal = _normal(words, chosen, column, source) if column is not None else ["normal"]
    names = [*normal, *(word for word in words if word not in normal)]
    own, other = _classes(train, names), None if test is None else _classes(test, names)
    if not (own < len(normal)).any():
        raise UserError(f"{source}: no row is normal: column {column!r} holds {_listed(train.words)}")
    return Classes(names, len(normal), own, other)


def _classes(marks: Marks, names: list[str]) -> Tensor:
    if marks.label is None:
        return torch.zeros(marks.rows, dtype=torch.int16)
    places = np.array([names.index(word) for word in marks.words], np.int16)
    return torch.from_numpy(places[marks.label])


def _normal(words: Sequence[str], chosen: Sequence[Any] | None, column: str, source: str) -> list[str]:
    there = f"column {column!r} holds {_listed(words)}"
    if chosen is None:
        found = [word for word in words if word.lower() in NORMAL_WORDS]
        if not found:
            raise UserError(f"{source}: {there}: say with normal_labels which of them are normal")
        return found
    wanted = [str(value).lower() if isinstance(value, bool) else str(value) for value in chosen]
    if unknown := [word for word in wanted if word not in words]:
        raise UserError(f"{source}: normal_labels = {unknown[0]!r} is not a value of the label: {there}")
    return wanted


def _listed(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(map(repr, words[:most])) + (f" and {len(words) - most} more" if len(words) > most else "")


def _codes(array: Any, name: str, first_row: int, codes: dict[str, int]) -> np.ndarray:
    words = arrow.texts(array, name)
    _refuse_missing(words.is_null().to_numpy(), name, first_row)
    encoded = words.combine_chunks().dictionary_encode()
    own = np.array([codes.setdefault(word, len(codes)) for word in encoded.dictionary.to_pylist()], np.int64)
    if len(codes) > MOST:
        raise UserError(f"column {name!r} has more than {MOST} values: it is not a label")
    return own[encoded.indices.to_numpy()].astype(np.int16)


def _times(array: Any, name: str, first_row: int) -> np.ndarray:
    """Dates as seconds since 1970, numbers as they are."""
    pa = arrow.pyarrow()
    array = arrow.plain(array)
    if pa.types.is_string(array.type):
        with contextlib.suppress(pa.ArrowInvalid):  # numbers perhaps
            array = array.cast(pa.timestamp("us"))
    try:
        found = arrow.numbers(array, name, first_row)
    except UserError as error:
        raise UserError(f"{error}, nor a date like 2026-01-31 12:00:00") from None
    _refuse_missing(np.isnan(found), name, first_row)
    return found


def _refuse_missing(missing: np.ndarray, name: str, first_row: int) -> None:
    if missing.any():
        raise UserError(f"row {first_row + int(missing.argmax())}, column {name!r} is missing: every row needs one")
