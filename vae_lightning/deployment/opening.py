"""A file or a folder read as what the detector was trained on: the one way of every command that scores files."""

from __future__ import annotations

from pathlib import Path

from ..data.delimited import MISSING
from ..data.readers import Source, open_table
from ..errors import UserError
from ..schema import Column, Schema
from .inputs import ImageInput, Input, Keep, TableInput
from .manifest import Manifest


def opened(
    manifest: Manifest,
    source: Path,
    key: str | None = None,
    keep: Keep | None = None,
    delimiter: str | None = None,
    workers: int | None = None,
) -> Input:
    """The samples of a table or of a folder of images.

    Args:
        manifest: Of the detector.
        source: A file or a folder.
        key: The column that tells rows apart; None: the one that the detector's data module was told of, where the
            table has it.
        keep: See ``TableInput``.
        delimiter: Of CSV; None: the training table's.
        workers: Processes that decode images; None: as many as there are cores.

    Raises:
        UserError: When it cannot be read, or lacks a column.
    """
    if len(manifest.shape) > 1:
        if keep or key is not None:
            raise UserError(f"{source}: images have no columns: leave out append_columns and key")
        return ImageInput(source, manifest.decoder, workers)
    table = open_table(source, *reading_of(manifest, delimiter))
    about = manifest.trained_on
    key = about["id"] if key is None and about.get("id") in table.names else key
    schema = schema_of(manifest, table, key)
    return TableInput(table, schema, key, keep, manifest.missing, about.get("beside") or ())


def reading_of(manifest: Manifest, delimiter: str | None = None) -> tuple[str | None, tuple[str, ...]]:
    """The delimiter of CSV and the words for what is missing, as in the table that the detector was trained on."""
    about = manifest.trained_on
    return delimiter or about.get("delimiter"), tuple(about.get("missing") or MISSING)


def schema_of(manifest: Manifest, table: Source, key: str | None = None) -> Schema:
    """The columns that the detector takes: by their names, or in the table's order if it was trained without names.

    Raises:
        UserError: When it was trained without, and there are more or fewer of them.
    """
    if manifest.schema is not None:
        return manifest.schema
    names = [name for name in table.names if name not in (key, table.label)]
    (width,) = manifest.shape
    if len(names) != width:
        what = f"has {len(names)} columns, and the detector takes {width}, whose names it does not know"
        raise UserError(f"{table.name}: {what}: leave the others out, or name the one that tells rows apart as the key")
    return Schema(tuple(map(Column, names)), "float64" if manifest.dtype == "float64" else "float32")
