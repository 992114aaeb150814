"""What ``Columns`` does to skewed numbers, and what it learns for that: logarithms, and lines to normal scores."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from .statistics import Moments

KNOTS = 129  # of the normal scores: one every sixteenth of a standard deviation
TINY = torch.finfo(torch.float32).tiny


def log_scale(column: np.ndarray) -> float:
    """From where on asinh(x / scale) is the logarithm."""
    sizes = np.abs(column[column != 0])
    if not len(sizes):
        return 1.0
    signs = column.min() >= 0 or column.max() <= 0
    return max(float(np.quantile(sizes, 0.05 if signs else 0.5)), float(TINY))


def moments(column: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (1,) each, exact for what is constant."""
    found = Moments()
    found.update(torch.from_numpy(column)[:, None])
    return found.mean, found.std


def log(x: Tensor) -> Tensor:
    """asinh, of operations that file formats have in double precision."""
    size = x.abs()
    return x.sign() * (size + (size.square() + 1).sqrt()).log()


def normal_score_lines(values: np.ndarray, blend: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots (129), and the height of a line where it begins and its slope (130) before, between and after them."""
    n = len(values)
    end = norm.ppf(1 - 0.5 / n) if n > 1 else 0.0
    scores = np.linspace(-end, end, KNOTS)
    quantiles = np.quantile(values, (np.arange(KNOTS) == KNOTS - 1) + norm.cdf(scores) * (abs(scores) < end))
    found, tied = np.unique(quantiles.round(12), return_inverse=True)  # no slope is beyond float32
    at = np.bincount(tied, scores) / np.bincount(tied)  # of equal numbers, the middle
    if blend:
        return _blended_lines(values, found)
    middle = int(np.abs(at).argmin())
    outer = [_slope(found, at, middle, 0), *(np.diff(at) / np.diff(found)), _slope(found, at, middle, len(found) - 1)]
    return _padded(found, at, np.array(outer))


def _blended_lines(values: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of the sum of normal score and number, brought to unit variance: with the same knots, linear as well.

    The normal scores are those of exact mid-ranks, and go on beyond the training's range as the number does.
    """
    values, n = np.sort(values).round(12), len(values)
    if len(found) == 1:  # any other value is as rare as what n rows have not shown; nobody knows its scale
        end = norm.ppf(1 - 0.5 / n)
        return _padded(found + np.array([-1.0, 1.0]), end * np.array([-1.0, 1.0]), np.array([0.0, end, 0.0]))
    ranks = (np.searchsorted(values, found, "left") + np.searchsorted(values, found, "right")) / 2
    at = found + norm.ppf(ranks / n)
    spread = np.interp(values, found, at).std()
    slopes = np.array([2.0, *(np.diff(at) / np.diff(found)), 2.0])
    return _padded(found, at / spread, slopes / spread)


def _padded(found: np.ndarray, at: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots, heights and slopes, filled up to as many for each column."""
    knots, heights, slopes = np.full(KNOTS, np.inf), np.zeros(KNOTS + 1), np.zeros(KNOTS + 1)
    knots[: len(found)] = found
    heights[: len(found) + 1] = at[[0, *range(len(found))]]
    slopes[: len(found) + 1] = lines
    return knots, heights, slopes


def _slope(knots: np.ndarray, at: np.ndarray, middle: int, end: int) -> float:
    """From the middle to an end; where they are the same, from end to end; of a single knot, 1."""
    if middle == end:
        middle = len(knots) - 1 - end
    return 1.0 if middle == end else float((at[end] - at[middle]) / (knots[end] - knots[middle]))


def along(x: Tensor, knots: Tensor, heights: Tensor, slopes: Tensor) -> Tensor:
    """The heights of x (B, D) on a line for each column: knots (D, K), heights and slopes (D, K + 1)."""
    if torch.compiler.is_compiling():  # true under export as well: ONNX has no searchsorted
        line = (knots <= x.unsqueeze(-1)).sum(-1)
    else:
        line = torch.searchsorted(knots, x.T.contiguous(), right=True).T
    line = torch.where(x.isnan(), 0, line)
    start = knots.T.gather(0, (line - 1).clamp_min(0))
    return heights.T.gather(0, line) + slopes.T.gather(0, line) * (x - start)


def back(y: Tensor, knots: Tensor, heights: Tensor, slopes: Tensor) -> Tensor:
    """Which x have the heights y: the inverse of ``along``; where a line is level, where it begins."""
    ends = heights[:, 1:].masked_fill(knots.isinf(), torch.inf).contiguous()
    line = torch.searchsorted(ends, y.T.contiguous(), right=True)
    start, slope = knots.gather(1, (line - 1).clamp_min(0)), slopes.gather(1, line)
    further = (y.T - heights.gather(1, line)) / slope
    return (start + further.where(slope != 0, 0.0)).T
