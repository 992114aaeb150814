"""Which image files there are, what each shows and which part it is of: by folders, by a pattern, or by a table."""

from __future__ import annotations

import csv
import glob
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from ..imagefiles import SUFFIXES, images_below

COLUMNS = "path", "label", "split", "mask"
SPLITS = "train", "test"


class Picture(NamedTuple):
    """An image file.

    Attributes:
        path: Of the file.
        label: Its class.
        mask: The file of its mask, which is white where the image is anomalous, if there is one.
    """

    path: Path
    label: str
    mask: Path | None = None


class Listing(NamedTuple):
    """The image files of a data set; ``test`` is None where the source does not say which they are."""

    train: list[Picture]
    test: list[Picture] | None


def listing(root: str, normal: str) -> Listing:
    """The image files that ``root`` names.

    Args:
        root: A folder, a pattern or a CSV file, see ``Images``.
        normal: The class of images of which nothing else is said.

    Raises:
        UserError: When there are none, or a file that is named is not there.
    """
    place = Path(root)
    if place.suffix.lower() == ".csv":
        return _by_table(place, normal)
    if place.is_dir():
        return _by_folders(place, normal)
    if glob.has_magic(root):
        found = [path for path in map(Path, sorted(glob.glob(root, recursive=True))) if path.suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(f"{root}: no image file has such a name: they end in {', '.join(SUFFIXES)}")
        return Listing([Picture(path, normal) for path in found], None)
    raise UserError(f"{root}: there is no such folder: give one, a pattern such as 'parts/*.png', or a CSV file")


def _by_folders(root: Path, normal: str) -> Listing:
    """As MVTec AD has it; without ``train`` and ``test``, the folders in it are classes."""
    train, test = root / "train", root / "test"
    if not train.is_dir():
        if test.is_dir():
            raise UserError(f"{root}: there is a folder test in it, but no folder train with normal images")
        return Listing(_classes(root, normal), None)
    if not test.is_dir():
        return Listing(_classes(train, normal), [])
    found = _classes(test, None)
    return Listing(_classes(train, normal), [one._replace(mask=_mask(root, test, one, normal)) for one in found])


def _classes(folder: Path, loose: str | None) -> list[Picture]:
    """Images by the folder that they are in; those in none are ``loose``."""
    found = []
    for path in images_below(folder):
        first, *more = path.relative_to(folder).parts
        if not more and loose is None:
            raise UserError(f"{path}: is in no class: put it into {folder}/good, or into a folder of its defect's name")
        found.append(Picture(path, first if more else str(loose)))
    return found


def _mask(root: Path, test: Path, one: Picture, normal: str) -> Path | None:
    """``ground_truth/<class>/<name>_mask.png``, or without ``_mask``."""
    if one.label == normal:
        return None
    stem = root / "ground_truth" / one.path.relative_to(test).with_suffix("")
    names = (stem.with_name(f"{stem.name}{end}{suffix}") for end in ("_mask", "") for suffix in SUFFIXES)
    return next((path for path in names if path.is_file()), None)


def _by_table(file: Path, normal: str) -> Listing:
    """Of each row its path, from the table's own folder on, and what other columns say."""
    parts: dict[str, list[Picture]] = {split: [] for split in SPLITS}
    lines: dict[Path, int] = {}
    rows, divided = _rows(file)
    for line, row in rows:
        where = f"{file}, line {line}"
        path, mask = (_file(file, row.get(column), column, where) for column in ("path", "mask"))
        if path is None:
            raise UserError(f"{where}: path is empty")
        if (first := lines.setdefault(path.resolve(), line)) != line:
            raise UserError(f"{where}: path = {row['path']} is that of line {first}, too")
        if "label" in row and not row["label"]:
            raise UserError(f"{where}: label is empty: write {normal} for a normal image")
        if (split := row.get("split", "train")) not in SPLITS:
            raise UserError(f"{where}: split = {split} is neither train nor test")
        parts[split].append(Picture(path, row.get("label", normal), mask))
    if not lines:
        raise UserError(f"{file}: holds no rows")
    return Listing(parts["train"], parts["test"] if divided else None)


def _rows(file: Path) -> tuple[list[tuple[int, dict[str, str]]], bool]:
    """The rows with their lines, and whether they say which part they are of."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text)
            table = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: is no CSV file in UTF-8: {error}") from None
    head = table[0][1] if table else []
    if "path" not in head or len(set(head)) < len(head):
        what = f"the columns {', '.join(head)}" if head else "no columns"
        hint = " (is ; the delimiter? , is expected)" if len(head) == 1 and ";" in head[0] else ""
        raise UserError(f"{file}: has {what}{hint}: expected path and, as far as they apply, label, split and mask")
    for line, row in table[1:]:
        if len(row) != len(head):
            raise UserError(f"{file}, line {line}: has {len(row)} fields, the first line has {len(head)}")
    return [(line, dict(zip(head, row, strict=True))) for line, row in table[1:]], "split" in head


def _file(table: Path, name: str | None, column: str, where: str) -> Path | None:
    if not name:
        return None
    if not (path := table.parent / name).is_file():
        raise UserError(f"{where}: {column} = {name}: there is no such file in {table.parent}")
    return path
