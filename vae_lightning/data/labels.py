"""What a table says of its rows beside their features: which are normal, when they were, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

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
        raise UserError(f"{source.name}: has a header and no rows" if source.names else f"{source.name}: is empty")
    return Marks(
        rows,
        np.concatenate(labels) if labels else None,
        list(codes),
        np.concatenate(times) if times else None,
    )


def normal_words(words: Sequence[str], chosen: Sequence[Any] | None, column: str, source: str) -> list[str]:
    """Those of a label's values that are normal.

    Args:
        words: All of them.
        chosen: As the user names them; None: 0, false or normal.
        column: Of the label.
        source: What messages call the table.

    Raises:
        UserError: When none is, or one that is named is not there.
    """
    there = f"column {column!r} holds {_listed(words)}"
    if chosen is None:
        found = [word for word in words if word.lower() in NORMAL_WORDS]
        if not found:
            raise UserError(f"{source}: {there}: say with normal_labels which of them are normal")
        return found
    wanted = [str(value).lower() if isinstance(value, bool) else str(value) for value in chosen]
    if unknown := [word for word in wanted if word not in words]:
        raise UserError(f"{source}: normal_labels = {unknown[0]!r} is no value of the label: {there}")
    return wanted


def _listed(words: Sequence[str], most: int = 8) -> str:
    return ", ".join(map(repr, words[:most])) + (f" and {len(words) - most} more" if len(words) > most else "")


def _codes(array: Any, name: str, first_row: int, codes: dict[str, int]) -> np.ndarray:
    words = arrow.texts(array, name)
    _refuse_missing(words.is_null().to_numpy(), name, first_row)
    encoded = words.combine_chunks().dictionary_encode()
    own = np.array([codes.setdefault(word, len(codes)) for word in encoded.dictionary.to_pylist()], np.int64)
    if len(codes) > MOST:
        raise UserError(f"column {name!r} has more than {MOST} values: it is no label")
    return own[encoded.indices.to_numpy()].astype(np.int16)


def _times(array: Any, name: str, first_row: int) -> np.ndarray:
    """Dates as seconds since 1970, numbers as they are."""
    pa = arrow.pyarrow()
    if pa.types.is_string(array.type):
        try:
            array = array.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:
            pass  # numbers perhaps; the message below says that neither is there
    try:
        found = arrow.numbers(array, name, first_row)
    except UserError as error:
        raise UserError(f"{error}, nor a date like 2026-01-31 12:00:00") from None
    _refuse_missing(np.isnan(found), name, first_row)
    return found


def _refuse_missing(missing: np.ndarray, name: str, first_row: int) -> None:
    if missing.any():
        raise UserError(f"row {first_row + int(missing.argmax())}, column {name!r} is missing: every row needs one")
