"""Conformal p-values and what they promise: pure functions of calibration scores, ranks and levels.

n calibration scores c₁ … cₙ come from normal samples that nothing else has seen. A new normal sample's score s is as
likely to take any of the n + 1 places among them, whatever the distribution: all that follows rests on this, which is
called exchangeability.

    Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World: the p-value and its validity.
    Vovk 2012, Conditional Validity of Inductive Conformal Predictors: the Beta law, given the calibration set.
    Laxhammar, Falkman 2015, Inductive Conformal Anomaly Detection: alarm where p ≤ α.
    Bates, Candès, Lei, Romano, Sesia 2023, Testing for Outliers with Conformal p-values: many samples, one calibration.

p-values are single precision, so levels are compared with them in single precision: a level whose binary fraction lies
a little beside the decimal one that was meant (0.29 · 100 = 28.999…) counts as the one that was meant.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from ..levels import EPSILON, fdr_cutoff

SLACK = 1e-12  # what a probability of scipy may be off by


def p_values(calibration: Tensor, scores: Tensor) -> Tensor:
    """The share p = (1 + #{c ≥ s}) / (n + 1) of samples that score at least as high as this one, itself among them.

    For exchangeable scores P(p ≤ t) ≤ t for every t (Vovk et al. 2005). Ties count against an alarm. Infinities are
    ordered and tied like numbers; NaN is above no score and gets the smallest p, 1 / (n + 1).

    Args:
        calibration: Scores of normal samples (n,), float32, ascending.
        scores: (B,), float32.

    Returns:
        (B,), float32, each the single-precision quotient of a whole number in 1 … n + 1 and n + 1 (exact to n = 2²⁴).
    """
    n = calibration.numel()
    # true under export as well: ONNX has no searchsorted
    find = _first_not_below if torch.compiler.is_compiling() else torch.searchsorted
    at_least = n - find(calibration, scores.contiguous())
    rank = (1 + at_least).to(torch.float32)
    # a tensor, not a number: by a number a GPU divides as a product with its reciprocal, one bit off
    return rank / torch.full_like(rank, n + 1)


def _first_not_below(ascending: Tensor, scores: Tensor) -> Tensor:
    """What searchsorted gives, how many of the n numbers are below each score, int64 (B,), by log₂ n gathers."""
    n = len(ascending)
    below = torch.zeros_like(scores, dtype=torch.int64)
    for step in (1 << bit for bit in reversed(range(n.bit_length()))):
        further = below + step  # the first `further` numbers are below the score if the last of them is
        # not `<`, which is False for NaN: searchsorted puts it above all numbers
        is_below = ~(ascending[(further - 1).clamp_max(n - 1)] >= scores) & (further <= n)
        below = torch.where(is_below, further, below)
    return below


def alarm_rank(n: int, alpha: float) -> int:
    """The k = ⌊α(n + 1)⌋ with: p ≤ α just when s is above the k-th largest of n calibration scores; 0: never.

    The largest k ≤ n whose p-value k / (n + 1) is at most α, both in single precision. So the equivalence is exact for
    the p-values of ``p_values``. 99 scores give 29 at α = 0.29, where double precision would give 28; k / (n + 1)
    exceeds α by one part in eight million at most.

    Args:
        n: Number of calibration scores.
        alpha: In [0, 1].
    """
    k = min(math.floor(alpha * (n + 1)) + 1, n)
    while np.float32(k) / np.float32(n + 1) > np.float32(alpha):
        k -= 1
    return k


def confident_rank(n: int, alpha: float, confidence: float) -> int:
    """The largest k with P(F ≤ α) ≥ confidence for F ~ Beta(k, n + 1 − k); 0 if there is none.

    F is the false-alarm rate of "s above the k-th largest calibration score" given the calibration set (Vovk 2012). The
    law is exact for continuous scores; ties only make alarms rarer.

    Args:
        n: Number of calibration scores.
        alpha: The rate to stay below, in (0, 1).
        confidence: The share of calibration sets for which it does, in (0, 1).
    """
    # P(F ≤ α) falls with k; bisect wants what rises
    return bisect_right(range(1, n + 1), SLACK - confidence, key=lambda k: -beta.cdf(alpha, k, n + 1 - k))


def needed(alpha: float, confidence: float | None = None) -> int:
    """The smallest number of calibration scores with which anything can raise an alarm: rank k ≥ 1.

    1/α − 1 rounded up; with confidence log(1 − confidence) / log(1 − α) rounded up, Wilks's (1941) number for tolerance
    limits.

    Args:
        alpha: In (0, 1).
        confidence: In (0, 1); None asks for ``alarm_rank``, otherwise ``confident_rank``.
    """
    guess = 1 / alpha - 1 if confidence is None else math.log1p(-confidence) / math.log1p(-alpha)
    n = max(1, math.ceil(guess) - 1)  # rounding may have lifted the guess above a whole number
    while (alarm_rank(n, alpha) if confidence is None else confident_rank(n, alpha, confidence)) == 0:
        n += 1
    return n


def false_alarm_interval(n: int, k: int, level: float = 0.95) -> tuple[float, float]:
    """Where the false-alarm rate lies for ``level`` of all calibration sets: the central part of Beta(k, n + 1 − k).

    Args:
        n: Number of calibration scores.
        k: The threshold is the k-th largest of them. 0 never raises an alarm, n + 1 always does.
        level: In (0, 1).

    Returns:
        Two rates in [0, 1].
    """
    if k in (0, n + 1):
        return float(k > 0), float(k > 0)
    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], k, n + 1 - k)
    return float(low), float(high)


def benjamini_hochberg(p: Tensor, level: float) -> Tensor:
    """Which samples to call anomalies so that at most ``level`` of those called so are normal, on average.

    With p₍₁₎ ≤ … ≤ p₍ₘ₎, all up to the largest i with p₍ᵢ₎ ≤ i·level / m (Benjamini, Hochberg 1995). Conformal p-values
    of one calibration set depend on each other in a way that keeps the promise: E[false discoveries / discoveries] ≤
    π₀·level, π₀ the share of normal samples (Bates et al. 2023).

    Args:
        p: p-values (m,).
        level: The false discovery rate, in (0, 1).

    Returns:
        bool (m,).
    """
    return p <= fdr_cutoff(*np.unique(p.detach().cpu().numpy(), return_counts=True), level)


def needed_for_fdr(m: int, level: float) -> int:
    """The smallest n at which ``benjamini_hochberg`` can find a lone anomaly among m samples.

    The smallest p-value is 1 / (n + 1), and a lone one must not be above level / m: n + 1 ≥ m / level. Where i
    anomalies share the smallest p, n + 1 ≥ m / (i·level) will do.

    Args:
        m: Number of samples that are judged together.
        level: The false discovery rate, in (0, 1).
    """
    return max(1, math.ceil(m / (level * (1 + EPSILON))) - 1)
