"""Why a sample scores as it does: what each column or pixel adds to the score, and what was expected of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..schema import Schema

NORMAL_RANGE = 0.025, 0.975  # quantiles of normal rows
SUM, GRADIENTS = "exact sum", "integrated gradients"


class Reason(NamedTuple):
    """One column's part in a sample's score.

    Attributes:
        column: Its name, or a pixel's place.
        contribution: What it adds to the score, in the score's units.
        p_value: The share of normal rows in which this very column adds as much, the row itself among them. NaN where
            the detector holds no rows.
        value, expected: In the raw sample, and in its reconstruction: a number, a category's level, ``missing``.
        usual: Where 95 % of normal rows lie; of a category, how many of them have this value.
        without: What the score would be if the column were as expected; NaN where that was not computed.
    """

    column: str
    contribution: float
    p_value: float
    value: float | str
    expected: float | str
    usual: str
    without: float


@dataclass(repr=False)
class Explanation:
    """What the scores of N samples are made of.

    ``contributions.sum + latent.sum + base == score`` in each sample, but for ``gap``.

    Attributes:
        columns: Names of the columns; None for images.
        schema: What the columns are, None if they are numbers.
        method: ``exact sum`` where the score is a sum of what its columns add. ``integrated gradients`` elsewhere: then
            contributions tell the sample from an ordinary one, whose score is ``base``.
        score: float32 (N,).
        contributions: float32 (N, *shape), of each column or pixel.
        latent: float32 (N, d), of each latent dimension, the KL divergence for instance; (N, 0) where there is none.
        base: float32 (N,), what neither adds.
        gap: float32 (N,), what is missing from the sum: rounding, or what the integral was not computed to.
        p_value: float32 (N, *shape), see ``Reason``.
        excess: float32 (N, *shape), how far a contribution is above the median of its column's in normal rows, in units
            of the distance from there to their 95th percentile. What columns are ordered by.
        value, expected: (N, *shape), raw.
        rows: (n, *shape), the raw normal rows that are compared with; None without them.
        ceiling: What is a lot for one pixel: one in a thousand of normal rows adds more, its channels together.
        without: float32 (N, D), the score if one column were as expected; NaN for those that were not tried.
    """

    columns: list[str] | None
    schema: Schema | None
    method: str
    score: np.ndarray
    contributions: np.ndarray
    latent: np.ndarray
    base: np.ndarray
    gap: np.ndarray
    p_value: np.ndarray
    excess: np.ndarray
    value: np.ndarray
    expected: np.ndarray
    rows: np.ndarray | None
    ceiling: float
    without: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    def order(self, k: int | None = None) -> np.ndarray:
        """The columns or pixels of each sample by how much more they add than is normal: int (N, k), all without k."""
        return order(self.excess, k)

    def reasons(self, row: int, k: int = 5) -> list[Reason]:
        """The k columns or pixels that make this sample anomalous, the worst first."""
        found = []
        for place in map(int, self.order(k)[row]):
            contribution, p_value = (float(part[row].flat[place]) for part in (self.contributions, self.p_value))
            value, expected = (self._told(place, float(part[row].flat[place])) for part in (self.value, self.expected))
            without = float(self.without[row, place]) if self.without.size else float("nan")
            usual = self._usual(place, value)
            found.append(Reason(self.name(place), contribution, p_value, value, expected, usual, without))
        return found

    def _told(self, place: int, value: float) -> float | str:
        """A raw value in words, where it is no number."""
        column = self.schema.columns[place] if self.schema else None
        if value != value:
            return "missing"
        if column is None or column.kind == "numeric":
            return value
        others = [*column.levels, "(another level)", "(unknown)"]
        return others[min(int(value), len(others) - 1)]

    def _usual(self, place: int, value: float | str) -> str:
        """What is usual for a column or pixel in normal rows."""
        if self.rows is None:
            return "–"
        rows = self.rows.reshape(len(self.rows), -1)[:, place].astype(float)
        if isinstance(value, str):
            share = np.mean([self._told(place, other) == value for other in rows.tolist()])
            return f"{100 * share:.3g} % have it"
        if np.isnan(rows).all():
            return "always missing"
        low, high = np.nanquantile(rows, NORMAL_RANGE)
        return f"{shown(low)} to {shown(high)}"

    def name(self, place: int) -> str:
        """What to call a column or pixel."""
        if self.columns is not None:
            return self.columns[place]
        if self.value.ndim == 2:
            return f"column {place}"
        *_, y, x = np.unravel_index(place, self.value.shape[1:])
        return f"row {y}, column {x}"

    def appended(self, k: int = 3) -> dict[str, np.ndarray]:
        """Columns for a table of predictions: the names of the k worst columns, what each adds, and its p-value."""
        worst = self.order(k)
        rows = np.arange(len(self))[:, None]
        contributions, p_values = (p.reshape(len(self), -1)[rows, worst] for p in (self.contributions, self.p_value))
        found: dict[str, np.ndarray] = {}
        for i in range(worst.shape[1]):
            found[f"reason_{i + 1}"] = np.array([self.name(int(place)) for place in worst[:, i]], dtype=object)
            found[f"reason_{i + 1}_contribution"] = contributions[:, i]
            found[f"reason_{i + 1}_p_value"] = p_values[:, i]
        return found

    def text(self, row: int, k: int = 5) -> str:
        """A table for people: why this sample is anomalous."""
        lines = [["", "adds", "p-value", "value", "expected", "normal range", "score if as expected"]]
        for r in self.reasons(row, k):
            numbers = (shown(number) for number in (r.contribution, r.p_value, r.value, r.expected))
            lines.append([r.column, *numbers, r.usual, shown(r.without)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
        ]
        sums = {"columns": self.contributions[row].sum(), "latent": self.latent[row].sum(), "base": self.base[row]}
        if abs(self.gap[row]) > 1e-4 * abs(self.score[row]):  # more than rounding
            sums["not accounted for"] = self.gap[row]
        told = ", ".join(f"{name} {shown(float(value))}" for name, value in sums.items())
        return "\n".join([f"score {shown(float(self.score[row]))} ({self.method}): {told}", *table])

    def __repr__(self) -> str:
        return "\n\n".join(self.text(row) for row in range(min(len(self), 3)))


def shown(number: float | str) -> str:
    """A number for people; words as they are."""
    if isinstance(number, str):
        return number
    return "–" if number != number else f"{number:.4g}"


def order(excess: np.ndarray, k: int | None = None) -> np.ndarray:
    """Columns by their excess, the largest first, NaN before all: (N, *shape) → int (N, k)."""
    flat = np.where(np.isnan(excess), np.inf, excess).reshape(len(excess), -1)
    return np.argsort(-flat, axis=1, kind="stable")[:, :k]
