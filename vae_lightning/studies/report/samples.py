"""Single samples in the report, those with the highest and lowest scores, and the mistakes, each with its reasons."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...batch import ANOMALY, NORMAL
from ...detection import Detector, Explainer, Explanation
from ...detection.explanation import Reason
from ...detection.heatmaps import heat, overlay, png

EACH, REASONS, SIDE = 3, 4, 112  # samples of a kind, reasons of a sample, pixels of a picture at least


@dataclass
class Sample:
    """One of them.

    Attributes:
        row: Where it stands in its source.
        score, p_value: As the detector gives them.
        kind: ``normal`` or ``anomalous``, by the data set's label.
        reasons: Of a table's row.
        pictures: Of an image: itself, what was expected, where its score comes from, as PNG in base64.
    """

    row: int
    score: float
    p_value: float
    kind: str
    reasons: list[Reason]
    pictures: list[str]


def samples(detector: Detector, raw: Tensor, label: np.ndarray, row: np.ndarray) -> tuple[dict[str, list[Sample]], str]:
    """By headings; and how scores were taken apart.

    Args:
        detector: Calibrated.
        raw: Test samples (N, *shape).
        label, row: Of each, (N,).
    """
    found = detector(raw)
    score, alarm = np.asarray(found.score), np.asarray(found.anomaly)
    groups = {
        "Highest scores": _some(-score, np.ones(len(score), bool)),
        "False alarms": _some(-score, alarm & (label == NORMAL)),
        "Missed anomalies": _some(score, ~alarm & (label == ANOMALY)),
        "Lowest scores": _some(score, np.ones(len(score), bool)),
    }
    chosen = np.concatenate(list(groups.values()))
    explanation = Explainer(detector, tries=REASONS)(raw[torch.from_numpy(chosen).to(raw.device)])
    pictures = raw.ndim == 4 and raw.shape[1] in (1, 3)
    made = iter(
        Sample(
            int(row[i]),
            float(score[i]),
            float(np.asarray(found.p_value)[i]),
            "anomalous" if label[i] == ANOMALY else "normal",
            [] if pictures else explanation.reasons(place, REASONS),
            _pictures(explanation, place) if pictures else [],
        )
        for place, i in enumerate(chosen)
    )
    return {title: [next(made) for _ in rows] for title, rows in groups.items() if len(rows)}, explanation.method


def _some(key: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The first few by ``key`` of those that are ``among``: positions."""
    (places,) = np.nonzero(among)
    return places[np.argsort(key[places], kind="stable")[:EACH]]


def _pictures(explanation: Explanation, place: int) -> list[str]:
    image, expected = explanation.value[place], explanation.expected[place].clip(0, 255).round().astype(np.uint8)
    one: Any = explanation.__class__(**{**vars(explanation), "contributions": explanation.contributions[[place]]})
    hot = overlay(image, heat(one)[0], explanation.ceiling)
    shown = [_colours(image), _colours(expected), hot]
    scale = max(1, -(-SIDE // image.shape[-1]))
    return [base64.b64encode(png(_small(pixels), scale)).decode() for pixels in shown]


def _colours(image: np.ndarray) -> np.ndarray:
    """(C, H, W) → (H, W) or (H, W, 3)."""
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def _small(pixels: np.ndarray, most: int = 256) -> np.ndarray:
    step = -(-max(pixels.shape[:2]) // most)
    return pixels[::step, ::step]
