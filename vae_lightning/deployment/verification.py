"""Whether an exported file decides as its detector does: both are asked about the same samples, easy and hard ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from ..detection import Detector
from ..errors import UserError
from .manifest import Manifest
from .runners import Runner
from .tolerance import TOLERANCE, difference

BATCHES = 1, 2, 7, 1000


class Verified(NamedTuple):
    """The result of a comparison.

    Attributes:
        samples: How many were compared, in batches of several sizes, each twice.
        difference: The largest one of any score, see ``difference``.
        on_threshold: Scores so near to the threshold that rounding decides.
    """

    samples: int
    difference: float
    on_threshold: int


def verify(detector: Detector, manifest: Manifest, run: Runner, canary: np.ndarray) -> Verified:
    """Compare an exported graph with the detector that it was made of.

    Args:
        detector: On the CPU.
        manifest: Of the file.
        run: What computes the file's graph.
        canary: A few raw calibration samples (n, *shape).

    Raises:
        UserError: When a score is further from the detector's than ``TOLERANCE``, when a decision is another although
            the score is not on the threshold, when a p-value is not that of its score, or the same batch scores twice
            otherwise.
    """
    compared, worst, on_threshold = 0, 0.0, 0
    for x in batches(np.concatenate([canary, hard_cases(canary, manifest)])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown categories are there on purpose
            expected = detector(torch.from_numpy(x))
        found, again = run(x), run(x)
        if any(not np.array_equal(found[name], again[name], equal_nan=True) for name in manifest.outputs):
            raise UserError(f"a batch of {len(x)} samples gets other scores the second time")
        for name in manifest.scores:
            scores = found["score" if name == manifest.scores[0] else name]
            threshold = detector.model.thresholds[name]
            scale = max(spread(threshold), detector.model.scores[name].scale)
            far = difference(scores, expected.each[name].numpy(), scale)
            if not far.max() <= TOLERANCE:
                row = int(far.argmax())
                raise UserError(
                    f"{name} of a sample in a batch of {len(x)} is {scores[row]:.7g} in the file and "
                    f"{float(expected.each[name][row]):.7g} in the detector, further apart than {TOLERANCE:g}"
                )
            worst = max(worst, float(far.max()))
        on_threshold += _check_decisions(detector, found, expected)
        compared += len(x)
    return Verified(compared, worst, on_threshold)


def _check_decisions(detector: Detector, found: dict[str, np.ndarray], expected: Any) -> int:
    """How many samples may be decided either way; raises a UserError for a decision that may not."""
    score, threshold = torch.from_numpy(found["score"]), detector.threshold
    if not np.array_equal(found["p_value"], threshold.p_values(score).numpy()):
        raise UserError("p-values in the file are not those of its scores")
    if not np.array_equal(found["anomaly"], threshold(score).numpy()):
        raise UserError("decisions in the file are not those of its scores")
    value = np.full(len(score), threshold.value.item(), np.float32)
    near = difference(expected.score.numpy(), value, spread(threshold)) <= TOLERANCE
    differs = found["anomaly"] != expected.anomaly.numpy()
    if (differs & ~near).any():
        row = int((differs & ~near).argmax())
        raise UserError(f"a sample of score {found['score'][row]:.7g} gets another decision than from the detector")
    return int(near.sum())


def spread(threshold: Any) -> float:
    """The interquartile range of a threshold's calibration scores."""
    low, high = np.quantile(threshold.calibration.cpu().numpy(), [0.25, 0.75])
    return float(high - low)


def batches(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Batches of 1, 2, 7 and 1000 samples, repeated as needed; all samples are in one of them."""
    for size in BATCHES:
        for start in range(0, len(samples) if size == max(BATCHES) else 1, size):
            yield np.resize(np.roll(samples, -start, axis=0), (size, *samples.shape[1:]))


def hard_cases(canary: np.ndarray, manifest: Manifest) -> np.ndarray:
    """What is easily scored otherwise: each value missing, unknown categories, numbers far out, black and white."""
    first, found = canary[:1], []
    if manifest.dtype == "uint8":
        checkered = (np.indices(manifest.shape).sum(0) % 2 * 255)[None]
        return np.concatenate([first * 0, first * 0 + 255, checkered.astype(np.uint8), 255 - first])
    columns = manifest.schema.columns if manifest.schema else ()
    numeric = np.array([column.kind == "numeric" for column in columns] or np.ones(manifest.shape), bool)
    for factor in (0, 1e3, -1e3):  # categories stay what they are
        found.append(np.where(numeric, first * factor, first))
    if manifest.missing:
        missing = np.repeat(first, len(numeric) + 1, 0)
        missing[:-1][np.diag_indices(len(numeric))] = np.nan
        missing[-1] = np.nan
        found.append(missing)
    for i, column in enumerate(columns):
        if column.kind == "categorical":
            codes = np.repeat(first, 2, 0)
            codes[:, i] = column.codes - 2, column.codes - 1  # another one, and an unknown one
            found.append(codes)
    return np.concatenate(found).astype(canary.dtype)
