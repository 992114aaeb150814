"""What one pass over a table learns of its columns: exact moments, and a sample for everything that needs sorting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAMPLE_SIZE = 20_000  # rows; a quantile p of so many is off by sqrt(p (1 − p) / 20,000) of the rows, at most 0.4 %


class Moments:
    """Mean and variance of each feature, merged batch by batch (Chan, Golub & LeVeque 1979, 1983). NaN is left out.

    Sums of squares about each batch's own mean: x² − mean² would cancel to nothing under a large offset.

    Attributes:
        rows: How many there were.
        count: float64 (*shape), how many of a feature's values were there.
        mean, squares: float64 (*shape): the mean, and the sum of squared distances from it.
        low, high: float64 (*shape), the smallest and the largest value.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.count = self.mean = self.squares = self.low = self.high = torch.empty(0)

    def update(self, x: Tensor) -> None:
        """Add a batch, float64 (B, *shape)."""
        if not len(x):
            return
        if not self.rows:
            self.count = self.mean = self.squares = torch.zeros_like(x[0])
            self.low, self.high = torch.full_like(x[0], torch.inf), torch.full_like(x[0], -torch.inf)
        missing = x.isnan()
        n, total = (~missing).sum(0).double(), self.count + (~missing).sum(0)
        low, high = x.masked_fill(missing, torch.inf).amin(0), x.masked_fill(missing, -torch.inf).amax(0)
        # a feature's own number as its origin: what is constant has then exactly that mean, and no spread
        origin = self.low if self.rows else x[0]
        origin = torch.where(origin.isfinite(), origin, low)
        mean = origin + (x - origin).masked_fill(missing, 0).sum(0) / n
        squares = (x - mean).masked_fill(missing, 0).square().sum(0)
        delta = torch.where(self.count > 0, mean - self.mean, mean)
        any_new, share = n > 0, torch.where(self.count > 0, n / total, 1.0)
        self.mean = torch.where(any_new, self.mean + delta * share, self.mean)
        between = torch.where(any_new, delta.square() * (self.count * n / total), 0.0)
        self.squares = self.squares + torch.where(any_new, squares, 0.0) + between
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.count, self.rows = total, self.rows + len(x)

    @property
    def std(self) -> Tensor:
        """The standard deviation, exactly 0 for what is constant or never there."""
        return torch.where(self.high > self.low, self.squares / self.count, 0.0).sqrt()


class Sample:
    """Rows of a stream, each as likely to be among them as any other; the same ones whatever the batches.

    Each row has a pseudo-random number by its place, and those with the smallest stay.
    """

    def __init__(self, size: int = SAMPLE_SIZE) -> None:
        self.size, self.seen = size, 0
        self._keys, self._rows = np.empty(0, np.uint64), np.empty(0)

    def update(self, x: Tensor) -> None:
        """Add a batch (B, *shape)."""
        keys, rows = _scrambled(np.arange(self.seen, self.seen + len(x), dtype=np.uint64)), x.numpy()
        self.seen += len(x)
        if len(self._keys) == self.size:
            better = keys < self._keys.max()
            keys, rows = keys[better], rows[better]
        if len(self._keys):
            keys, rows = np.concatenate([self._keys, keys]), np.concatenate([self._rows, rows])
        kept = np.argsort(keys)[: self.size]
        self._keys, self._rows = keys[kept], rows[kept]

    def column(self, index: int) -> np.ndarray:
        """The values of one column, ascending, missing ones left out."""
        values = self._rows[:, index]
        return np.sort(values[~np.isnan(values)])


def _scrambled(v: np.ndarray) -> np.ndarray:
    """A permutation of the 64-bit numbers without visible order: Steele, Lea, Flood 2014's SplitMix."""
    v = v + np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return v ^ (v >> np.uint64(31))
