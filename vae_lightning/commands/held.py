"""Standard error, held back until a command has begun: what is wrong before that is said in one line alone.

Lightning tells which devices there are, and warns, before it is known whether anything will run at all. Once the first
step is taken, or the command has ended well, all of it is shown.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Held:
    """A stream that keeps what is written to it, until it is let go: from then on, or dropped.

    Attributes:
        begun: Whether the command has begun.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.begun = stream, False
        self._kept: list[str] = []
        self._process = os.getpid()

    def write(self, text: str) -> int:
        if not self.begun and os.getpid() == self._process:
            self._kept.append(text)
            return len(text)
        return self.stream.write(text)

    def begin(self) -> None:
        """Show what was kept, and everything from now on."""
        self.begun = True
        if os.getpid() == self._process:  # what has been forked would say it once more
            self.stream.write("".join(self._kept))
        self._kept.clear()

    def drop(self) -> None:
        """Forget what was kept."""
        self._kept.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_held: list[Held] = []


def begun() -> bool:
    """Whether the command of this process has begun."""
    return bool(_held) and _held[-1].begun


def begin() -> None:
    """The command has begun: nothing is wrong with what it was given, as far as anyone can tell."""
    if _held and not begun():
        _held[-1].begin()


@contextlib.contextmanager
def held_back() -> Iterator[Held]:
    """Within, standard error is held back until ``begin``; after it, as it was."""
    stream, streams = sys.stderr, {handler: handler.stream for handler in _handlers()}
    held: Any = Held(stream)
    sys.stderr = held
    for handler in streams:
        handler.setStream(held)
    _held.append(held)
    try:
        yield held
    finally:
        if sys.stderr is held:
            sys.stderr = stream
        for handler in _handlers():  # Lightning may have been imported in between
            if handler.stream is held:
                handler.setStream(streams.get(handler, stream))
        begin()
        _held.pop()


def _handlers() -> list[Any]:
    names = "lightning", "lightning.pytorch", "lightning.fabric"
    found = [handler for name in names for handler in logging.getLogger(name).handlers]
    return [handler for handler in found if isinstance(handler, logging.StreamHandler)]
