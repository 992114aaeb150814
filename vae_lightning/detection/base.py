"""What every threshold keeps to: fitted on scores of normal samples, it decides and gives p-values."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..fitted import Fitted
from . import conformal


class Threshold(Fitted):
    """A number fitted on scores of normal samples; what scores above it is called an anomaly.

    Scores are rounded to the precision of ``value``, float32, whether it is fitted on them or judges them.

    Attributes:
        value: The threshold, a scalar buffer: it travels in the checkpoint. NaN until it is fitted, then the largest
            number of its precision that is not above what ``compute`` gives. +∞ if nothing can raise an alarm.
        calibration: The scores that it is fitted on, a buffer (n,), ascending; empty until then.
        fitted_on: The split whose normal samples it is fitted on for the figures of a test.
    """

    value: Tensor
    calibration: Tensor
    fitted_on: Literal["val", "test"] = "val"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float("nan")))
        self.register_buffer("calibration", torch.empty(0))

    @property
    def leaks(self) -> bool:
        """Whether figures depend on labels of the test split."""
        return self.fitted_on == "test"

    @property
    def samples(self) -> int:
        """The number n of calibration scores, 0 until it is fitted."""
        return self.calibration.numel()

    @property
    def fitted(self) -> bool:
        """Whether it can decide."""
        return self.samples > 0

    def reset(self) -> None:
        """Forget what it was fitted on."""
        self.value, self.calibration = torch.full_like(self.value, torch.nan), self.calibration.new_empty(0)

    @property
    def reachable(self) -> bool:
        """Whether any score can raise an alarm."""
        return bool(self.value < torch.inf)

    @property
    def needed(self) -> int | None:
        """From how many calibration scores on something can raise an alarm; None: however many there are, nothing."""
        return 1

    @property
    def alarm_rate_interval(self) -> tuple[float, float]:
        """Where the false-alarm rate lies for 95 % of calibration sets, for continuous scores; ties only lower it."""
        self._check_calibrated()
        rank, above = self.rank(self.samples), int((self.calibration > self.value).sum())
        fewest, most = (above, above + 1) if rank is None else (rank, rank)
        intervals = [conformal.false_alarm_interval(self.samples, k) for k in (fewest, most)]
        return intervals[0][0], intervals[1][1]

    @abstractmethod
    def compute(self, scores: np.ndarray) -> float:
        """The threshold for the scores of normal samples, float64 (n,), ascending."""

    def rank(self, n: int) -> int | None:
        """Which k, if the threshold is the k-th largest of n scores; 0 if it is +∞; None if it may lie between two."""
        return None

    def fit(self, scores: Tensor) -> None:
        """Fit on the scores (n,) of normal samples, and warn if they are too few for anything to raise an alarm.

        Raises:
            UserError: If there are none, or if one of them is not finite.
        """
        with torch.inference_mode(False), torch.no_grad():  # the buffers outlive a trainer's inference mode
            scores = scores.cpu().to(self.value.dtype)
            self._check_scores(scores)
            scores = scores.sort().values
            exact = torch.tensor(self.compute(scores.double().numpy()), dtype=torch.float64)
            rounded = exact.to(self.value.dtype)  # not every accelerator has double precision
            if rounded > exact:  # down: then a score of this precision is above one just when it is above the other
                rounded = rounded.nextafter(torch.tensor(-torch.inf, dtype=rounded.dtype))
            self.calibration, self.value = scores.to(self.value), rounded.to(self.value.device)
        if not self.reachable:
            warnings.warn(self._unreached(), stacklevel=2)

    def forward(self, scores: Tensor) -> Tensor:
        """Which of the scores (B,) are anomalies, bool (B,). A NaN score always is.

        Raises:
            UserError: If it is not fitted.
        """
        self._check_calibrated()
        # not `>`, which is False for NaN: a sample that cannot be scored is the last one to pass for normal
        return ~(scores.to(self.value.dtype) <= self.value)

    def p_values(self, scores: Tensor) -> Tensor:
        """The p-value of each of the scores (B,) among the calibration scores, see ``p_values``.

        Compare them with a level as they are, float32: ``p <= 0.05``. A NaN score has the smallest, like +∞.

        Raises:
            UserError: If it is not fitted.
        """
        self._check_calibrated()
        return conformal.p_values(self.calibration, scores.to(self.value.dtype))

    def describe(self) -> str:
        """What it is, its value, and the false alarms to expect, in a line."""
        if not self.fitted:
            return f"{self}: not calibrated"
        if not self.reachable:
            return self._unreached()
        low, high = (f"{100 * rate:.3g} %" for rate in self.alarm_rate_interval)
        figures = f"false alarms {low}–{high} (95 % of calibration sets)"
        return f"{self}: {self.value.item():.4g}, from {self._source}; {figures}"

    def _check_calibrated(self) -> None:
        if not self.fitted:  # by a number that export knows, unlike whether the value is NaN
            raise UserError(f"{self}: not calibrated: fit it on scores of normal samples first")

    def _check_scores(self, scores: Tensor) -> None:
        if scores.numel() == 0:
            raise UserError(f"{self}: 0 calibration scores: it needs at least one normal sample")
        wrong = (~scores.isfinite()).nonzero().flatten().tolist()
        if wrong:
            raise UserError(
                f"{self}: {len(wrong)} of {len(scores)} calibration scores are NaN or infinite, the first at index "
                f"{wrong[0]}: look at that sample, and at whether the training diverged"
            )

    def _unreached(self) -> str:
        enough = self.needed
        how = "" if enough is None else f" with {self._source}: {enough} are needed"
        return f"{self} cannot be reached{how}; nothing raises an alarm"

    @property
    def _source(self) -> str:
        return f"{self.samples} calibration sample{'s' * (self.samples != 1)}"
