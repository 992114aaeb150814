"""From scores of normal data to a decision."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ..errors import UserError
from . import conformal
from .base import Threshold

__all__ = ["Conformal", "LeakingPercentile", "Percentile", "Threshold"]

Method = Literal["order_statistic", "linear"]


def kth_largest(scores: np.ndarray, k: int) -> float:
    """Of ascending scores (n,); +∞ for k = 0."""
    return float(scores[-k]) if k > 0 else float("inf")


class Conformal(Threshold):
    """Alarm where the conformal p-value is at most α: a bound on false alarms that holds for every n.

    The threshold is the k-th largest of n calibration scores, k = ⌊α(n + 1)⌋; alarm ⇔ p ≤ α, but for NaN scores, which
    always raise one. For exchangeable scores, whatever their distribution:

        P(alarm) ≤ k / (n + 1) ≤ α    on average over calibration sets (Vovk et al. 2005)
        P(alarm | calibration set) ~ Beta(k, n + 1 − k)    for continuous scores (Vovk 2012)

    So for nearly half of all calibration sets the rate is above α. With ``confidence`` k is the largest rank for which
    P(P(alarm | calibration set) ≤ α) ≥ confidence, and alarm ⇔ p ≤ k / (n + 1). Ties only make alarms rarer.

    Args:
        alpha: The rate of false alarms to allow, in (0, 1).
        confidence: In (0, 1); None promises α on average.

    Raises:
        UserError: If an argument is outside (0, 1).
    """

    def __init__(self, alpha: float = 0.05, confidence: float | None = None) -> None:
        super().__init__()
        for name, level in {"alpha": alpha, "confidence": confidence}.items():
            if level is not None and not 0 < level < 1:
                raise UserError(f"Conformal: {name} = {level} is not in (0, 1)")
        self.alpha, self.confidence = alpha, confidence

    @property
    def needed(self) -> int:
        return conformal.needed(self.alpha, self.confidence)

    def rank(self, n: int) -> int:
        if self.confidence is None:
            return conformal.alarm_rank(n, self.alpha)
        return conformal.confident_rank(n, self.alpha, self.confidence)

    def compute(self, scores: np.ndarray) -> float:
        return kth_largest(scores, self.rank(len(scores)))

    def extra_repr(self) -> str:
        return f"α = {self.alpha}" + ("" if self.confidence is None else f", confidence = {self.confidence}")


class Percentile(Threshold):
    """The given percentile of normal scores: 95 lets 5 % of normal samples raise an alarm.

    ``order_statistic`` keeps its promise on average: the ⌈(n + 1)·percentile / 100⌉-th smallest score lets at most
    100 − percentile % of new normal samples raise an alarm. It is ``Conformal(1 − percentile / 100)``; beyond the n-th
    it is +∞. ``linear`` is numpy's, interpolated between two scores, for sources that used it: with
    n = 50, at 95, 6.7 % of normally distributed scores raise an alarm where 5 % are promised, of uniform ones 6.8 %.

    Args:
        percentile: In [0, 100]. By ``order_statistic`` 0 is the smallest score, and 100 is +∞ whatever n.
        method: ``order_statistic`` or ``linear``.

    Raises:
        UserError: If an argument is none of these.
    """

    def __init__(self, percentile: float = 95.0, method: Method = "order_statistic") -> None:
        super().__init__()
        if not 0 <= percentile <= 100:
            raise UserError(f"{type(self).__name__}: percentile = {percentile} is not in [0, 100]")
        if method not in get_args(Method):
            raise UserError(f"{type(self).__name__}: method = {method} is not one of {', '.join(get_args(Method))}")
        self.percentile, self.method = percentile, method

    @property
    def alpha(self) -> float:
        """The share of normal samples that may raise an alarm."""
        return (100 - self.percentile) / 100

    @property
    def needed(self) -> int | None:
        if self.method == "linear" or self.alpha == 1:
            return 1
        return conformal.needed(self.alpha) if self.alpha > 0 else None

    def rank(self, n: int) -> int | None:
        return conformal.alarm_rank(n, self.alpha) if self.method == "order_statistic" else None

    def compute(self, scores: np.ndarray) -> float:
        rank = self.rank(len(scores))
        return float(np.percentile(scores, self.percentile)) if rank is None else kth_largest(scores, rank)

    def extra_repr(self) -> str:
        return f"{self.percentile:.12g}" + (", linear" if self.method == "linear" else "")


class LeakingPercentile(Percentile):
    """The given percentile of normal *test* scores, only for comparison with figures made that way.

    It knows which test samples are normal, so precision, recall and F1 flatter the detector: ``leaks`` is True, and
    tables of results say so. Validation, prediction and the checkpoint use the honest percentile of normal validation
    scores; the one of the test samples is computed at the end of each test. It is numpy's, as those figures were made.

    Args:
        percentile: In [0, 100].
    """

    fitted_on = "test"

    # no method among the arguments: put in the place of a Percentile on the command line, it would inherit the other's
    def __init__(self, percentile: float = 95.0) -> None:
        super().__init__(percentile, "linear")
