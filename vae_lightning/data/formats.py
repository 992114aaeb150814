"""File formats of tables: what columns a file has, and its rows as record batches; what is wrong with it in one line.

A format is a class with three methods, each given a file: ``schema``, ``rows`` and ``read``.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..arrow import pyarrow
from ..errors import UserError

ROWS = 65_536  # of a batch at most
BLOCK = 2**22  # bytes of a file that are read at once


class Format(Protocol):
    """How one kind of file is read. Record batches and schemas are pyarrow's.

    Attributes:
        label: The column that holds labels by the format's own convention, None without one.
    """

    label: str | None

    def schema(self, file: Path) -> Any:
        """The names and types of the columns."""

    def rows(self, file: Path) -> int | None:
        """How many rows there are; None if only reading them all would tell."""

    def read(self, file: Path, columns: list[str] | None) -> Iterator[Any]:
        """The rows in order, of these columns alone or of all."""


@contextlib.contextmanager
def reading(file: Path, what: str) -> Iterator[None]:
    """Within, what is wrong with a file is a UserError that names it."""
    pa = pyarrow()
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{file}: is truncated or no {what} ({reason[:120]})") from error


class Parquet:
    """Parquet, read page by page: a row group may be larger than memory."""

    label: str | None = None

    def _open(self, file: Path) -> Any:
        pyarrow()
        from pyarrow import parquet

        return parquet.ParquetFile(file, buffer_size=BLOCK, pre_buffer=False)

    def schema(self, file: Path) -> Any:
        with reading(file, "Parquet file"), self._open(file) as opened:
            return opened.schema_arrow

    def rows(self, file: Path) -> int | None:
        with reading(file, "Parquet file"), self._open(file) as opened:
            count: int = opened.metadata.num_rows
            return count

    def read(self, file: Path, columns: list[str] | None) -> Iterator[Any]:
        # not by a dataset's scanner, which reads ahead of its consumer without bounds
        with reading(file, "Parquet file"), self._open(file) as opened:
            some = columns if columns and all(columns) else None  # it finds no column without a name
            for batch in opened.iter_batches(ROWS, columns=some, use_threads=False):
                yield batch if columns is None else batch.select(columns)


class Feather:
    """Arrow's own format, as a file (Feather, version 2) or a stream."""

    label: str | None = None

    @contextlib.contextmanager
    def _open(self, file: Path) -> Iterator[Any]:
        pa = pyarrow()
        from pyarrow import ipc

        # not mapped: a file that shrinks while it is mapped would end the process
        with pa.OSFile(str(file)) as source:
            magic = source.read(6)
            source.seek(0)
            yield ipc.open_file(source) if magic == b"ARROW1" else ipc.open_stream(source)

    def schema(self, file: Path) -> Any:
        with reading(file, "Arrow file"), self._open(file) as opened:
            return opened.schema

    def rows(self, file: Path) -> int | None:
        return None

    def read(self, file: Path, columns: list[str] | None) -> Iterator[Any]:
        with reading(file, "Arrow file"), self._open(file) as opened:
            if hasattr(opened, "num_record_batches"):
                batches: Iterator[Any] = map(opened.get_batch, range(opened.num_record_batches))
            else:
                batches = iter(opened)
            for batch in batches:
                yield batch if columns is None else batch.select(columns)


class NumPy:
    """A matrix in an NPY file, or in an NPZ file as ``X`` with labels ``y``; or an NPZ file with an array a column.

    The columns of a matrix are ``x0``, ``x1`` and so on. Nothing in a file is run: arrays of objects are refused.
    """

    label: str | None = None

    def schema(self, file: Path) -> Any:
        pa = pyarrow()
        columns = self._columns(file)
        self.label = "y" if {"x0", "y"} <= columns.keys() else None
        with reading(file, "NumPy file"):
            return pa.schema([(name, pa.array(column[:0]).type) for name, column in columns.items()])

    def rows(self, file: Path) -> int | None:
        return len(next(iter(self._columns(file).values())))

    def read(self, file: Path, columns: list[str] | None) -> Iterator[Any]:
        pa = pyarrow()
        arrays = self._columns(file)
        names = list(arrays) if columns is None else columns
        with reading(file, "NumPy file"):
            for start in range(0, len(arrays[names[0]]), ROWS):
                rows = [pa.array(np.ascontiguousarray(arrays[name][start : start + ROWS])) for name in names]
                yield pa.RecordBatch.from_arrays(rows, names)

    def _columns(self, file: Path) -> dict[str, np.ndarray]:
        with reading(file, "NumPy file"):
            loaded: Any = np.load(file, mmap_mode="r", allow_pickle=False)  # an NPZ file is read whole all the same
            if isinstance(loaded, np.ndarray):
                return _matrix(loaded, file)
            with loaded:
                arrays = {name: loaded[name] for name in loaded.files}
        if matrix := next((name for name in arrays if name in ("X", "x")), None):
            found = _matrix(arrays[matrix], file)
            if label := next((name for name in arrays if name in ("Y", "y")), None):
                found["y"] = arrays[label].reshape(-1)
        else:
            found = arrays
        lengths = {len(array) if array.ndim == 1 else -1 for array in found.values()}
        if len(lengths) != 1 or -1 in lengths:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise UserError(f"{file}: holds {shapes or 'nothing'}: expected X (rows, columns) and y (rows)")
        return found


def _matrix(x: np.ndarray, file: Path) -> dict[str, np.ndarray]:
    if x.ndim != 2 or not x.shape[1]:
        raise UserError(f"{file}: holds an array of shape {list(x.shape)}: expected (rows, columns)")
    if x.dtype.kind not in "iufb":
        raise UserError(f"{file}: holds {x.dtype}, not real numbers")
    return {f"x{i}": x[:, i] for i in range(x.shape[1])}
