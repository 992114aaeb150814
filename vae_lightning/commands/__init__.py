"""The command line: its parser, its messages, and what each command does. Nothing else imports it.

Its names are looked up when they are asked for: ``--help`` needs none of what they import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .entry import main
    from .parser import CLI

__all__ = ["CLI", "main"]


def __getattr__(name: str) -> Any:
    homes = {"CLI": "parser", "main": "entry"}
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{homes[name]}"), name)
