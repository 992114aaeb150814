"""What every score keeps to: a function of a model and a batch, higher is stranger."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UserError

FitOn = Literal["train", "val"]


class Score(nn.Module):
    """(model, x) → (B,). Deterministic, and of each sample alone: no matter how samples are batched.

    A score may be fitted on normal samples; what it learns there are buffers, which travel in the checkpoint whatever
    their shape.

    Attributes:
        requires: Methods that a model must have to be scored.
        fit_on: ``train``: training samples, for what needs many of them. ``val``: validation samples, for what the
            encoder has made small on those that it was trained on. None: nothing is fitted.
    """

    requires: tuple[str, ...] = ("reconstruct",)
    fit_on: FitOn | None = None

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

    def fit(self, model: Any, batches: Iterable[Tensor]) -> None:
        """Fit on normal samples. ``batches`` can be gone through as often as needed."""

    def calibrate(self, model: Any, val: Iterable[Tensor], train: Iterable[Tensor] | None = None) -> list[Score]:
        """Fit on what ``fit_on`` says. What it gives scores validation samples as new ones, see :func:`alternate`.

        A fitted score is lower on its own samples than on new ones. Where it is fitted on validation samples, or for
        want of others, each of them is scored by a copy that was fitted on the half of them without it.
        """
        samples = train if self.fit_on == "train" and train is not None else val
        self.fit(model, samples)
        if self.fit_on is None or samples is not val:
            return [self]
        copies = [copy.deepcopy(self), copy.deepcopy(self)]
        for half, fitted in enumerate(copies):
            fitted.fit(model, _EverySecond(val, 1 - half))
        return list(copies)

    @abstractmethod
    def forward(self, model: Any, x: Tensor) -> Tensor:
        """The score of each sample: (B, *input_shape) → (B,)."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and saved is not None and saved.shape != buffer.shape:
                self._buffers[name] = torch.empty_like(saved, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


class _EverySecond:
    """Every second sample of all batches, as often as they are asked for."""

    def __init__(self, batches: Iterable[Tensor], start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[Tensor]:
        return (x[self.start :: 2] for x in self.batches if len(x) > self.start)


def alternate(scores: list[Score], model: Any, x: Tensor) -> Tensor:
    """Scores of x, the i-th sample's by the i-th score and then from the first one again."""
    found = torch.stack([score(model, x) for score in scores])
    return found[torch.arange(len(x)) % len(scores), torch.arange(len(x))]


def at_least(minimum: int, score: Score, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < minimum:
            raise UserError(f"{type(score).__name__}: {name} = {value} must be at least {minimum}")


def shared_noise(samples: int, like: Tensor, seed: int) -> Tensor:
    """(samples, 1, D), the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 1, like.shape[1], generator=generator).to(like)
