"""Evaluation mode for as long as it is needed, by however many threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

_evaluations: WeakKeyDictionary[Any, tuple[int, list[Any]]] = WeakKeyDictionary()
_evaluations_lock = threading.Lock()


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within, the model is in evaluation mode; when the last thread leaves, each module is again in its own."""
    with _evaluations_lock:
        inside, trained = _evaluations.get(model, (0, []))
        if not inside:
            trained = [module for module in model.modules() if module.training]
            for module in trained:
                module.training = False
        _evaluations[model] = inside + 1, trained
    try:
        yield
    finally:
        with _evaluations_lock:
            inside, trained = _evaluations.pop(model)
            if inside > 1:
                _evaluations[model] = inside - 1, trained
            else:
                for module in trained:
                    module.training = True
