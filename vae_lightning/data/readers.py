"""Tables wherever they lie: a file, a folder of parts or a DataFrame, as record batches, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .. import arrow
from ..errors import UserError
from .delimited import MISSING, Csv
from .formats import ROWS, Feather, Format, NumPy, Parquet

FORMATS: dict[str, type] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), Csv),
    **dict.fromkeys((".parquet", ".pq"), Parquet),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), Feather),
    **dict.fromkeys((".npz", ".npy"), NumPy),
}
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")

T = TypeVar("T")


def open_table(
    table: Any, delimiter: str | None = None, missing: Sequence[str] = MISSING, name: str = "the table"
) -> Source:
    """A table to be read in batches.

    Args:
        table: A CSV, Parquet, Arrow or NumPy file, a folder of such parts, or a DataFrame (see ``columns``).
        delimiter: Of CSV. None: a tab for ``.tsv``, else a comma.
        missing: What stands in CSV for a value that is not there.
        name: What messages call a DataFrame.

    Raises:
        UserError: When there is no such file, it is empty, damaged or of no known kind; when parts do not go together,
            or two columns have one name.
    """
    if not isinstance(table, (str, Path)):
        return Frame(table, name)
    path = Path(table)
    files = _parts(path) if path.is_dir() else [path]
    kind = _kind(files[0])
    if kind is None:
        raise UserError(f"{path}: is of no known kind: give one of {', '.join(FORMATS)}")
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    return Files(path, files, Csv(delimiter, missing) if kind is Csv else kind())


def holds_table(file: Path) -> bool:
    """Whether a file is one that can be read, by its name."""
    return _kind(file) is not None


def _kind(file: Path) -> type | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        return Csv if suffixes[-1:] and FORMATS.get(suffixes[-1]) is Csv else None
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _parts(folder: Path) -> list[Path]:
    """The parts in a folder, by name; hidden files, and those that start with an underscore, are none."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] not in "._" and _kind(p))
    if not files:
        raise UserError(f"{folder}: holds no table: expected files that end in {', '.join(FORMATS)}")
    if len(kinds := {_kind(file) for file in files}) > 1:
        raise UserError(f"{folder}: holds parts of {len(kinds)} kinds: give those of one kind a folder of their own")
    return files


class Source:
    """Rows of a table, to be gone through as often as needed.

    Attributes:
        name: What messages call it.
        schema: pyarrow's, of every batch. CSV is text throughout.
        rows: How many there are; None if only reading them all would tell.
        label: The column that holds labels by the format's own convention, None without one.
    """

    name: str
    schema: Any
    rows: int | None
    label: str | None = None

    @property
    def names(self) -> list[str]:
        """Of the columns, in order."""
        return list(self.schema.names)

    def signature(self) -> list[list[Any]]:
        """What tells whether files have changed: the path, size and time of each. Empty for what lies in memory."""
        return []

    def batches(self, rows: int = ROWS, columns: list[str] | None = None) -> Iterator[Any]:
        """Record batches of at most so many rows, of these columns or of all.

        Raises:
            UserError: Naming file, row and column of what cannot be read; when a file changes in the meantime.
        """
        return self.apply(lambda batch, first_row: batch, rows, columns)

    def apply(
        self, function: Callable[[Any, int], T], rows: int = ROWS, columns: list[str] | None = None
    ) -> Iterator[T]:
        """What a function makes of each batch.

        Args:
            function: Given a batch and where its first row stands in its file, from 0, for messages: a UserError of
                its own gets the file's name before it. ``Schema.encode`` is one.
            rows: Of a batch at most.
            columns: None: all of them.
        """
        for name, batch, first_row in self._batches(columns):
            for start in range(0, len(batch), rows):
                try:
                    yield function(batch.slice(start, rows), first_row + start)
                except UserError as error:
                    raise UserError(f"{name}: {error}") from None

    def _batches(self, columns: list[str] | None) -> Iterator[tuple[str, Any, int]]:
        """The name of a file, a batch out of it, and where that starts in the file."""
        raise NotImplementedError


class Frame(Source):
    """A DataFrame, or whatever else ``columns`` takes."""

    def __init__(self, table: Any, name: str) -> None:
        pa = arrow.pyarrow()
        if not arrow.is_table(table):
            raise UserError(f"{name} is a {type(table).__name__}: give a file, a folder of parts, or a DataFrame")
        try:
            columns = {column: get() for column, get in arrow.columns(table).items()}
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        if len({len(column) for column in columns.values()}) > 1:
            raise UserError(f"{name}: its columns are of unequal length: give each row every column")
        self.name, self.table = name, pa.table(columns)
        self.schema, self.rows = self.table.schema, self.table.num_rows

    def _batches(self, columns: list[str] | None) -> Iterator[tuple[str, Any, int]]:
        table, row = self.table if columns is None else self.table.select(columns), 0
        for batch in table.to_batches():
            yield self.name, batch, row
            row += len(batch)


class Files(Source):
    """A file, or parts that hold the same columns."""

    def __init__(self, path: Path, files: list[Path], kind: Format) -> None:
        self.name, self.files, self.kind = str(path), files, kind
        schemas = [kind.schema(file) for file in files]
        self.schema = _unified(files, schemas)
        counts = [kind.rows(file) for file in files]
        self.rows = None if None in counts else sum(count or 0 for count in counts)
        self.label = kind.label

    def signature(self) -> list[list[Any]]:
        return [_signature(file) for file in self.files]

    def _batches(self, columns: list[str] | None) -> Iterator[tuple[str, Any, int]]:
        pa = arrow.pyarrow()
        names = self.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in names])
        for file in self.files:
            row, before = 0, _signature(file)
            try:
                for batch in self.kind.read(file, names):
                    yield str(file), batch if batch.schema.equals(schema) else batch.cast(schema), row
                    row += len(batch)
            finally:  # what is wrong with a file may be that somebody writes it
                if _signature(file) != before:
                    raise UserError(f"{file}: changed while it was read: start again once it is complete")


def _signature(file: Path) -> list[Any]:
    try:
        stat = file.stat()
    except OSError:
        raise UserError(f"{file}: there is no such file") from None
    return [str(file.resolve()), stat.st_size, stat.st_mtime_ns]


def _unified(files: list[Path], schemas: list[Any]) -> Any:
    """One schema for all parts: numbers of several kinds become one, and so does what is missing throughout a part."""
    pa = arrow.pyarrow()
    first = schemas[0]
    for file, schema in zip(files, schemas, strict=True):
        if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
            raise UserError(f"{file}: column {twice[0]!r} appears more than once: give each column its own name")
    kinds = {field.name: (files[0], field.type) for field in first}
    for file, schema in zip(files, schemas, strict=True):
        for one, other, where in ((first, schema, file), (schema, first, files[0])):
            if lacking := [name for name in one.names if name not in other.names]:
                source = files[0] if where is file else file
                raise UserError(f"{where}: lacks the column {lacking[0]!r}, which {source.name} has")
        for field in schema:
            known, kind = kinds[field.name]
            if pa.types.is_null(kind):
                kinds[field.name] = file, field.type
            elif not pa.types.is_null(field.type) and _family(kind) != _family(field.type):
                raise UserError(f"{file}: column {field.name!r} is {field.type}, and {kind} in {known.name}")
    columns = [[schema.field(name) for schema in schemas] for name in first.names]
    return pa.schema([_field(fields) for fields in columns])


def _field(fields: list[Any]) -> Any:
    pa = arrow.pyarrow()
    name, kinds = fields[0].name, list(dict.fromkeys(field.type for field in fields))
    if len(kinds) > 1:
        kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
        schemas = [pa.schema([(name, kind)]) for kind in kinds]
        kinds = [pa.unify_schemas(schemas, promote_options="permissive").field(0).type]
    return pa.field(name, kinds[0])


def _family(kind: Any) -> str:
    types = arrow.pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    return "time" if types.is_timestamp(kind) else str(kind)
