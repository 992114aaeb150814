"""Forward passes that several scores need of the same batch, made once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Passes:
    """What a model's methods gave for a batch, and for what they themselves gave: x, its code, its reconstruction."""

    def __init__(self, x: Tensor) -> None:
        self.known = {id(x): x}  # kept, so that no other tensor gets its id
        self.results: dict[tuple[str, int], Any] = {}


def shared(method: Callable[[Any, Tensor], Result]) -> Callable[[Any, Tensor], Result]:
    """A method of a tensor whose result is remembered within :func:`sharing`, unless gradients are wanted."""

    @functools.wraps(method)
    def remembering(self: Any, x: Tensor) -> Result:
        passes: Passes | None = self.passes
        if passes is None or id(x) not in passes.known or torch.is_grad_enabled():
            return method(self, x)
        key = method.__name__, id(x)
        if key not in passes.results:
            result: Any = method(self, x)
            passes.results[key] = result
            passes.known.update((id(t), t) for t in (result if isinstance(result, (tuple, list)) else [result]))
        return passes.results[key]

    return remembering


@contextmanager
def sharing(model: Any, x: Tensor) -> Iterator[None]:
    """Within, the model's :func:`shared` methods are computed once for the batch x; afterwards nothing is kept."""
    before, model.passes = getattr(model, "passes", None), Passes(x)
    try:
        yield
    finally:
        model.passes = before


def each(model: Any, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches, each with its passes shared for as long as it is the current one."""
    for x in batches:
        with sharing(model, x):
            yield x
