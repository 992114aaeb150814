"""Decoded images: in memory or, where they are many, in a memory map that serves as long as the files are unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..decoding import Decoder
from ..errors import UserError
from ..imagefiles import Skipped, decoded

PATIENCE = 5  # seconds without a progress bar

T = TypeVar("T")


class Decoded(NamedTuple):
    """Images of files.

    Attributes:
        x: uint8 (n, channels, height, width).
        kept: int64 (n,), which of the files they are, ascending.
        skipped: The files that could not be read: path and reason.
    """

    x: Tensor
    kept: Tensor
    skipped: Skipped


def decode_files(
    paths: list[Path],
    decoder: Decoder,
    workers: int,
    on_disk: Path | None,
    skip: bool = False,
    channels: int | None = None,
) -> Decoded:
    """All images of a data set.

    Args:
        paths: Of the files.
        decoder: For all of them.
        workers: Processes that decode; 0: this one.
        on_disk: The folder of the memory map; None keeps them in memory.
        skip: Leave files out that cannot be read; they are fatal otherwise.
        channels: How many each file must have by itself; None: as many as it likes.

    Raises:
        UserError: For a file that cannot be read, has other channels or changes meanwhile, and for a disk without room.
    """
    before, shape = [_state(path) for path in paths], (len(paths), *decoder.shape)

    def fill(x: np.ndarray) -> tuple[list[int], Skipped]:
        found = _fill(x, paths, decoder, workers, skip, channels)
        _check_unchanged(paths, before)
        return found

    if on_disk is None:
        x = np.empty(shape, np.uint8)
        kept, skipped = fill(x)
    else:
        files = [[os.path.abspath(path), *state] for path, state in zip(paths, before, strict=True)]
        key = hashlib.sha256(json.dumps([decoder.primitives(), skip, channels, files]).encode()).hexdigest()
        file, index = on_disk / f"{key[:32]}.npy", on_disk / f"{key[:32]}.json"
        if not index.is_file():  # written last
            _whole(index, lambda temporary: temporary.write_text(json.dumps(_mapped(file, shape, fill), default=str)))
        kept, reasons = json.loads(index.read_text())
        skipped = [(Path(path), reason) for path, reason in reasons]
        x = np.load(file, mmap_mode="c")  # for this process alone: torch wants memory that it could write to
    return Decoded(torch.from_numpy(x[: len(kept)]), torch.tensor(kept, dtype=torch.int64), skipped)


def _fill(
    x: np.ndarray, paths: list[Path], decoder: Decoder, workers: int, skip: bool, channels: int | None
) -> tuple[list[int], Skipped]:
    """Write the images into x, one after the other; which they are, and what was skipped."""
    kept: list[int] = []
    skipped: Skipped = []
    places = {path: i for i, path in enumerate(paths)}
    images = decoded(paths, decoder, workers, skipped if skip else None)
    for path, image, own in tqdm(images, "decoding images", len(paths), delay=PATIENCE, leave=False):
        if channels is not None and own != channels:
            raise UserError(f"{path}: has {own} channels and others have {channels}: give channels = 1 or 3 for all")
        x[len(kept)] = image
        kept.append(places[path])
    return kept, skipped


def _mapped(file: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], T]) -> T:
    """Fill a memory map of uint8 that is there as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape)), shutil.disk_usage(file.parent).free
    if needed > free:
        raise UserError(
            f"{file.parent}: {needed / 1e9:.3g} GB are needed for the decoded images and {free / 1e9:.3g} GB are free: "
            "give another cache, or a smaller size"
        )

    def write(temporary: Path) -> T:
        x: Any = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        found = fill(x)
        x.flush()
        return found

    return _whole(file, write)


def _whole(file: Path, write: Callable[[Path], T]) -> T:
    """Write a file of a name of its own, then rename it: several processes may do so at once."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        found = write(temporary)
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return found


def _state(path: Path) -> tuple[int, int]:
    """A file's size, and when it was written to."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1  # decoding it says what is wrong
    return stat.st_size, stat.st_mtime_ns


def _check_unchanged(paths: list[Path], before: list[tuple[int, int]]) -> None:
    for path, state in zip(paths, before, strict=True):
        if _state(path) != state:
            raise UserError(f"{path}: changed while the images were read: start again once it does not")
