"""What a configuration out of a file may say before the parser sees it, for the parser imports what it reads.

To jsonargparse a string is a class to import, YAML or a path to more of it, wherever an argument may be an object. So a
class has to be known already, and a string may only stand where the argument takes nothing but numbers and text.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from ..errors import UserError

PLAIN = str, int, float, bool, Path, NoneType, list, tuple, dict
WORD = re.compile(r"[\w-]+|[\d:]+")  # of a trainer's settings: ddp, bf16-mixed, 00:12:00:00
OBJECTS = "logger", "plugins", "profiler", "default_root_dir"  # a run's own configuration needs none
TEXT = "runs", "experiment"

Find = Callable[[str], type]


def check_recipe(recipe: Any, find: Find, where: str) -> None:
    """Raise a UserError unless a recipe names only classes that ``find`` knows, and nothing that could become one.

    Args:
        recipe: ``{"class_path": …, "init_args": …}``.
        find: The class that a class path names; raises a UserError for one that it does not know.
        where: The file.
    """
    if not isinstance(recipe, dict) or not {"class_path"} <= set(recipe) <= {"class_path", "init_args"}:
        raise _refused(recipe, where)
    cls, arguments = find(str(recipe["class_path"])), recipe.get("init_args")
    if arguments is not None and not isinstance(arguments, dict):
        raise _refused(recipe, where)
    for name, value in (arguments or {}).items():
        _check(value, _is_plain(_annotation(cls, name)), find, where)


def check_run(content: dict[str, Any], find: Find, where: str) -> None:
    """The same of a run's ``config.yaml``."""
    for key, value in content.items():
        if key in ("model", "data"):
            check_recipe(value, find, where)
        elif key == "trainer":
            _check_trainer(value, find, where)
        else:
            _check(value, key in TEXT, find, where)


def _check_trainer(settings: Any, find: Find, where: str) -> None:
    if not isinstance(settings, dict):
        raise _refused(settings, where)
    for key, value in settings.items():
        if key in OBJECTS and value not in (None, False, True):
            raise _refused(f"trainer.{key}", where)
        if not (isinstance(value, str) and WORD.fullmatch(value)):
            _check(value, False, find, where)


def _check(value: Any, plain: bool, find: Find, where: str) -> None:
    if isinstance(value, dict) and "class_path" in value:
        check_recipe(value, find, where)
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, plain, find, where)
    elif not (value is None or isinstance(value, (bool, int, float)) or (plain and isinstance(value, str))):
        raise _refused(value, where)


def _refused(what: Any, where: str) -> UserError:
    text = " ".join(str(what).split())
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return UserError(
        f"{where}: {text} is not a known class and could be anything: if you trust the file, write a configuration of "
        "your own and name it with --config"
    )


def _annotation(cls: type, name: str) -> Any:
    """Of an argument of a constructor, which may hand it on to the one that it extends; None if there is none."""
    for base in cls.__mro__:
        if "__init__" in vars(base) and name in inspect.signature(vars(base)["__init__"]).parameters:
            try:
                return typing.get_type_hints(vars(base)["__init__"]).get(name)
            except NameError:
                return None
    return None


def _is_plain(annotation: Any) -> bool:
    """Whether an argument takes numbers and text alone, and no object."""
    if typing.get_origin(annotation) is Literal:
        return True
    if typing.get_origin(annotation) is Callable:
        return False
    inner = [part for part in typing.get_args(annotation) if part is not ...]
    return all(map(_is_plain, inner)) if inner else annotation in PLAIN
