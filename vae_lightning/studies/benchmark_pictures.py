"""Pictures of a benchmark: AUROC of each method on each class, and the methods in order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ..colours import BLUE, GREY
from ..files import write_whole
from .curves import png

if TYPE_CHECKING:
    from .benchmark_report import Row


def write(folder: Path, found: list[Row]) -> list[Path]:
    """One PNG file for each data set and protocol; their paths."""
    paths = []
    for data, protocol in dict.fromkeys((row.data, row.protocol) for row in found):
        own = [row for row in found if (row.data, row.protocol) == (data, protocol)]
        paths.append(folder / f"{data}_{protocol}.png")
        write_whole(paths[-1], png(draw(own, f"{data}, {protocol.replace('_', ' ')}")))
    return paths


def draw(found: list[Row], title: str) -> Figure:
    """A heatmap of methods by classes, means over seeds, and beside it the mean over classes with its spread."""
    classes = sorted({row.label for row in found})
    cells = {method: _by_class(found, method, classes) for method in dict.fromkeys(row.method for row in found)}
    # a method that lacks a class has no mean to be ranked by: last
    means = {method: np.ma.masked_invalid(cell).mean(0).filled(np.nan) for method, cell in cells.items()}
    order = sorted(cells, key=lambda method: -np.nan_to_num(means[method].mean(), nan=-1))
    grid = np.array([means[method] for method in order])
    width = 2.6 + max(4.0, 0.62 * len(classes)) + 3.2
    figure = Figure(figsize=(width, 1.4 + 0.38 * len(order)), layout="constrained")
    heat, ranking = figure.subplots(1, 2, sharey=True, width_ratios=(max(4.0, 0.62 * len(classes)), 3.2))
    image = heat.imshow(grid, cmap="viridis", aspect="auto")
    low, high = image.get_clim()
    for (i, j), value in np.ndenumerate(grid):
        text = "–" if np.isnan(value) else f"{value:.3f}"
        colour = "white" if value < (low + high) / 2 else "black"
        heat.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    heat.set(xlabel="class", title="AUROC by class")
    heat.set_xticks(range(len(classes)), [str(c) for c in classes])
    heat.set_yticks(range(len(order)), order)
    for i, method in enumerate(order):
        seeds = cells[method].mean(1)
        seeds = seeds[~np.isnan(seeds)]
        if not len(seeds):
            continue
        mean, spread = seeds.mean(), seeds.std(ddof=1) if len(seeds) > 1 else 0.0
        ranking.barh(i, mean, xerr=spread or None, color=BLUE if i == 0 else GREY, height=0.6, capsize=3)
        ranking.text(mean + spread, i, f"  {mean:.3f}", va="center", fontsize=8)
    edge = float(np.nanmin(grid.mean(1))) if np.isfinite(grid.mean(1)).any() else 0.0
    ranking.set(xlim=(max(0.0, edge - 0.1), 1.04), title="Mean over classes", xlabel="AUROC, higher is better")
    ranking.tick_params(left=False, labelleft=False)
    ranking.spines[["top", "right"]].set_visible(False)
    several = len({row.seed for row in found}) > 1
    figure.suptitle(title + (": means over seeds, bars are one standard deviation" if several else ""), fontsize=10)
    return figure


def _by_class(found: list[Row], method: str, classes: list[int]) -> np.ndarray:
    """(seeds, classes), NaN where a run is missing."""
    values = {(row.seed, row.label): row.auroc for row in found if row.method == method}
    return np.array([[values.get((seed, c), np.nan) for c in classes] for seed in sorted({s for s, _ in values})])
