"""Decisions on p-values by a level: NumPy alone, for whoever scores without torch."""

from __future__ import annotations

import numpy as np

from .errors import UserError

EPSILON = 2.0**-23  # the relative spacing of single precision


def check(alpha: float | None, fdr: float | None, prefix: str = "") -> None:
    """Raise a UserError if both levels are given, or one is outside (0, 1); ``prefix`` is what stands before names."""
    if alpha is not None and fdr is not None:
        raise UserError(f"{prefix}alpha = {alpha} and {prefix}fdr = {fdr} are both given: leave one of them out")
    for key, level in (("alpha", alpha), ("fdr", fdr)):
        if level is not None and not 0 < level < 1:
            raise UserError(f"{prefix}{key} = {level} is not in (0, 1)")


def by_alpha(p: np.ndarray, alpha: float) -> np.ndarray:
    """Bool (N,): p ≤ alpha for float32 p-values (N,), compared in their precision."""
    return p <= np.float32(alpha)


def fdr_cutoff(values: np.ndarray, counts: np.ndarray, level: float) -> float:
    """The largest p-value that Benjamini and Hochberg's procedure (1995) calls an anomaly; 0 if there is none.

    Of m p-values p₍₁₎ ≤ … ≤ p₍ₘ₎ it is the largest p₍ᵢ₎ ≤ i·level / m. Of equal ones only the last i counts, so the
    distinct values and how often each occurs are enough: conformal p-values take n + 1 values, however many samples.

    Args:
        values: Distinct p-values (V,), ascending.
        counts: How often each occurs (V,).
        level: The false discovery rate, in (0, 1).
    """
    rank = counts.cumsum()
    # p may be off by half of EPSILON, and must not miss by it a level that it equals
    passed = values[values.astype(np.float64) * (counts.sum() / rank) <= level * (1 + EPSILON)]
    return float(passed[-1]) if len(passed) else 0.0
