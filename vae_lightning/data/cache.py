"""Tables larger than memory: encoded once into a file, and gathered from it without being held."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import lock

WINDOW = 2**26  # bytes of the file that are mapped at once
SPARE = 2**28  # bytes of the disk that are left free


class Rows:
    """An (N, D) table in an NPY file: as much of a tensor as a split asks of one, in bounded memory.

    A process keeps a few tens of megabytes of the file, however large it is. Pickled, it is the file's name.

    Attributes:
        shape: (N, D).
        dtype: float32 or float64.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._x = np.frombuffer(self._map, found.dtype, offset=found.offset).reshape(found.shape)
        self.shape = torch.Size(found.shape)
        self.dtype = torch.float32 if found.dtype == np.float32 else torch.float64

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> Any:
        return Rows, (self.path,)

    def __getitem__(self, place: int | slice) -> Tensor:
        return torch.from_numpy(self._x[place].copy())

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows at these places, in this order: int (B,) → (B, D); ``dim`` is 0."""
        order = index.argsort()
        rows, places = index[order].numpy(), order.numpy()
        found = np.empty((len(rows), self.shape[1]), self._x.dtype)
        # in the order of the file, a window at a time: a row that is touched maps all that lies around it
        window = rows // max(1, WINDOW // self._x.strides[0])
        for some in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(window)) + 1):
            found[places[some]] = self._x[rows[some]]
            self._map.madvise(mmap.MADV_DONTNEED)
        return torch.from_numpy(found)

    def to(self, device: torch.device) -> Tensor:
        """All of it, in memory there."""
        return self[:].to(device)


def key(*parts: Any) -> str:
    """What tells one content of the cache from all others."""
    text = json.dumps(parts, sort_keys=True, default=lambda array: hashlib.sha256(array).hexdigest())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def recall(path: Path) -> tuple[Any, dict[str, np.ndarray]] | None:
    """What ``remember`` has kept; None if there is nothing."""
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as found:
        return json.loads(str(found["about"])), {name: found[name] for name in found.files if name != "about"}


def remember(path: Path, about: Any, **arrays: np.ndarray | None) -> None:
    """Keep primitives, and the arrays that there are, in a file that is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:  # a name without .npz would be given one
        there: Any = {name: array for name, array in arrays.items() if array is not None}
        np.savez(file, about=np.array(json.dumps(about)), **there)
    os.replace(temporary, path)


def held(shape: tuple[int, int], dtype: np.dtype, batches: Iterable[Tensor]) -> Tensor:
    """A table in memory.

    Raises:
        UserError: When there are more or fewer rows.
    """
    x, rows = torch.from_numpy(np.empty(shape, dtype)), 0
    for batch in batches:
        x[rows : rows + len(batch)] = batch[: max(0, shape[0] - rows)]
        rows += len(batch)
    _check_rows(rows, shape[0])
    return x


def stored(path: Path, shape: tuple[int, int], dtype: np.dtype, batches: Callable[[], Iterable[Tensor]]) -> Rows:
    """A table in a file, written unless it is there: by one process, whole or not at all.

    Args:
        path: Of the file, whose name stands for its content.
        shape: (N, D).
        dtype: float32 or float64.
        batches: Gives the rows, (B, D) at a time.

    Raises:
        UserError: When the disk is too small; when there are more or fewer rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with lock(path.with_suffix(".lock"), wait=True):
            if not path.exists():  # nor has another process written it in the meantime
                size = shape[0] * shape[1] * dtype.itemsize
                print(f"note: {shape[0]:,} encoded rows take {_size(size)} of disk: {path}", file=sys.stderr)
                check_space(path.parent, size)
                _write(path, shape, dtype, batches())
        path.with_suffix(".lock").unlink(missing_ok=True)
    return Rows(path)


def check_space(folder: Path, size: int) -> None:
    """Raise a UserError when a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < size + SPARE:
        raise UserError(
            f"{folder}: the encoded table takes {_size(size)}, and {_size(free)} of the disk are free: name a folder "
            "on another one as data.init_args.cache"
        )


def _write(path: Path, shape: tuple[int, int], dtype: np.dtype, batches: Iterable[Tensor]) -> None:
    temporary, rows = path.with_suffix(".tmp"), 0
    try:
        with temporary.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in batches:
                file.write(np.ascontiguousarray(batch.numpy(), dtype).data)
                rows += len(batch)
            file.flush()
            os.fsync(file.fileno())
        _check_rows(rows, shape[0])
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{temporary}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_rows(rows: int, before: int) -> None:
    if rows != before:
        raise UserError(f"the table has {rows} rows, and had {before} before: it changed while it was read")


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
