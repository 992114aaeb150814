"""The tables of textures.csv, for report.py: of each score and texture the AUROC of images and of pixels."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).with_name("textures.csv")
ON = {"test": "On the test part", "planted": "On planted defects, which the recipe was chosen on"}


def lines() -> Iterator[str]:
    """Markdown."""
    with FILE.open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["defect"] == "all"]
    yield (
        "**Small defects in textures** (`results/textures.py`, `images.yaml`): AUROC of images / of pixels, mean ± "
        "standard deviation over seeds of images, weights and order (in brackets how many, where not three). A dash: "
        "not measured. `of the input alone` is the same score without a network.\n"
    )
    if all(row["score"] != "PatchEnergy" for row in found):
        yield "The recipe with its network has not been measured over these textures and seeds yet.\n"
    for on, title in ON.items():
        yield f"{title}:\n"
        yield from _table([row for row in found if row["on"] == on])
    yield "![Images with defects, their masks and the map of the score](textures.png)\n"


def _table(found: list[dict[str, str]]) -> Iterator[str]:
    cells: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in found:
        cells[row["score"], row["texture"]].append(row)
    textures, scores = (list(dict.fromkeys(row[key] for row in found)) for key in ("texture", "score"))
    yield "| score | " + " | ".join(textures) + " |"
    yield "|---" * (len(textures) + 1) + "|"
    for score in scores:
        yield f"| {score} | " + " | ".join(_cell(cells[score, texture]) for texture in textures) + " |"
    yield ""


def _cell(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "–"
    parts = [_spread([float(row[key]) for row in rows]) if rows[0][key] else "–" for key in ("auroc", "pixel_auroc")]
    return " / ".join(parts) + ("" if len(rows) == 3 else f" ({len(rows)})")


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 2 else "")
