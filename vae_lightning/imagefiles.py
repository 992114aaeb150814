"""Many image files: found in a folder, and decoded by worker processes.

>>> decoder = Decoder.of(detector.model.trained_on["images"])  # of a detector that was trained on files
>>> for paths, x in batches(images_below("parts"), decoder, 256, workers=cores()):  # x: uint8 (B, *decoder.shape)
...     answer = detector(torch.from_numpy(x))
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import current_process
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .decoding import Decoder
from .errors import UserError

SUFFIXES = ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"
CHUNK = 32  # files that a worker process decodes at a time

T = TypeVar("T")
U = TypeVar("U")


def images_below(folder: str | Path) -> list[Path]:
    """The image files in a folder and in the folders in it, by their suffixes, in the order of their paths.

    Raises:
        UserError: When there is no such folder, or no image in it.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: there is no such folder")
    found = sorted(_walk(Path(folder), set()))
    if not found:
        raise UserError(f"{folder}: holds no images: their names end in {', '.join(SUFFIXES)}")
    return found


def paths_of(x: Any) -> list[Path] | None:
    """The image files that x names: a file, a folder, or a list of files. None if it names none.

    Raises:
        UserError: For a folder without images.
    """
    if isinstance(x, (str, Path)):
        return images_below(x) if Path(x).is_dir() else [Path(x)]
    if isinstance(x, (list, tuple)) and x and all(isinstance(path, (str, Path)) for path in x):
        return [Path(path) for path in x]
    return None


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if (place := folder.resolve()) in seen:  # a link to a folder above
        return
    seen.add(place)
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, seen)
        elif path.suffix.lower() in SUFFIXES:
            yield path


Skipped = list[tuple[Path, str]]


def batches(
    paths: Iterable[str | Path],
    decoder: Decoder,
    batch_size: int = 256,
    workers: int = 0,
    skipped: Skipped | None = None,
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Image files in their order, decoded by worker processes a little ahead of who asks; memory does not grow.

    Args:
        paths: Of the files.
        decoder: For all of them.
        batch_size: Files at once.
        workers: Processes; 0 decodes in this one.
        skipped: Files that cannot be read are left out, and noted here with the reason. None: they are fatal.

    Yields:
        Up to ``batch_size`` paths, and their images, uint8 (B, channels, height, width).

    Raises:
        UserError: For the first file that cannot be read.
    """
    kept: list[Path] = []
    images: list[np.ndarray] = []
    for path, image, _ in decoded(paths, decoder, workers, skipped):
        kept.append(path)
        images.append(image)
        if len(kept) == batch_size:
            yield kept, np.stack(images)
            kept, images = [], []
    if kept:
        yield kept, np.stack(images)


def decoded(
    paths: Iterable[str | Path], decoder: Decoder, workers: int = 0, skipped: Skipped | None = None
) -> Iterator[tuple[Path, np.ndarray, int]]:
    """Image files one by one: path, uint8 (channels, height, width), and the file's own channels; see batches."""
    for found in in_order(partial(_decode, decoder), _chunks(map(Path, paths), CHUNK), workers):
        for path, image, own in found:
            if isinstance(image, np.ndarray):
                yield path, image, own
            elif skipped is None:
                raise UserError(image)
            else:
                skipped.append((path, image))


def _decode(decoder: Decoder, paths: list[Path]) -> list[tuple[Path, np.ndarray | str, int]]:
    """What a worker does: images, or what is wrong with them."""
    found: list[tuple[Path, np.ndarray | str, int]] = []
    for path in paths:
        try:
            found.append((path, *decoder.decode(path)))
        except UserError as error:
            found.append((path, str(error), 0))
    return found


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


def in_order(function: Callable[[list[T]], U], chunks: Iterable[list[T]], workers: int) -> Iterator[U]:
    """As ``map``, by so many worker processes, with a bounded number of chunks under way."""
    if workers < 1 or current_process().daemon:  # a daemon may have no children
        yield from map(function, chunks)
        return
    waiting: deque[tuple[list[T], Future[U]]] = deque()
    pool = ProcessPoolExecutor(workers, initializer=_leave_interrupts_to_the_parent)
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(function, chunk)))
            if len(waiting) > 2 * workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(chunk: list[T], future: Future[U]) -> U:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            f"{chunk[0]}: the process that decoded it, or one of the {len(chunk) - 1} after it, was killed: there "
            "is too little memory, or a file is damaged"
        ) from None


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
