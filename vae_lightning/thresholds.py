"""From scores of normal data to a decision."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from .errors import UserError


class Threshold(nn.Module):
    """A number fitted on scores of normal samples; what scores above it is called an anomaly.

    Attributes:
        value: The threshold, a scalar buffer: it travels in the checkpoint. NaN until it is fitted.
    """

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float("nan"), dtype=torch.float64))

    @abstractmethod
    def compute(self, scores: np.ndarray) -> float:
        """The threshold for the scores (N,) of normal samples."""

    def fit(self, scores: Tensor) -> None:
        self.value.fill_(self.compute(scores.double().cpu().numpy()))

    def forward(self, scores: Tensor) -> Tensor:
        """Which of the scores (B,) are anomalies, bool (B,)."""
        return scores.double() > self.value


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
