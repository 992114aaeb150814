"""ROC and precision-recall curves of scores, with intervals by the bootstrap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GRID = np.linspace(0, 1, 101)


class Interval(NamedTuple):
    """A figure of all samples, and where 95 % of the resamples' lie."""

    value: float
    low: float
    high: float


class Ranking(NamedTuple):
    """How well scores tell anomalies from normal samples.

    Attributes:
        auroc, average_precision: With their intervals.
        roc, precision_recall: The curves of all samples: x and y, (2, points).
        roc_band, precision_recall_band: On the grid 0, 0.01, … 1 of x, lower and upper end: (2, 101).
    """

    auroc: Interval
    average_precision: Interval
    roc: np.ndarray
    precision_recall: np.ndarray
    roc_band: np.ndarray
    precision_recall_band: np.ndarray


def ranking(label: np.ndarray, score: np.ndarray, resamples: int = 400, seed: int = 0) -> Ranking:
    """Curves and areas of scores (N,) for labels (N,), 1 for an anomaly; both kinds are needed.

    Percentile intervals; normal samples and anomalies are drawn with replacement each among themselves (Efron and
    Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13).
    """
    order = np.argsort(-score, kind="stable")
    label, score = label[order], score[order]
    last = np.flatnonzero(np.append(np.diff(score) != 0, True))  # of each group of ties
    false, true = _counts(label, np.ones((1, len(label))), last)
    rng = np.random.default_rng(seed)
    rocs, precisions, areas, averages = [], [], [], []
    for _ in range(resamples):
        weights = np.zeros((1, len(label)))
        for kind in (0, 1):
            (members,) = np.nonzero(label == kind)
            weights[0, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)))
        drawn = _counts(label, weights, last)
        (x, y), (recall, precision) = _roc(*drawn), _precision_recall(*drawn)
        rocs.append(np.interp(GRID, x, y))
        precisions.append(np.interp(GRID, recall, precision))
        areas.append(_auroc(*drawn))
        averages.append(_average_precision(*drawn))
    roc_band, pr_band = (np.quantile(drawn_curves, [0.025, 0.975], axis=0) for drawn_curves in (rocs, precisions))
    area, average = _interval(_auroc(false, true), areas), _interval(_average_precision(false, true), averages)
    return Ranking(area, average, _roc(false, true), _precision_recall(false, true), roc_band, pr_band)


def _interval(value: float, resampled: list[float]) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _counts(label: np.ndarray, weights: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal samples and anomalies that score at least as high as each distinct score, highest first: 2 × (points,)."""
    return (weights[0] * (label == 0)).cumsum()[last], (weights[0] * (label == 1)).cumsum()[last]


def _roc(false: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.stack([np.append(0, false / false[-1]), np.append(0, true / true[-1])])


def _precision_recall(false: np.ndarray, true: np.ndarray) -> np.ndarray:
    some = true + false > 0
    precision = true[some] / (true + false)[some]
    return np.stack([np.append(0, true[some] / true[-1]), np.append(precision[0], precision)])


def _auroc(false: np.ndarray, true: np.ndarray) -> float:
    return float(np.trapezoid(*_roc(false, true)[::-1]))


def _average_precision(false: np.ndarray, true: np.ndarray) -> float:
    recall, precision = _precision_recall(false, true)
    return float((np.diff(recall) * precision[1:]).sum())
