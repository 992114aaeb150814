"""Scores and their thresholds: what a checkpoint holds beside the weights, and predicts with."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..scores import Score
from ..scores.sharing import each, sharing
from .thresholds import Threshold


class Detector(nn.Module):
    """Turns a model into a detector: scores for each sample, and for each score a threshold.

    It is a submodule of the model that it serves, so that state_dict, checkpoint and export hold all of it; the model
    is handed in with each call.

    Args:
        scores: The first one decides; the others are computed and reported beside it. Named by their class.
        threshold: Fitted for each score separately.
    """

    def __init__(self, scores: list[Score], threshold: Threshold) -> None:
        super().__init__()
        if not scores:
            raise UserError(
                "model.init_args.scores is empty: name at least one score, ReconstructionError for instance"
            )
        names = [type(score).__name__ for score in scores]
        names = [name if names.index(name) == i else f"{name}_{i + 1}" for i, name in enumerate(names)]
        # a ModuleDict is a dict of modules to everyone but the type checker
        self.scores = cast(dict[str, Score], nn.ModuleDict(dict(zip(names, scores, strict=True))))
        self.thresholds = cast(dict[str, Threshold], nn.ModuleDict({name: copy.deepcopy(threshold) for name in names}))

    @property
    def primary(self) -> str:
        """The name of the score that decides."""
        return next(iter(self.scores))

    def check(self, model: nn.Module) -> None:
        """Raise a UserError if the model lacks what a score needs."""
        for score in self.scores.values():
            score.check(model)

    @torch.no_grad()
    def fit(self, model: Any, val: Iterable[Tensor], train: Iterable[Tensor] | None = None) -> None:
        """Fit scores, then thresholds on the scores of validation samples.

        Args:
            model: What is scored.
            val: Batches (B, *input_shape) of normal validation samples.
            train: Of training samples, which the scores are fitted on; without, they take validation samples.
        """
        for score in self.scores.values():
            score.fit(model, val if train is None else train, val)
        found = [{name: score(view, x) for name, score in self.scores.items()} for view, x in each(model, val)]
        for name, threshold in self.thresholds.items():
            threshold.fit(torch.cat([scores[name] for scores in found]))

    def forward(self, model: Any, x: Tensor) -> dict[str, Tensor]:
        """Each score of each sample: (B, *input_shape) → {name: (B,)}."""
        view = sharing(model, x)
        return {name: score(view, x) for name, score in self.scores.items()}

    @property
    def fitted(self) -> bool:
        """Whether there are thresholds yet."""
        return not any(threshold.value.isnan() for threshold in self.thresholds.values())
