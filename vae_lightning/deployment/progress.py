"""How far it is: a bar in a terminal, and now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

FIRST, GROWTH, LONGEST = 5.0, 1.3, 600.0  # seconds to the first line, from line to line, and at most


def shown(batches: Iterable[Any], rows: int | None, progress: bool = True, what: str = "scoring") -> Iterator[Any]:
    """The same batches, with how many of their rows have gone by on stderr.

    Args:
        batches: Each with a length.
        rows: Of all of them; None if it is not known.
        progress: Whether anything is shown.
        what: Is done.
    """
    if not progress:
        yield from batches
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=what, total=rows, unit=" rows", unit_scale=True, leave=False) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch))
    else:
        yield from _lines(batches, rows, what)


def _lines(batches: Iterable[Any], rows: int | None, what: str) -> Iterator[Any]:
    """The longer it takes, the rarer a line."""
    done, started = 0, time.monotonic()
    due = started + FIRST
    for batch in batches:
        yield batch
        done += len(batch)
        if (now := time.monotonic()) >= due:
            due = now + min(LONGEST, max(FIRST, (GROWTH - 1) * (now - started)))
            share = f"/{rows:,}" if rows else ""
            print(f"{what}  {done:,}{share} rows  {now - started:.0f} s", file=sys.stderr, flush=True)
