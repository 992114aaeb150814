"""Forward passes that several scores need of the same batch, made once."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

Model = TypeVar("Model")
Result = TypeVar("Result")


class Passes:
    """What a model's methods gave for x, and for what they themselves gave: its code, its reconstruction.

    A score gets copies, so that writing into one changes nothing for those who ask later; a copy costs far less than
    the pass that it saves. A copy that comes back as an argument stands for its original only while it still has the
    original's values. Among themselves the model's methods hand on the originals.
    """

    def __init__(self, x: Tensor) -> None:
        self._copies: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}  # an id says nothing once its tensor dies
        self._originals: dict[int, Tensor] = {}
        self._results: dict[tuple[Callable[..., Any], int], Any] = {}
        self._inside = False  # whether a method of the model is running
        own = x.clone()
        self._originals[id(own)] = own
        self._note(x, own)

    def _note(self, t: Tensor, original: Tensor) -> None:
        self._copies[id(t)] = weakref.ref(t), _writes(t), original

    def copy(self, original: Tensor) -> Tensor:
        """A copy to hand out."""
        t = original.clone()
        self._note(t, original)
        return t

    def original(self, t: Tensor) -> Tensor | None:
        """What t is, or is a copy of; None if it is neither, or was written into."""
        if self._inside:
            return self._originals.get(id(t))
        known, writes, original = self._copies.get(id(t), (None, 0, t))
        if known is None or known() is not t:
            return None
        # a graph has no values yet to be compared, and a GPU would have to wait for them; but writes are counted
        if torch.compiler.is_compiling() or (t.device.type != "cpu" and not t.is_inference()):
            return original if writes == _writes(t) >= 0 else None
        return original if torch.equal(t, original) else None

    def result(self, method: Callable[[Any, Tensor], Any], model: Any, original: Tensor) -> Any:
        """What the method gives for an original: copies of it, unless another method asks."""
        key = method, id(original)
        if key not in self._results:
            outside, self._inside = not self._inside, True
            try:
                result = self._results[key] = method(model, original)
            finally:
                self._inside = not outside
            _each_tensor(lambda t: self._originals.setdefault(id(t), t), result)
        return self._results[key] if self._inside else _each_tensor(self.copy, self._results[key])


def shared(method: Callable[[Any, Tensor], Result]) -> Callable[[Any, Tensor], Result]:
    """A method of a tensor whose result is remembered by a view, see ``sharing``, unless gradients are wanted.

    It must not write into its argument, nor into what other such methods gave it.
    """

    @functools.wraps(method)
    def remembering(self: Any, x: Tensor) -> Result:
        passes: Passes | None = getattr(self, "passes", None)
        original = None if passes is None or torch.is_grad_enabled() else passes.original(x)
        if passes is None or original is None:
            return method(self, x)
        result: Result = passes.result(method, self, original)
        return result

    return remembering


def sharing(model: Model, x: Tensor) -> Model:
    """A view of the model that computes its ``shared`` methods once for the batch x.

    The model itself holds nothing, so several threads may score with it at once, and nothing outlives the view.
    Parameters and submodules are the model's own.
    """
    view: Any = copy.copy(model)
    view.passes = Passes(x)
    return view


def own(model: Any, x: Tensor) -> Tensor:
    """A copy of x to write into, which a view of the model still knows for x until then."""
    passes: Passes | None = getattr(model, "passes", None)
    original = None if passes is None or torch.is_grad_enabled() else passes.original(x)
    return x.clone() if passes is None or original is None else passes.copy(original)


def each(model: Model, batches: Iterable[Tensor]) -> Iterator[tuple[Model, Tensor]]:
    """The batches, each a copy and with the view of the model that shares its passes."""
    for x in batches:
        view = sharing(model, x)
        yield view, own(view, x)


def _writes(t: Tensor) -> int:
    """How often t was written into; −1 where PyTorch does not count."""
    return -1 if t.is_inference() else t._version


def _each_tensor(f: Callable[[Tensor], Tensor], result: Any) -> Any:
    return f(result) if isinstance(result, Tensor) else type(result)(map(f, result))
