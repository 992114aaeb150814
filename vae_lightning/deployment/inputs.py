"""What is to be scored, as blocks of raw samples that know where they come from: tables and folders of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from ..arrow import pyarrow
from ..data.readers import Source
from ..decoding import Decoder
from ..errors import UserError
from ..imagefiles import batches, cores, images_below
from ..schema import Schema
from .ahead import ahead

ROWS = 16_384  # of a table at once
IMAGES, IMAGE_BYTES = 1024, 2**24  # files, and bytes of decoded ones, at once

Keep = Literal["as they are", "as numbers"]


class Block(NamedTuple):
    """Consecutive samples.

    Attributes:
        kept: What the output says of them as it is, pyarrow arrays; first what tells them apart.
        samples: Raw ones (B, ...), as a detector takes them.
    """

    kept: list[Any]
    samples: Any


class Input(Protocol):
    """Samples in blocks.

    Attributes:
        kept: The names and types of what the blocks keep, a pyarrow Schema.
        rows: How many samples there are; None if only reading them all would tell.
    """

    kept: Any
    rows: int | None

    def blocks(self) -> Iterator[Block]:
        """All samples in their order.

        Raises:
            UserError: In one line that names the file, and row and column or what else is at fault.
        """

    def notes(self) -> list[str]:
        """What the user ought to know of them, once all have been read."""


class TableInput:
    """The rows of a table.

    Args:
        source: See ``open_table``.
        schema: The columns that a detector takes, and how they are encoded.
        key: The column that tells rows apart; None: ``row``, the row's number from 0, over all parts of a folder.
        keep: Whether the output has the table's other columns, too: ``as they are``, or ``as numbers`` those of text
            that are numbers to the schema.
        missing: Whether the detector takes rows with gaps.
        known: Columns of which the user need not be told that the detector does not take them.
    """

    def __init__(
        self,
        source: Source,
        schema: Schema,
        key: str | None = None,
        keep: Keep | None = None,
        missing: bool = True,
        known: Collection[str] = (),
    ) -> None:
        pa = pyarrow()
        if lacking := [name for name in schema.names if name not in source.names]:
            raise UserError(f"{source.name}: lacks column{'s' * (len(lacking) > 1)} {_listed(lacking)}")
        if key is not None and key not in source.names:
            raise UserError(f"{source.name}: has no column {key!r} to tell rows apart: it has {_listed(source.names)}")
        self.source, self.schema, self.key, self.missing, self.rows = source, schema, key, missing, source.rows
        kept = [name for name in source.names if keep and name != key]
        first = pa.field("row", pa.int64(), False) if key is None else source.schema.field(key)
        numbers = {column.name for column in schema if column.kind == "numeric" and keep == "as numbers"}
        fields = (_plain(source.schema.field(name), name in numbers) for name in kept)
        self.kept = pa.schema([_plain(first), *fields])
        wanted = {*schema.names, *kept, key}
        self._columns = [name for name in source.names if name in wanted]
        self._extra = [name for name in source.names if name not in {*schema.names, key, *known}]
        self._unknown: Counter[str] = Counter()
        self._row = 0

    def blocks(self) -> Iterator[Block]:
        return ahead(self.source.apply(self._block, ROWS, self._columns))

    def _block(self, batch: Any, first_row: int) -> Block:
        found = self.schema.encode_array(batch, first_row)
        if not self.missing and len(gaps := np.argwhere(np.isnan(found.x))):
            row, column = gaps[0].tolist()
            raise UserError(
                f"row {first_row + row}, column {self.schema.names[column]!r} is missing, and the detector was trained "
                "on rows without gaps: fill it in, or leave the row out"
            )
        self._unknown.update(found.unknown)
        row, self._row = self._row, self._row + len(batch)
        arrays = [batch.column(name) for name in self.kept.names[1:]]
        first = pyarrow().array(np.arange(row, self._row)) if self.key is None else batch.column(self.key)
        kept = [array.cast(field.type) for array, field in zip([first, *arrays], self.kept, strict=True)]
        return Block(kept, found.x)

    def notes(self) -> list[str]:
        counts = _listed([f"{name} ({count:,})" for name, count in self._unknown.items()])
        return [
            *([f"columns that the detector does not know: {_listed(self._extra)}"] if self._extra else []),
            *([f"categories that it has never seen: {counts}"] if counts else []),
        ]


class ImageInput:
    """Image files below a folder, by their paths from it.

    Args:
        folder: Of the images, and of folders with more.
        decoder: For all of them.
        workers: Processes that decode; None: as many as there are cores.
    """

    def __init__(self, folder: Path, decoder: Decoder, workers: int | None = None) -> None:
        pa = pyarrow()
        self.folder, self.decoder = folder, decoder
        self.workers = cores() if workers is None else workers
        self.paths = images_below(folder)
        self.rows: int | None = len(self.paths)
        self.kept = pa.schema([pa.field("path", pa.string(), False)])

    def blocks(self) -> Iterator[Block]:
        pa = pyarrow()
        at_once = max(1, IMAGE_BYTES // int(np.prod(self.decoder.shape)))
        for paths, x in batches(self.paths, self.decoder, min(at_once, IMAGES), self.workers):
            yield Block([pa.array([path.relative_to(self.folder).as_posix() for path in paths])], x)

    def notes(self) -> list[str]:
        return []


def _plain(field: Any, number: bool = False) -> Any:
    """Without dictionaries, which may differ from part to part, and without what other programs have noted."""
    pa = pyarrow()
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return field.with_type(pa.float64() if number and pa.types.is_string(kind) else kind).remove_metadata()


def _listed(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
