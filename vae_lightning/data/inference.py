"""What the columns of a table hold, found out in one pass: numbers or categories, which ones, and what is no feature.

The levels of a category, what is constant and where there are gaps are those of the rows that are trained on: what the
calibration's rows alone hold is as new to the detector as what comes later, or its p-values would promise too much.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import arrow
from ..detection.statistics import Moments
from ..errors import UserError
from ..schema import Column, Schema
from .readers import Source
from .words import Words

MANY = 1000  # distinct numbers in a text column: it is one of numbers
RARE = 10_000  # values beyond the levels whose names are kept
FEW = 20  # rows, of which nothing is guessed
TYPO = 0.01  # share of text among numbers below which it is a mistake
COARSE = 1e-3  # of a standard deviation, which float32 must not round off
LABELS = {"anomaly", "class", "is_anomaly", "is_outlier", "label", "labels", "outlier", "target", "y"}

EMPTY = "no row that is trained on has a value: left out"
IDENTIFIER = "different in each row, an identifier: left out; declare it categorical or numeric if it is not one"
DATES = "dates: left out; declare it as time to split by, or numeric to count its seconds"
NESTED = "neither numbers nor text: left out"
CONSTANT = "always the same in training: kept, so anything else will look anomalous; ignore it if that means nothing"
MIXED = "numbers and text: taken as categories"
LABEL = "like a label by its name, and taken as a feature: declare it as label, or ignore it"


class Found(NamedTuple):
    """What became of a table's columns.

    Attributes:
        schema: Of those that are features.
        gaps: Places, in the schema, of columns in which rows that are trained on lack a value.
        guesses: Names of columns by what was guessed of them.
    """

    schema: Schema
    gaps: list[int]
    guesses: dict[str, list[str]]


def infer(
    source: Source,
    trained: np.ndarray,
    left_out: Collection[str],
    numeric: Sequence[str],
    categorical: Sequence[str],
    max_levels: int,
) -> Found:
    """Go through a table once and say what its columns hold.

    Args:
        source: The table.
        trained: bool (N,), the rows that are trained on.
        left_out: Columns that are no features.
        numeric: Columns that are numbers, whatever they look like.
        categorical: Columns that are categories.
        max_levels: Categories that get a code of their own.

    Raises:
        UserError: When no feature is left, or text stands among a column's numbers.
    """
    names = [name for name in source.names if name not in left_out]
    declared = dict.fromkeys(numeric, "numeric") | dict.fromkeys(categorical, "categorical")
    tallies = [Tally(name, source.schema.field(name).type, declared.get(name)) for name in names]
    seen = 0

    def update(batch: Any, first_row: int) -> None:
        nonlocal seen
        rows = trained[seen : seen + len(batch)]
        seen += len(batch)
        given = arrow.columns(batch)
        for tally in tallies:
            tally.update(given[tally.name], rows, first_row)

    if names:
        for _ in source.apply(update, columns=names):
            pass
    columns: list[Column] = []
    gaps: list[int] = []
    guesses: dict[str, list[str]] = {}
    coarse = False
    for tally in tallies:
        column, guess = tally.decide(source, len(trained), max_levels)
        if guess:
            guesses.setdefault(guess, []).append(tally.name)
        if column:
            gaps += [len(columns)] if tally.missing else []
            columns.append(column)
            coarse = coarse or tally.coarse
    if not columns:
        raise UserError(f"{source.name}: no column is left to train on: declare one numeric or categorical")
    return Found(Schema(tuple(columns), "float64" if coarse else "float32"), gaps, guesses)


class Tally:
    """What is known of a column so far.

    Args:
        name: Of the column.
        kind: Its Arrow type.
        declared: ``numeric``, ``categorical``, or None for what it looks like.
    """

    def __init__(self, name: str, kind: Any, declared: str | None) -> None:
        types = arrow.pyarrow().types
        self.name, self.declared = name, declared
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        category = types.is_boolean(kind) or types.is_dictionary(kind) or declared == "categorical"
        single = types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind)  # numbers, times, booleans
        self.dates = declared is None and (types.is_timestamp(kind) or types.is_date(kind))
        self.nested = declared is None and not (text or category or single)
        self.words = Words() if (text or category) and declared != "numeric" else None
        self.numeric = declared == "numeric" or not category
        self.sure = self.words is None
        self.values = self.missing = 0
        self.moments, self.last, self.rising = Moments(), -np.inf, True

    def update(self, get: Any, rows: np.ndarray, first_row: int) -> None:
        """Add a batch.

        Args:
            get: Gives the column's values.
            rows: bool (B,), which of them are trained on.
            first_row: For messages.
        """
        if self.dates or self.nested:
            return
        array = get()
        if self.numeric:
            self._update_numbers(array, rows, first_row)
        if self.words is not None:
            words = arrow.texts(array, self.name)
            words = words if rows.all() else words.filter(arrow.pyarrow().array(rows))
            if not self.numeric:
                self.missing += words.null_count
                self.values += len(words) - words.null_count
            self.words.update(words)
            if self.numeric and len(self.words.counts) > MANY:
                self.words, self.sure = None, True

    def _update_numbers(self, array: Any, rows: np.ndarray, first_row: int) -> None:
        try:
            numbers = arrow.numbers(array, self.name, first_row)[rows]
        except UserError:
            if self.sure:
                raise
            self.numeric = False
            return
        there = numbers[~np.isnan(numbers)]
        self.values += len(there)
        self.missing += len(numbers) - len(there)
        self.moments.update(torch.from_numpy(np.where(np.isinf(numbers), np.nan, numbers)))
        if self.rising and len(there):
            whole = (there == np.floor(there)).all() and len(there) == len(numbers)
            self.rising = bool(whole and there[0] > self.last and (np.diff(there) > 0).all())
            self.last = there[-1]

    @property
    def coarse(self) -> bool:
        """Whether float32 would round off what tells its numbers from each other."""
        if not self.numeric or not self.values:
            return False
        size = max(abs(float(self.moments.low)), abs(float(self.moments.high)))
        return size * 2.0**-24 > COARSE * float(self.moments.std) > 0

    def decide(self, source: Source, rows: int, max_levels: int) -> tuple[Column | None, str | None]:
        """The column as a feature, None if it is none, and what was guessed."""
        if self.dates or self.nested:
            return None, DATES if self.dates else NESTED
        if not self.values:
            return None, EMPTY
        guess = LABEL if self.name.lower() in LABELS and not self.declared else None
        if self.numeric:
            low, high = float(self.moments.low), float(self.moments.high)
            if self.declared is None and self.rising and self.values > FEW and high - low < rows:
                return None, IDENTIFIER
            return Column(self.name, "numeric"), guess or (CONSTANT if low == high and not self.missing else None)
        assert self.words is not None
        if self.declared is None:
            if self.words.dates():
                return None, DATES
            if self.words.unique and self.values > FEW:
                return None, IDENTIFIER
            if (share := self.words.text_share()) < TYPO:
                self._refuse_text(source)
            guess = guess or (MIXED if share < 1 else None)
        words = self.words.ordered()
        column = Column(self.name, "categorical", tuple(words[:max_levels]), tuple(words[max_levels:][:RARE]))
        return column, guess or (CONSTANT if len(words) == 1 and not self.missing else None)

    def _refuse_text(self, source: Source) -> None:
        """Raise a UserError that says where the text stands among the numbers."""
        for _ in source.apply(
            lambda batch, first_row: arrow.numbers(arrow.columns(batch)[self.name](), self.name, first_row),
            columns=[self.name],
        ):
            pass
