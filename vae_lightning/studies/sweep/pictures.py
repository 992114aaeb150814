"""Pictures of a sweep: heatmaps of a grid, metrics against a key, the Pareto front."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...colours import COLOURS, GREY, MARKERS
from .plan import SEED, Plan, label, short
from .points import Point

UNITS = dict.fromkeys(("loss", "objective", "bce", "nll", "kl"), "nats")
UNITS |= {"mse": "squared error"}
BETTER = dict.fromkeys(UNITS, "lower is better") | {"kl": ""}  # less of a KL term is no virtue
BETTER |= dict.fromkeys(("auroc", "average_precision", "f1", "precision", "recall"), "higher is better")


def write_pictures(plan: Plan, found: list[Point], chosen: list[Point]) -> list[Path]:
    keys = [key for key in plan.search if key != SEED]
    metrics = [*plan.objectives, *(name for name in plan.show if name not in plan.objectives)]
    metrics = [name for name in metrics if any(len(point.all(name)) for point in found)]
    if not metrics:
        return []
    figures: dict[str, Figure] = {}
    listed = all(isinstance(plan.search[key], list) for key in keys)
    if len(keys) == 2 or (len(keys) > 2 and listed):
        draw = heatmap if listed else scatter
        figures = {f"heatmap_{name.replace('/', '_')}": draw(plan, found, keys, name) for name in metrics}
    if len(keys) in (1, 2) and listed:
        figures["curves"] = curves(plan, found, keys, metrics)
    if len(plan.objectives) == 2:
        figures["pareto"] = pareto(plan, found, chosen)
    for name, figure in figures.items():
        FigureCanvasAgg(figure)
        figure.savefig(plan.folder / f"{name}.png", dpi=110)
    return [plan.folder / f"{name}.png" for name in figures]


def _unit(plan: Plan, metric: str) -> str:
    """A metric's unit, and which way is better."""
    name = metric.split("/")[1] if "/" in metric else metric
    chosen = {"maximize": "higher is better", "minimize": "lower is better"}.get(plan.objectives.get(metric, ""))
    return "; ".join(note for note in (UNITS.get(name), chosen or BETTER.get(name)) if note)


def _named(plan: Plan, metric: str) -> str:
    """A metric as a label of an axis."""
    unit = _unit(plan, metric)
    return metric + (f"\n({unit})" if unit else "")


def _over(found: list[Point]) -> str:
    n = max(len(point.rows) for point in found)
    return f", mean over {n} seeds" if n > 1 else ""


def _values(plan: Plan, key: str) -> list[str]:
    values = plan.search[key]
    assert isinstance(values, list)
    return [label(value) for value in values]


def _ticks(values: list[str]) -> list[str]:
    return [value.replace("(", "\n(", 1).replace(", ", ",\n") for value in values]


def _brief(values: list[str], most: int = 14) -> tuple[list[str], str]:
    """Long values cut down to their classes, which then are told apart by letters; and the line that explains them."""
    heads = [value.partition("(")[0] if len(value) > most else value for value in values]
    names = [head if heads.count(head) == 1 else f"{head} {chr(97 + i)}" for i, head in enumerate(heads)]
    told = [f"{name}: {value}" for name, value, head in zip(names, values, heads, strict=True) if head != value]
    shown = [name if head != value else value for name, value, head in zip(names, values, heads, strict=True)]
    return shown, "; ".join(told)


def _slant(values: list[str]) -> dict[str, Any]:
    """Long labels side by side would run into each other."""
    wide = max(len(line) for value in _ticks(values) for line in value.split("\n"))
    return {"rotation": 20, "ha": "right", "fontsize": 8} if wide > 10 else {}


def heatmap(plan: Plan, found: list[Point], keys: list[str], metric: str) -> Figure:
    """A metric over a grid: the first key goes up, the combinations of all others go across."""
    y = _values(plan, keys[0])
    x = [", ".join(some) for some in itertools.product(*(_values(plan, k) for k in keys[1:]))]
    grid = np.full((len(y), len(x)), np.nan)
    for point in found:
        up, *across = (label(point.values[key]) for key in keys)
        grid[y.index(up), x.index(", ".join(across))] = point.mean(metric)
    figure = Figure(figsize=(2.8 + 0.9 * len(x), max(3.4, 1.8 + 0.62 * len(y))), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    low, high = image.get_clim()
    largest = max(abs(low), abs(high), 1e-9)
    decimals = max(0, 3 - math.floor(math.log10(largest)))  # the same for all, four digits for the largest
    for (i, j), value in np.ndenumerate(grid):
        text = "none" if np.isnan(value) else f"{value:.{decimals}f}"
        dark = not np.isnan(value) and value < (low + high) / 2
        axis.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    axis.set(xticks=range(len(x)), yticks=range(len(y)), ylabel=short(keys[0], keys))
    axis.set_xlabel(", ".join(short(key, keys) for key in keys[1:]))
    (across_, note_x), (up_, note_y) = _brief(x), _brief(y)
    axis.set_xticklabels(_ticks(across_), **_slant(across_))
    axis.set_yticklabels(_ticks(up_))
    notes = "".join(f"\n{note}" for note in (note_y, note_x) if note)
    axis.set_title(f"Sweep {plan.study}: {metric}{_over(found)}{notes}", fontsize=10)
    figure.colorbar(image, label=_named(plan, metric))
    return figure


def scatter(plan: Plan, found: list[Point], keys: list[str], metric: str) -> Figure:
    """A metric as the colour of points that a search over two keys has tried."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    done = [point for point in found if len(point.all(metric))]
    columns = []
    for key, name in zip(keys, ("y", "x"), strict=True):
        choice = plan.search[key]
        if isinstance(choice, list):
            known = _values(plan, key)
            columns.append([known.index(label(point.values[key])) for point in done])
            axis.set(**{f"{name}ticks": range(len(known)), f"{name}ticklabels": _ticks(known)})
        else:
            columns.append([point.values[key] for point in done])
            axis.set(**{f"{name}scale": "log" if choice.log else "linear"})
        axis.set(**{f"{name}label": short(key, keys)})
    colours = [point.mean(metric) for point in done]
    image = axis.scatter(columns[1], columns[0], c=colours, cmap="viridis", edgecolors="black", s=60)
    axis.set_title(f"Sweep {plan.study}: {metric}{_over(found)}, {len(done)} trials", fontsize=10)
    figure.colorbar(image, label=_named(plan, metric))
    return figure


def curves(plan: Plan, found: list[Point], keys: list[str], metrics: list[str]) -> Figure:
    """Metrics against the last key, a line for each value of the first; bars are standard deviations over seeds."""
    x = _values(plan, keys[-1])
    brief, note = _brief(x)
    lines = _values(plan, keys[0]) if len(keys) == 2 else [""]
    columns = min(3, len(metrics))
    height = -(-len(metrics) // columns)
    figure = Figure(figsize=(1 + max(3.2, 0.75 * len(x)) * columns, 0.8 + 2.9 * height), layout="constrained")
    for axis, metric in zip(figure.subplots(height, columns, squeeze=False).flat, metrics, strict=False):
        for i, line in enumerate(lines):
            mine = [p for p in found if len(p.all(metric)) and (not line or label(p.values[keys[0]]) == line)]
            mine.sort(key=lambda p: x.index(label(p.values[keys[-1]])))
            at = [x.index(label(p.values[keys[-1]])) for p in mine]
            mean = [p.mean(metric) for p in mine]
            spread = [values.std(ddof=1) if len(values) > 1 else 0.0 for values in (p.all(metric) for p in mine)]
            # a schedule lies on no line with numbers
            joined = [n for n, p in enumerate(mine) if type(p.values[keys[-1]]) in (int, float)]
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            axis.plot([at[n] for n in joined], [mean[n] for n in joined], color=colour)
            name, error = f"{short(keys[0], keys)} = {line}", spread if any(spread) else None
            axis.errorbar(at, mean, error, fmt=marker, color=colour, capsize=3, label=name)
        axis.set(xticks=range(len(x)), xlabel=short(keys[-1], keys), ylabel=_unit(plan, metric))
        axis.set_title(metric, fontsize=9)
        axis.set_xticklabels(_ticks(brief), **_slant(brief))
        axis.grid(alpha=0.3)
    for axis in list(figure.axes)[len(metrics) :]:
        axis.remove()
    if len(keys) == 2:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    bars = "; bars: standard deviation" if _over(found) else ""
    figure.suptitle(f"Sweep {plan.study}{_over(found)}{bars}" + (f"\n{note}" if note else ""), fontsize=10)
    return figure


def pareto(plan: Plan, found: list[Point], chosen: list[Point]) -> Figure:
    """All points by two objectives, and those among them that none is better than in both."""
    x, y = plan.objectives
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axis = figure.subplots()
    others = [p for p in found if p.complete and p not in chosen]
    axis.scatter([p.mean(x) for p in others], [p.mean(y) for p in others], color=GREY, label="dominated")
    line = sorted(chosen, key=lambda p: p.mean(x))
    # between two points of the front nothing has been reached but what is worse in one of them
    where: Any = "post" if plan.objectives[x] == "minimize" else "pre"
    axis.step([p.mean(x) for p in line], [p.mean(y) for p in line], where=where, color=COLOURS[0], linewidth=1)
    axis.scatter([p.mean(x) for p in line], [p.mean(y) for p in line], color=COLOURS[1], zorder=3, label="Pareto front")
    names = [key for key in plan.search if key != SEED]
    middle = np.mean([p.mean(x) for p in found if p.complete] or [0])
    for i, p in enumerate(line):
        to_the_left = p.mean(x) > middle  # of its point, where there is room
        text = ", ".join(f"{short(key, names)} {label(value, 4)}" for key, value in p.values.items())
        place: Any = {
            "xytext": (-6 if to_the_left else 6, -11 if i % 2 else 5),
            "ha": "right" if to_the_left else "left",
        }
        place |= {"textcoords": "offset points", "fontsize": 7}
        axis.annotate(text, (p.mean(x), p.mean(y)), **place)
    axis.set(xlabel=_named(plan, x), ylabel=_named(plan, y))
    axis.margins(0.15)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)  # inside it would hide points: the front runs along the edges
    axis.set_title(f"Sweep {plan.study}: Pareto front of {len(found)} points{_over(found)}", fontsize=10)
    return figure
