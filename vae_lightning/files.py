"""Files: read with a plain word on what is wrong, written whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        UserError: When it is no YAML, or holds none of ``what``.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: no YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no {what}")
    return content


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file that is never seen half-written; the first row is its head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    write_whole(path, content.getvalue())


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a file's lock, which the system releases with the process; False if another process has it."""
    with path.open("w") as file:
        yield _acquire(file.fileno(), wait)


def free(path: Path) -> bool:
    """Whether no process has the lock."""
    if not path.exists():
        return True
    with path.open() as file:
        return _acquire(file.fileno(), wait=False)


def _acquire(handle: int, wait: bool) -> bool:
    import fcntl  # not on every system, and not in every command

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another name beside ``path`` to write to; it becomes ``path`` at the end, and goes if anything is raised.

    A process that is killed at any moment leaves at ``path`` what was there before, or the new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # not tempfile's, which no one else may read
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
