"""Small defects in textures: AUROC of images and of pixels by score and texture."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator

from sections.common import rows, table

ON = {"test": "On the test part", "planted": "On planted defects, which the recipe was chosen on"}


def textures() -> Iterator[str]:
    found = [row for row in rows("textures.csv") if row["defect"] == "all"]
    yield (
        "**Small defects in textures** (`results/textures.py`, `images.yaml`): AUROC of images / of pixels, mean ± "
        "standard deviation over seeds of images, weights and order (in brackets how many, where not three). A dash: "
        "not measured. `of the input alone` is the same score without a network. `ReconstructionError` has no map: "
        "its pixels are those that `explain` blames.\n"
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
    yield from table(
        ["score", *textures], [[score, *(_cell(cells[score, name]) for name in textures)] for score in scores]
    )


def _cell(runs: list[dict[str, str]]) -> str:
    if not runs:
        return "–"
    parts = [_spread([float(row[key]) for row in runs]) if runs[0][key] else "–" for key in ("auroc", "pixel_auroc")]
    return " / ".join(parts) + ("" if len(runs) == 3 else f" ({len(runs)})")


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 2 else "")
