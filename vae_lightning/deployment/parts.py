"""The files of a folder, each of them scored into a file of its own: whole or not there, and none of them twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..data.readers import holds_table
from ..errors import UserError
from ..imagefiles import images_below
from . import reasons
from .inputs import ImageInput, Input
from .manifest import Manifest
from .opening import opened
from .scorer import Scorer
from .scoring import Answer, score_input

Form = Literal["parquet", "csv", "arrow"]


class Part(NamedTuple):
    """A file, or the images of one folder, and where its scores go.

    Attributes:
        source: The file, or the folder.
        output: The file of its scores.
    """

    source: str
    output: str


class Scored(NamedTuple):
    """What became of a part.

    Attributes:
        source: The file, or the folder.
        rows: How many samples.
        anomalies: How many of them are.
        notes: What the user ought to know, each a line.
        error: Why there is no output, in a line; None if there is one.
    """

    source: str
    rows: int = 0
    anomalies: int = 0
    notes: tuple[str, ...] = ()
    error: str | None = None


def parts_of(source: Path, output: Path, manifest: Manifest, form: Form) -> list[Part]:
    """All files below a folder that the detector can score, in the order of their paths.

    Tables are files; images are taken folder by folder. Files and folders whose names start with a dot or an underscore
    are passed over. The output of ``a/b.csv`` is ``a/b.csv.parquet``, that of ``a/b.parquet`` the same path.

    Raises:
        UserError: When there is none, or the output lies among them.
    """
    if not source.exists():
        raise UserError(f"{source}: there is no such file or folder")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{output}: is in {source}: its files would be scored the next time: give another folder")
    if len(manifest.shape) > 1:
        folders = dict.fromkeys(path.parent for path in images_below(source))
        named = [(folder, folder.relative_to(source) / "images") for folder in folders]
    else:
        named = [(file, file.relative_to(source)) for file in _tables_below(source)]
        if source.is_file():
            named = [(source, Path(source.name))]
    if not named:
        raise UserError(f"{source}: holds no table: expected CSV, Parquet, Arrow or NumPy files")
    suffix = f".{form}"
    found = [
        Part(str(path), str(output / (name if name.suffix == suffix else name.with_name(name.name + suffix))))
        for path, name in named
    ]
    owners: dict[str, str] = {}
    for part in found:
        if (other := owners.setdefault(part.output, part.source)) != part.source:
            raise UserError(f"{part.source}: its scores would go where those of {other} go: rename one of them")
    return found


def _tables_below(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        found += [file for name in names if name[0] not in "._" and holds_table(file := Path(place) / name)]
    return sorted(found)


def is_finished(part: Part) -> bool:
    """Whether the part's scores are there, and not older than the part."""
    source, output = Path(part.source), Path(part.output)
    if not output.is_file():
        return False
    changed = [source, *(path for path in source.iterdir() if path.is_file())] if source.is_dir() else [source]
    return output.stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in changed)


def score_part(scorer: Scorer, part: Part, explain: int | None = None) -> Scored:
    """Score a part, with so many reasons; what is wrong with it is said and not raised, for the others' sake."""
    first, *_ = names = list(scorer.manifest.scores)

    def run(x: np.ndarray) -> Answer:
        found = scorer.run(x)
        why = scorer.explain(x).appended(explain) if explain else {}
        return {first: found["score"], **found, **why}

    more = reasons.fields(explain, scorer.manifest.shape)
    try:
        made = score_input(_opened(scorer.manifest, Path(part.source)), run, names, Path(part.output), more=more)
    except UserError as error:
        text = str(error)
        return Scored(part.source, error=text if part.source in text else f"{part.source}: {text}")
    return Scored(part.source, made.rows, made.anomalies, tuple(made.notes))


def _opened(manifest: Manifest, source: Path) -> Input:
    """A file; or the images of a folder, and not of those in it, which are parts of their own."""
    given = opened(manifest, source, workers=0)
    if isinstance(given, ImageInput):
        given.paths = [path for path in given.paths if path.parent == source]
        given.rows = len(given.paths)
    return given
