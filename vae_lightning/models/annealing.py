"""β as a function of the training step. A schedule holds no state, so a resumed run needs none."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..errors import UserError
from ..recipe import Recorded


class Annealing(Recorded, ABC):
    """A schedule of β, from a step to a number.

    Attributes:
        final: β at the end. Validation losses use it, so epochs can be compared.
    """

    final: float

    @abstractmethod
    def __call__(self, step: int, steps_per_epoch: int) -> float:
        """β at ``step``, counted in optimiser steps from 0."""


class Constant(Annealing):
    """The same β throughout."""

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = self.final = _nonnegative("Constant", "beta", beta)

    def __call__(self, step: int, steps_per_epoch: int) -> float:
        return self.beta


class _Timed(Annealing):
    def __init__(self, start: float, stop: float, epochs: float | None, steps: int | None) -> None:
        name = type(self).__name__
        if (epochs is None) == (steps is None):
            raise UserError(f"{name}: give either epochs or steps, not epochs = {epochs} and steps = {steps}")
        if not 0 < (steps if epochs is None else epochs) < float("inf"):  # type: ignore[operator]
            raise UserError(f"{name}: epochs = {epochs}, steps = {steps} must be positive")
        self.start, self.stop = _nonnegative(name, "start", start), _nonnegative(name, "stop", stop)
        self.epochs, self.steps = epochs, steps

    def _duration(self, steps_per_epoch: int) -> float:
        return self.epochs * steps_per_epoch if self.epochs is not None else float(self.steps or 0)


class Linear(_Timed):
    """From ``start`` to ``stop`` on a straight line over ``epochs`` or ``steps``, then constant.

    Bowman et al. 2016, "Generating Sentences from a Continuous Space", section 3.1 (KL cost annealing).
    """

    def __init__(
        self, start: float = 0.0, stop: float = 1.0, epochs: float | None = None, steps: int | None = None
    ) -> None:
        super().__init__(start, stop, epochs, steps)
        self.final = self.stop

    def __call__(self, step: int, steps_per_epoch: int) -> float:
        return self.start + (self.stop - self.start) * min(1.0, step / self._duration(steps_per_epoch))


class Cyclical(_Timed):
    """``cycles`` times from ``start`` to ``stop``, rising for ``ratio`` of each cycle; constant after the last.

    Fu et al. 2019, "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing", eq. 6–7.
    ``epochs`` or ``steps`` is the length of all cycles together.
    """

    def __init__(
        self,
        start: float = 0.0,
        stop: float = 1.0,
        epochs: float | None = None,
        steps: int | None = None,
        cycles: int = 4,
        ratio: float = 0.5,
    ) -> None:
        super().__init__(start, stop, epochs, steps)
        if cycles < 1:
            raise UserError(f"Cyclical: cycles = {cycles} must be at least 1")
        if not 0 < ratio <= 1:
            raise UserError(f"Cyclical: ratio = {ratio} is not in (0, 1]")
        self.cycles, self.ratio = cycles, ratio
        self.final = self.stop

    def __call__(self, step: int, steps_per_epoch: int) -> float:
        done = step / self._duration(steps_per_epoch)
        if done >= 1:
            return self.stop
        return self.start + (self.stop - self.start) * min(1.0, (done * self.cycles % 1) / self.ratio)


def _nonnegative(name: str, key: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise UserError(f"{name}: {key} = {value} must be a number of at least 0")
    return value
