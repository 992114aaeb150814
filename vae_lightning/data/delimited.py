"""CSV and its kin: every value is text, and a header says what the columns are called."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..arrow import pyarrow
from ..errors import UserError
from .formats import BLOCK

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none", "NaT", "<NA>", "?")
DELIMITERS = ",;\t|"
HEAD = 2**20  # bytes that the header is looked for in
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
OPEN_QUOTE = "a quote is opened and not closed again"


class Csv:
    """Delimited text in UTF-8 with a header, compressed or not. Blanks around a value are no part of it.

    Args:
        delimiter: None: a tab for ``.tsv``, else a comma.
        missing: What stands for a value that is not there.
    """

    label: str | None = None

    def __init__(self, delimiter: str | None = None, missing: Sequence[str] = MISSING) -> None:
        if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii()):
            raise UserError(f"delimiter = {delimiter!r} is not a single character")
        self.delimiter, self.missing = delimiter, list(dict.fromkeys(["", *missing]))

    def schema(self, file: Path) -> Any:
        pa = pyarrow()
        return pa.schema([(name, pa.string()) for name in self._header(file)[0]])

    def rows(self, file: Path) -> int | None:
        return None

    def read(self, file: Path, columns: list[str] | None) -> Iterator[Any]:
        pa = pyarrow()
        from pyarrow import csv as arrow_csv

        names, lines = self._header(file)
        if not lines:  # a header, and nothing below it
            return
        wanted = names if columns is None else columns
        read = list(dict.fromkeys([*wanted, names[-1]]))  # the last one tells whether a quote was left open
        last = ""
        try:
            for batch in arrow_csv.open_csv(
                file,
                # one thread: several lose count of the rows, which messages name
                arrow_csv.ReadOptions(
                    use_threads=False, block_size=BLOCK, column_names=names, skip_rows_after_names=lines
                ),
                arrow_csv.ParseOptions(delimiter=self._delimiter(file), newlines_in_values=True),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=self.missing,
                    strings_can_be_null=True,
                    include_columns=read,
                ),
            ):
                if len(batch):
                    last = batch.column(names[-1])[-1].as_py() or ""
                yield self._trimmed(batch.select(wanted))
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: {_explained(str(error), lines, names)}") from error
        if "\n" in last and _ends_with(file, last):
            raise UserError(f"{file}: {OPEN_QUOTE}: in the last row, column {names[-1]!r} begins {last[:40]!r}")

    def _trimmed(self, batch: Any) -> Any:
        pa, columns = pyarrow(), []
        for column in batch.columns:
            trimmed = pa.compute.ascii_trim_whitespace(column)
            if not trimmed.equals(column):
                gone = pa.compute.is_in(trimmed, value_set=pa.array(self.missing))
                column = pa.compute.if_else(gone, pa.scalar(None, pa.string()), trimmed)
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, batch.schema.names)

    def _delimiter(self, file: Path) -> str:
        return self.delimiter or ("\t" if ".tsv" in file.suffixes else ",")

    def _header(self, file: Path) -> tuple[list[str], int]:
        """The names of the columns, and how many rows (blank ones count) they and what is above them take; 0 when
        nothing follows.

        Raises:
            UserError: When there is none, or two names are the same.
        """
        text, delimiter = _head(file), self._delimiter(file)
        lines = text.splitlines(keepends=True)
        reader = csv.reader(lines, delimiter=delimiter)
        try:
            blank, row = next((i, row) for i, row in enumerate(reader) if row)
        except csv.Error as error:
            raise UserError(f"{file}: is no CSV file ({error})") from None
        names = [name.strip() for name in row]
        _check_delimiter(file, text, delimiter)
        _check_names(file, names)
        return names, blank + 1 if any(line.strip() for line in lines[reader.line_num :]) else 0


def _head(file: Path) -> str:
    """The beginning of the text."""
    pa = pyarrow()
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            head: bytes = stream.read(HEAD)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    if not head.strip():
        raise UserError(f"{file}: is empty")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{file}: is UTF-16, not UTF-8: save it as UTF-8")
    try:
        return head.decode("utf-8-sig", errors="strict" if len(head) < HEAD else "ignore")
    except UnicodeDecodeError as error:
        line = head.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: byte {head[error.start]:#04x} is no UTF-8: save it as UTF-8") from None


def _check_delimiter(file: Path, text: str, delimiter: str) -> None:
    """Refuse a header that the delimiter does not divide, where another one would divide it and the row below."""
    lines = [line for line in text.splitlines()[:20] if line.strip()][:2]
    widths = {each: [len(row) for row in csv.reader(lines, delimiter=each)] for each in DELIMITERS if each != delimiter}
    if len(next(csv.reader(lines[:1], delimiter=delimiter))) > 1:
        return
    for other, found in widths.items():
        if found[0] > 1 and len(set(found)) == 1:
            raise UserError(
                f"{file}: is not divided by {delimiter!r}, it looks like {other!r}: give delimiter = {other!r}"
            )


def _check_names(file: Path, names: list[str]) -> None:
    filled = [name for name in names if name]
    # a year may be a name, 5.1 is none; all of them numbers, and they are the first row
    if filled and (
        all(map(NUMBER.fullmatch, filled)) or any(NUMBER.fullmatch(name) and not name.isdigit() for name in filled)
    ):
        raise UserError(f"{file}: has no header, its first row is {', '.join(names)[:60]}: put names above it")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{file}: column {twice[0]!r} appears more than once: give each column its own name")


def _ends_with(file: Path, value: str) -> bool:
    """Whether a file of plain text ends with a value as it is, and not with a quote behind it."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 100))
        return opened.read().rstrip().endswith(value.encode()[-20:].rstrip())


def _explained(message: str, lines: int, names: list[str]) -> str:
    """Arrow's words on what it stumbled over, with rows counted from 0 below the header."""
    row = int(found[1]) - 1 - lines if (found := re.search(r"Row #(\d+)", message)) else None
    if ragged := re.search(r"Expected (\d+) columns, got (\d+)", message):
        return f"row {row} has {ragged[2]} values where the header has {ragged[1]} columns: it may lack quotes"
    if "UTF8" in message:
        place = re.search(r"column #(\d+)", message)
        return f"row {row}, column {names[int(place[1]) if place else 0]!r} is no UTF-8: save the file as UTF-8"
    if "straddling" in message:
        return f"{OPEN_QUOTE}, or a row is longer than 4 MB"
    return " ".join(message.split())[:160]
