"""The base class of scores: a function of a model and a batch; higher is more anomalous."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ..errors import UserError
from ..fitted import Fitted
from .contributions import Contributions, integrated_gradients
from .sharing import own


class Score(Fitted):
    """(model, x) → (B,): deterministic, and independent of how samples are batched.

    A score may be fitted on normal samples. What it learns is kept in buffers, which are stored in the checkpoint.

    Attributes:
        requires: Methods that a model must have.
        unit: Of the score, for axes and tables; empty where it has none.
        export_refusal: Why it cannot be part of an exported file, in one line; None if it can.
        scale: Of what it is a difference of, where that is more than its own: its rounding error is a share of that.
    """

    requires: tuple[str, ...] = ("reconstruct",)
    unit = ""
    export_refusal: str | None = None
    scale: float = 0.0

    def check(self, model: nn.Module) -> None:
        """Raise a UserError if the model lacks what this score needs."""
        for method in self.requires:
            if not callable(getattr(model, method, None)):
                raise UserError(
                    f"model.init_args.scores: {type(self).__name__} needs a model with `{method}`, which "
                    f"{type(model).__name__} has not: choose another score or model"
                )
        encoder = getattr(model, "encoder", None)  # there is none yet when a model checks before it has built one
        if "hidden" in self.requires and len(getattr(encoder, "hidden_blocks", [None])) == 0:
            raise UserError(
                f"model.init_args.scores: {type(self).__name__} needs hidden layers, and the network has none: give it "
                "some, or leave hidden out of the score's layers"
            )

    @property
    def fitted(self) -> bool:
        """Whether it is fitted; until then its buffers are empty."""
        parts = [list(part.buffers(recurse=False)) for part in self.modules() if isinstance(part, Score)]
        return all(any(buffer.numel() for buffer in buffers) for buffers in parts if buffers)

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        """Fit on normal samples; both can be gone through as often as needed.

        Args:
            model: What is scored.
            train: Batches (B, *input_shape) of training samples, which scores are fitted on.
            val: Of validation samples, which no score was fitted on: what several scores are compared on.
        """

    def __call__(self, model: Any, x: Tensor) -> Tensor:
        # on a copy: a score that writes into x changes nothing for its caller and for other scores
        scores: Tensor = super().__call__(model, own(model, x))
        return scores

    @abstractmethod
    def forward(self, model: Any, x: Tensor) -> Tensor:
        """The score of each sample: (B, *input_shape) → (B,)."""

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        """What each column or pixel of x adds to its score, and each latent dimension.

        A score that is a sum overrides this; all others are attributed by integrated gradients.

        Args:
            model: What is scored.
            x: (B, *input_shape).
            baseline: What gradients are integrated from, the shape of x; None: the reconstruction.
        """
        return integrated_gradients(self, model, x, model.reconstruct(x) if baseline is None else baseline)


def at_least(minimum: int, score: Score, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < minimum:
            raise UserError(f"{type(score).__name__}: {name} = {value} must be at least {minimum}")
