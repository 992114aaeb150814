"""Objects as primitives and back: how a file says what a model is made of, and why reading it runs no code.

A recipe is what YAML could hold: numbers, strings, lists, dicts, tensors, and ``{"class_path": …, "init_args": …}`` for
an object. It is built again from classes that are already there, those of this package and those that the caller has
defined or imported: a name in a file is looked up and never imported, and a function is never called.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .errors import UserError

PACKAGE = __name__.partition(".")[0]
FAMILIES = "detection", "models", "scores"  # whose classes a file may name; data modules are asked for by commands

Self = TypeVar("Self", bound="Recorded")


class Recorded:
    """Remembers the arguments that it is constructed with, so that ``describe`` can tell them.

    Nothing is asked of a subclass: it may keep its arguments under whatever names it likes, or not at all.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _, *others = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]  # __new__ below would hide it

    def __new__(cls: type[Self], *args: Any, **kwargs: Any) -> Self:
        if lacks := abstract(cls):  # type: ignore[arg-type]  # a class is hashable
            raise UserError(f"{cls.__name__} is what others extend, and has no {lacks[0]}: name one of those classes")
        self = super().__new__(cls)
        # containers are copied: who owns them may change them later
        object.__setattr__(self, "_given", (_copied(list(args)), _copied(kwargs)))
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by name, defaults included."""
        args, kwargs = self._given  # type: ignore[attr-defined]
        return _named(type(self), args, kwargs)

    def again(self: Self) -> Self:
        """Another one, constructed with the same arguments."""
        args, kwargs = self._given  # type: ignore[attr-defined]
        return type(self)(*args, **kwargs)


@functools.cache  # asked for every object, and for every view that scores make of a model
def abstract(cls: type) -> list[str]:
    """The methods that a class leaves to those that extend it. Python looks at classes of ``abc`` alone."""
    return [name for name in dir(cls) if getattr(getattr(cls, name, None), "__isabstractmethod__", False)]


def _copied(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_copied(item) for item in value]
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def _named(cls: type, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(cls).bind(*args, **kwargs)
    bound.apply_defaults()  # a later version may have others
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind is not inspect.Parameter.VAR_POSITIONAL:
            named[name] = value
        elif value:
            raise UserError(f"{cls.__name__}: *{name} cannot be recorded: give its arguments names")
    return named


def describe(value: Any, leave_out: Sequence[str] = (), name: str = "value") -> Any:
    """A recipe of a value.

    Args:
        value: A primitive, a list, tuple, dict, tensor, array, or an object whose class is ``Recorded``.
        leave_out: Arguments of the outermost object that are not part of it.
        name: What the message calls the value.

    Raises:
        UserError: When the value, or something within it, is none of those.
    """
    if isinstance(value, np.generic):  # before float, which float64 is a kind of, and no checkpoint can hold
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
    if isinstance(value, (list, tuple, range)):
        return [describe(item, name=f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and "class_path" not in value and all(isinstance(key, str) for key in value):
        return {key: describe(item, name=f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, Recorded):
        cls = type(value)
        given = {key: item for key, item in value.arguments.items() if key not in leave_out}
        recipes = {key: describe(item, name=f"{cls.__name__}.{key}") for key, item in given.items()}
        return {"class_path": class_path(cls), "init_args": recipes}
    raise UserError(
        f"{name} = {_brief(value)} cannot be kept in a checkpoint: give numbers, strings, lists, dicts with strings as "
        "keys, tensors, or objects of this package's families"
    )


def build(recipe: Any, trust: Sequence[type] = (), where: str = "the recipe") -> Any:
    """What a recipe describes, built again.

    Args:
        recipe: As ``describe`` gives it.
        trust: Classes beyond ``Recorded`` ones that may be built.
        where: What the message calls the place that the recipe comes from, the file for one.

    Raises:
        UserError: When it names a class that is not known, or arguments that the class does not take.
    """
    if isinstance(recipe, (list, tuple)):
        return [build(item, trust, where) for item in recipe]
    if not isinstance(recipe, dict):
        return recipe
    if "class_path" not in recipe:
        return {key: build(item, trust, where) for key, item in recipe.items()}
    arguments = recipe.get("init_args") or {}
    if not isinstance(arguments, dict) or not set(recipe) <= {"class_path", "init_args"}:
        raise UserError(f"{where}: {_brief(recipe)} is not a recipe: expected class_path and init_args")
    cls = find(recipe["class_path"], trust, where)
    try:
        return cls(**{key: build(item, trust, where) for key, item in arguments.items()})
    except TypeError as error:
        reason = str(error).partition("\n")[0]  # torch's go on with where in C++ they come from
        raise UserError(f"{where}: {cls.__name__}: {reason}") from error


def find(path: Any, trust: Sequence[type] = (), where: str = "the recipe") -> type:
    """The class that a class path names, among those that are known; nothing is imported on its word.

    Raises:
        UserError: When there is none.
    """
    for family in FAMILIES:
        importlib.import_module(f"{PACKAGE}.{family}")
    known = {class_path(cls): cls for cls in [*_below(Recorded), *trust]}
    if isinstance(path, str):
        if path in known and not abstract(known[path]):
            return known[path]
        module, _, name = path.rpartition(".")
        if module.partition(".")[0] == PACKAGE:  # a class of this package that an earlier version kept elsewhere
            moved = [cls for cls in known.values() if cls.__name__ == name and cls.__module__.startswith(PACKAGE)]
            if len(moved) == 1 and not abstract(moved[0]):
                return moved[0]
    raise UserError(
        f"{where}: {path} is not a class of {PACKAGE}, nor one that has been imported: import the module that defines "
        "it first, or name it in trust"
    )


def same(a: Any, b: Any) -> bool:
    """Whether two recipes say the same, tensors compared by their numbers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def class_path(cls: type) -> str:
    """The module and name of a class, ``vae_lightning.models.vae.VAE``."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _below(cls: Any) -> Iterator[type]:
    for sub in cls.__subclasses__():
        if class_path(sub) == class_path(cls):  # a stand-in under its name, as torch.export makes them
            continue
        yield sub
        yield from _below(sub)


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
