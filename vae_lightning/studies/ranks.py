"""Which methods differ over many data sets: average ranks, Friedman's test, Nemenyi's critical difference."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range


def average_ranks(values: np.ndarray) -> np.ndarray:
    """The mean rank of each method over data sets, 1 for the largest value, ties shared: (N, k) → (k,)."""
    return rankdata(-values, axis=1).mean(0)


def friedman(values: np.ndarray) -> float:
    """The p-value of "all methods rank alike": (N data sets, k ≥ 3 methods).

    Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", section 3.2.2.
    """
    return float(friedmanchisquare(*values.T).pvalue)


def critical_difference(methods: int, sets: int, alpha: float = 0.05) -> float:
    """From which difference of average ranks on two methods differ, at level alpha: q_α √(k (k + 1) / 6N).

    Nemenyi's test, Demšar 2006, section 3.2.2; q_α is the studentised range's quantile over √2.
    """
    q = studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * sets)))


def alike(ranks: np.ndarray, difference: float) -> list[list[int]]:
    """The largest groups of methods, neighbours in rank, whose ranks differ by less than ``difference``: (k,) → groups.

    They are the bars of Demšar's diagram.
    """
    order = [int(i) for i in np.argsort(ranks, kind="stable")]
    groups: list[list[int]] = []
    for start in range(len(order)):
        group = [i for i in order[start:] if ranks[i] - ranks[order[start]] < difference]
        if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
            groups.append(group)
    return groups
