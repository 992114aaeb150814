"""Files: read with a plain word on what is wrong, written whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

DEEPEST, LONGEST = 50, 100_000  # nesting of a YAML document; its values, with each alias written out
PLAIN_YAML = 50  # characters, within which neither can be exceeded but by aliases


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        UserError: When it is no YAML, would be endless, or holds none of ``what``.
    """
    try:
        text = path.read_text()
        check_yaml(text)
        content = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # such as a date that there is not
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}{line}: not valid YAML: {' '.join(str(getattr(error, 'problem', None) or error).split())}"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no {what}")
    return content


def check_yaml(text: str) -> None:
    """Refuse what would become endless when it is loaded: deep nesting, and aliases of aliases.

    Raises:
        yaml.YAMLError: When it is too deep or too long, or no YAML.
    """
    if len(text) <= PLAIN_YAML and not {"*", "&"} & set(text):
        return
    sizes: dict[str, int] = {}  # of what has an anchor
    open_: list[tuple[str | None, int]] = []  # collections that have not ended: anchor, size before
    size = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, size))
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            sizes |= {anchor: size - before} if anchor else {}
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise yaml.YAMLError(f"*{event.anchor} stands for something that it is a part of, or for nothing")
            size += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            sizes |= {event.anchor: 1} if event.anchor else {}
        if len(open_) > DEEPEST or size > LONGEST:
            raise yaml.YAMLError(f"it is more than {DEEPEST} levels deep, or more than {LONGEST:,} values long")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file that is never seen half-written; the first row is its head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    write_whole(path, content.getvalue())


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


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
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # not tempfile's, which no one else may read
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def clear(folder: Path) -> None:
    """Remove what processes that were killed while they wrote have left in a folder that nobody writes to now."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        if re.fullmatch(r"\..+\.[0-9a-f]{32}", path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def check_inside(folder: Path) -> None:
    """Raise a UserError if writing into a folder would write out of it, through a link."""
    root = folder.resolve()
    for parent, folders, names in os.walk(root):  # follows none
        for path in (Path(parent, name) for name in (*folders, *names)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise UserError(f"{path}: is a link out of the run's folder: copy what it stands for, or remove it")
