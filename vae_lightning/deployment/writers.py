"""Tables of any length written to a file, batch by batch: CSV, Parquet or Arrow, whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from ..arrow import pyarrow
from ..errors import UserError
from ..files import whole

GROUP_ROWS, GROUP_BYTES = 2**17, 2**25  # that a row group of a Parquet file is made of, about

Write: TypeAlias = Callable[[Any], None]
Close: TypeAlias = Callable[[], None]


def check_output(path: Path) -> None:
    """Raise a UserError if no table can be written to ``path``."""
    if path.suffix not in OPENED:
        raise UserError(f"{path}: its name does not say which format to write: end it in {', '.join(OPENED)}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder: give the name of a file")


@contextlib.contextmanager
def writing(path: Path, schema: Any) -> Iterator[Write]:
    """What writes record batches to a file, which is there once all of them are.

    Args:
        path: Its suffix, ``.csv``, ``.parquet`` or ``.arrow``, decides on the format. Its folder is made if need be.
        schema: Of the batches, pyarrow's.

    Raises:
        UserError: When the format cannot hold a column, or the file cannot be written.
    """
    check_output(path)
    pa = pyarrow()
    with contextlib.ExitStack() as stack:
        with refusals(path):
            temporary = stack.enter_context(whole(path))
            file = stack.enter_context(pa.OSFile(str(temporary), "wb"))
            write, close = OPENED[path.suffix](file, schema)

        def guarded(batch: Any) -> None:
            with refusals(path):
                write(batch)

        try:
            yield guarded
        except BaseException:
            with contextlib.suppress(Exception):
                close()
            raise
        with refusals(path):
            close()
            stack.pop_all().close()


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Within, what the system has against a file's being written is a UserError that names it."""
    pa = pyarrow()
    try:
        yield
    except UserError:
        raise
    except (OSError, pa.ArrowException) as error:
        errno = getattr(error, "errno", None)  # Arrow has many words of its own around the system's
        reason = os.strerror(errno) if errno else " ".join(str(error).split())
        raise UserError(f"{path}: cannot be written ({reason})") from error


def _csv(file: Any, schema: Any) -> tuple[Write, Close]:
    """Truth is 0 or 1 and what is missing is empty, as in every CSV file of this package."""
    pa = pyarrow()
    from pyarrow import csv as arrow_csv

    plain = pa.schema([field.with_type(_in_csv(field)) for field in schema])
    head = io.StringIO()
    csv.writer(head, lineterminator="\n").writerow(schema.names)  # Arrow's own puts every name in quotes
    file.write(head.getvalue().encode())
    writers = {
        style: arrow_csv.CSVWriter(
            file, plain, write_options=arrow_csv.WriteOptions(include_header=False, quoting_style=style)
        )
        for style in ("none", "needed")
    }
    words = [i for i, kind in enumerate(plain.types) if pa.types.is_string(kind) or pa.types.is_large_string(kind)]

    def write(batch: Any) -> None:
        special = (pa.compute.match_substring_regex(batch.column(i), '[",\r\n]') for i in words)
        # Arrow puts all text in quotes, or none of it: numbers that are kept as text look better without
        quoted = any(pa.compute.any(found).as_py() for found in special)
        writers["needed" if quoted else "none"].write_batch(batch.cast(plain))

    def close() -> None:
        for writer in writers.values():
            writer.close()

    return write, close


def _in_csv(field: Any) -> Any:
    pa = pyarrow()
    types, kind = pa.types, field.type
    if types.is_boolean(kind):
        return pa.uint8()
    if types.is_string_view(kind):
        return pa.string()
    if types.is_nested(kind) or "binary" in str(kind):
        raise UserError(f"column {field.name!r} holds {kind}, which CSV cannot: write Parquet, or leave it out")
    return kind


def _parquet(file: Any, schema: Any) -> tuple[Write, Close]:
    """Small batches are gathered: row groups of their size would be slow to read."""
    pa = pyarrow()
    from pyarrow import parquet

    writer = parquet.ParquetWriter(file, schema)
    gathered: list[Any] = []

    def flush() -> None:
        if gathered:
            writer.write_table(pa.Table.from_batches(gathered, schema))
            gathered.clear()

    def write(batch: Any) -> None:
        gathered.append(batch)
        if sum(map(len, gathered)) >= GROUP_ROWS or sum(part.nbytes for part in gathered) >= GROUP_BYTES:
            flush()

    def close() -> None:
        flush()
        writer.close()

    return write, close


def _arrow(file: Any, schema: Any) -> tuple[Write, Close]:
    writer = pyarrow().ipc.new_file(file, schema)
    return writer.write_batch, writer.close


OPENED: dict[str, Callable[[Any, Any], tuple[Write, Close]]] = {".csv": _csv, ".parquet": _parquet, ".arrow": _arrow}
