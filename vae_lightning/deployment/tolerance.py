"""When two engines' scores are the same: they add up in another order, and no two agree to the bit."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-5


def difference(found: np.ndarray, expected: np.ndarray, spread: float) -> np.ndarray:
    """How far scores (N,) are from the expected ones, as a share: |found − expected| / max(|expected|, spread).

    0 where both are the same infinity, infinite where only one is.

    Args:
        found, expected: Scores, float32.
        spread: The interquartile range of calibration scores: a score near 0 differs by a share of that.
    """
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    scale = np.maximum(np.maximum(np.abs(expected), spread), np.finfo(np.float32).tiny)
    with np.errstate(invalid="ignore"):
        far = np.abs(found - expected) / scale
    return np.where(found == expected, 0.0, np.where(np.isfinite(far), far, np.inf))
