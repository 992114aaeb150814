"""Tables and arrays of other libraries as tensors: NumPy, pandas, polars, pyarrow and what speaks their protocols."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import arrow
from .errors import UserError


def columns_of(x: Any) -> tuple[Tensor, list[str] | None]:
    """The numbers in x, of the type in which it holds them, and the names of its columns, None if they have none.

    Args:
        x: A tensor, a NumPy array or what becomes one, or a table with numeric columns alone. A table becomes (N, D),
            float32 if all of it is, else float64; a missing value becomes NaN.

    Raises:
        UserError: For what holds no real numbers: a column of words or dates by its name, objects, complex numbers.
    """
    if isinstance(x, Tensor):
        x = x.detach().to_dense() if x.layout != torch.strided else x.detach()
        return _real(x.cpu()), None
    # not by way of Arrow where it can be helped: pandas would hand over its index as one more column
    if hasattr(x, "to_numpy") and not hasattr(x, "columns"):  # a column of its own
        return _from_numpy(x.to_numpy()), None
    if hasattr(x, "column_names") or hasattr(x, "to_numpy"):
        return _from_table(x)
    if hasattr(x, "__arrow_c_stream__") or hasattr(x, "__dataframe__") or isinstance(x, Mapping):
        return _from_table(_arrow(x))
    return _from_numpy(x), None


def is_samples(x: Any) -> bool:
    """Whether x is samples by itself, and no iterable of batches of them."""
    if hasattr(x, "read_next_batch"):  # pyarrow's reader is a stream of batches
        return False
    arrays = "__array__", "__arrow_c_stream__", "__dataframe__"
    if isinstance(x, (Tensor, Mapping)) or any(hasattr(x, name) for name in arrays):
        return True
    # rows as lists of numbers; a list of arrays is batches
    return isinstance(x, (list, tuple)) and not any(hasattr(row, "shape") and len(row.shape) > 1 for row in x[:1])


def as_samples(x: Any, columns: list[str] | None) -> Tensor:
    """The numbers in x with its columns in this order, (N, ...).

    Args:
        x: As for ``columns_of``.
        columns: By name: others are left out, with a warning. None, or an x without names, takes them as they come.

    Raises:
        UserError: For what ``columns_of`` refuses, or when a column is missing.
    """
    raw, names = columns_of(x)
    if columns is None or names is None or names == columns:
        return raw
    if missing := [name for name in columns if name not in names]:
        raise UserError(f"the table lacks column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    if extra := [name for name in names if name not in columns]:
        warnings.warn(f"columns that the detector does not know are left out: {', '.join(extra)}", stacklevel=4)
    return raw[:, [names.index(name) for name in columns]]


def _names(table: Any) -> list[Any]:
    return list(table.column_names if hasattr(table, "column_names") else table.columns)


def _arrow(x: Any) -> Any:
    try:
        import pyarrow
        import pyarrow.interchange
    except ImportError:
        raise UserError(f"{type(x).__name__} is a table that only pyarrow can read: pip install pyarrow") from None
    if isinstance(x, Mapping):
        columns = arrow.columns(x)
        return pyarrow.table(dict(zip(columns, arrow.aligned(columns.values()), strict=True)))
    return pyarrow.table(x) if hasattr(x, "__arrow_c_stream__") else pyarrow.interchange.from_dataframe(x)


def _from_table(table: Any) -> tuple[Tensor, list[str]]:
    names = _names(table)
    labels = [str(name) for name in names]
    if twice := sorted({name for name in labels if labels.count(name) > 1}):
        raise UserError(f"column {twice[0]!r} appears more than once: give each column its own name")
    columns = [_column(table[name], label) for name, label in zip(names, labels, strict=True)]
    if not columns:
        return torch.empty(len(table), 0), []
    dtype = reduce(torch.promote_types, (column.dtype for column in columns))
    return torch.stack([column.to(dtype) for column in columns], 1), labels


def _column(column: Any, name: str) -> Tensor:
    """float32 or float64 (N,)."""
    kind = getattr(getattr(column, "dtype", None), "kind", None)
    declared = str(getattr(column, "dtype", getattr(column, "type", "")))
    # pyarrow's alone: strings, booleans and missing values have to be copied, and an array of its refuses to by itself
    copied = {"zero_copy_only": False} if hasattr(column, "type") and hasattr(column, "null_count") else {}
    array = np.asarray(column.to_numpy(**copied))
    if array.dtype == object and kind in ("i", "u", "f", "b"):  # pandas' own types, with missing values
        array = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if array.dtype.kind not in "iufb" or declared.lower().startswith(("categor", "dictionary", "enum")):
        raise UserError(f"column {name!r} holds {declared or array.dtype}, not numbers: leave it out or encode it")
    if array.ndim != 1:
        raise UserError(f"column {name!r} holds arrays, not numbers: leave it out or give each of them a column")
    return _tensor(array if array.dtype == np.float32 else array.astype(np.float64))


def _from_numpy(x: Any) -> Tensor:
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        x = np.ma.filled(x.astype(np.float64), np.nan)
    try:
        array = np.asarray(x)
    except ValueError:
        raise UserError(f"{type(x).__name__} has rows of unequal length: give each row the same columns") from None
    if array.dtype.kind not in "iufbc":
        what = {"O": "objects", "U": "strings", "S": "bytes"}.get(array.dtype.kind, str(array.dtype))
        raise UserError(f"{type(x).__name__} holds {what}, not numbers")
    return _real(_tensor(array))


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of the array's numbers; it may share their memory, and is not written to."""
    dtype = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.dtype(np.float64)
    dtype = array.dtype if array.dtype.kind == "c" else dtype
    array = np.ascontiguousarray(array, dtype)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _real(x: Tensor) -> Tensor:
    if x.is_complex():
        raise UserError(f"{str(x.dtype).removeprefix('torch.')} holds complex numbers: give real ones")
    return x
