"""From scores of normal data to a decision."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError


class Threshold(nn.Module):
    """A number fitted on scores of normal samples; what scores above it is called an anomaly.

    Attributes:
        value: The threshold, a scalar buffer: it travels in the checkpoint. NaN until it is fitted, then the largest
            number of its precision that is not above what ``compute`` gives.
        fitted_on: The split whose normal samples it is fitted on for the figures of a test.
    """

    value: Tensor
    fitted_on: Literal["val", "test"] = "val"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float("nan")))

    @property
    def leaks(self) -> bool:
        """Whether figures depend on labels of the test split."""
        return self.fitted_on == "test"

    @abstractmethod
    def compute(self, scores: np.ndarray) -> float:
        """The threshold for the scores (N,) of normal samples."""

    def fit(self, scores: Tensor) -> None:
        exact = torch.tensor(self.compute(scores.cpu().double().numpy()), dtype=torch.float64)
        rounded = exact.to(self.value.dtype)  # not every accelerator has double precision
        if rounded > exact:  # down: then a score of this precision is above the one just when it is above the other
            rounded = rounded.nextafter(torch.tensor(-torch.inf, dtype=rounded.dtype))
        self.value.copy_(rounded)

    def forward(self, scores: Tensor) -> Tensor:
        """Which of the scores (B,) are anomalies, bool (B,)."""
        return scores > self.value


class Percentile(Threshold):
    """The given percentile of normal scores: 95 lets 5 % of normal samples raise an alarm.

    Args:
        percentile: In [0, 100].
    """

    def __init__(self, percentile: float = 95.0) -> None:
        super().__init__()
        if not 0 <= percentile <= 100:
            raise UserError(f"Percentile: percentile = {percentile} is not in [0, 100]")
        self.percentile = percentile

    def compute(self, scores: np.ndarray) -> float:
        return float(np.percentile(scores, self.percentile))


class LeakingPercentile(Percentile):
    """The given percentile of normal *test* scores: for comparison with figures that were made so, and nothing else.

    It knows which test samples are normal, so precision, recall and F1 flatter the detector: ``leaks`` is True, and
    tables of results say so. Validation, prediction and the checkpoint use the honest percentile of normal validation
    scores; the one of the test samples is computed at the end of each test.

    Args:
        percentile: In [0, 100].
    """

    fitted_on = "test"
