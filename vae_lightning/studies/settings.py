"""A run's configuration on one level: what it says, and what it leaves at its default."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser

PACKAGE = __name__.partition(".")[0]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration on one level.

    ``model: {class_path: VAE, init_args: {beta: 4}}`` gives ``model: VAE`` and ``model.beta: 4``; of objects in a list,
    each has its place as a name.
    """
    if isinstance(value, dict) and "class_path" in value:
        yield key, _canonical(str(value["class_path"]))
    if inner := _inside(value):
        for name, item in inner.items():
            yield from leaves(item, f"{key}.{name}" if key else name)
    elif not isinstance(value, dict):
        if isinstance(value, tuple):  # of Python; a file has lists
            value = list(value)
        yield key, value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def defaults(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """What a nested configuration leaves at its default, as ``leaves`` would give it; nothing for unknown classes.

    None is the default of an argument that its class gives a meaning of its own, an object for one.
    """
    inner = _inside(value)
    for name, default in arguments(str(value["class_path"])).items() if _is_object(value) else ():
        if inner.get(name) is None and (default is None or name not in inner):
            yield from leaves(default, f"{key}.{name}" if key else name)
    for name, item in inner.items():
        yield from defaults(item, f"{key}.{name}" if key else name)


def _canonical(class_path: str) -> str:
    """A class of this package by its own name: where it stood in an earlier version makes no difference."""
    return f"{PACKAGE}.{class_path.rpartition('.')[2]}" if class_path.startswith(f"{PACKAGE}.") else class_path


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "class_path" in value


def _inside(value: Any) -> dict[str, Any]:
    """What has a name of its own in a configuration: keys, an object's arguments, places of objects in a list."""
    if _is_object(value):
        value = value.get("init_args")
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {str(i): item for i, item in enumerate(value)}
    return value if isinstance(value, dict) else {}


@cache
def arguments(class_path: str) -> dict[str, Any]:
    """The arguments of a class of this package with their defaults; none of a class that is not loaded.

    Nothing is imported on a file's word: another's module could do anything.
    """
    module, _, name = class_path.rpartition(".")
    if module.partition(".")[0] != PACKAGE or module not in sys.modules:
        return {}
    cls = vars(sys.modules[module]).get(name)  # not getattr: a module may import what it is asked for
    if not isinstance(cls, type):
        return {}
    parser = ArgumentParser(exit_on_error=False)  # what the saved configurations are made by
    try:
        parser.add_class_arguments(cls, fail_untyped=False)
    except (ValueError, TypeError):
        return {}
    return dict(parser.get_defaults().as_dict())
