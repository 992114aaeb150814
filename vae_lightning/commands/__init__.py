"""The command line: its parser, its messages, and what each command does. Nothing else imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .main import main

if TYPE_CHECKING:
    from ..training.quiet import be_quiet
    from .parser import CLI

__all__ = ["CLI", "be_quiet", "main"]


def __getattr__(name: str) -> Any:  # not every command needs torch
    if name == "CLI":
        from .parser import CLI

        return CLI
    if name == "be_quiet":
        from ..training.quiet import be_quiet

        return be_quiet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
