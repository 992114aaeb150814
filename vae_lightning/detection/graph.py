"""From raw samples to scores, p-values and decisions: the only code that touches a number, as one graph."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..scores import Score
from ..scores.maps import Mapped
from ..scores.sharing import own, sharing


class Scores(NamedTuple):
    """What a detector returns for B samples.

    Attributes:
        score: float32 (B,), of the score that decides; higher is more anomalous.
        p_value: float32 (B,), in (0, 1]: the share of normal samples that score at least as high, see
            ``p_values``.
        anomaly: bool (B,), the decision.
        each: Every score by its name, float32 (B,).
    """

    score: Any
    p_value: Any
    anomaly: Any
    each: dict[str, Any]


class Graph(nn.Module):
    """A model's way from raw samples to ``Scores`` as a module: what ``torch.export`` is given.

    Args:
        model: An ``AnomalyModel``: preprocessing, network, scores and thresholds.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def scores(self, raw: Tensor) -> dict[str, Tensor]:
        """Every score of raw samples (B, *raw_shape), float32 (B,). One that is not a number counts as infinite."""
        return _no_nan(self.computed(raw))

    def maps(self, raw: Tensor) -> dict[str, Tensor]:
        """The map of every score that has one, of raw images (B, C, H, W): float32 (B, H, W)."""
        with _single_precision(raw):
            x = self.model.preprocessing(raw)
            view = sharing(self.model, x)
            mapped = {name: score for name, score in self.model.scores.items() if isinstance(score, Mapped)}
            return {name: score.maps(view, own(view, x)).float() for name, score in mapped.items()}

    def forward(self, raw: Tensor) -> Scores:
        return self.decide(self.computed(raw))

    def computed(self, raw: Tensor) -> dict[str, Tensor]:
        """The same as ``scores``, but one that is not a number is NaN, as it was computed."""
        with _single_precision(raw):
            x = self.model.preprocessing(raw)
            alone = sum(isinstance(module, Score) for module in self.model.scores.modules()) == 1
            view = self.model if alone else sharing(self.model, x)  # a lone score has nobody to share passes with
            return {name: score(view, x).float() for name, score in self.model.scores.items()}

    def decide(self, computed: dict[str, Tensor]) -> Scores:
        """Scores with p-values and decisions, of what ``computed`` gave; each sample's depends on its own score."""
        each = _no_nan(computed)
        primary = next(iter(each))
        threshold = self.model.thresholds[primary]
        # the decision on the score as it is: NaN is an alarm even where the threshold is infinite
        return Scores(each[primary], threshold.p_values(each[primary]), threshold(computed[primary]), each)


def _no_nan(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: score.masked_fill(score.isnan(), math.inf) for name, score in scores.items()}


@contextlib.contextmanager
def _single_precision(x: Tensor) -> Iterator[None]:
    """Scores are computed in float32 whatever the training's precision: the same in every command."""
    if not torch.is_autocast_enabled(x.device.type):
        yield
    else:
        with torch.autocast(x.device.type, enabled=False):
            yield
