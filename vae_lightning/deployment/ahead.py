"""Reading and computing at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], most: int = 3) -> Iterator[T]:
    """The same items, got by a thread before they are asked for.

    Args:
        items: Whatever is raised on the way to one is raised in its place.
        most: How many wait at a time.
    """
    line: queue.Queue[tuple[bool, Any]] = queue.Queue(most)
    nobody_waits = threading.Event()

    def put(is_item: bool, what: Any) -> None:
        while not nobody_waits.is_set():
            try:
                line.put((is_item, what), timeout=0.1)
            except queue.Full:
                continue
            break

    def read() -> None:
        try:
            for item in items:
                put(True, item)
                if nobody_waits.is_set():
                    return
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (found := line.get())[0]:
            yield found[1]
        if found[1] is not None:
            raise found[1]
    finally:
        nobody_waits.set()
        thread.join()
