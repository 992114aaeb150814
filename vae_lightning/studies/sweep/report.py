"""What a sweep came to: a table, ``results.csv`` and pictures, all out of the study."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from optuna.trial import TrialState

from ...colours import COLOURS, GREY, MARKERS
from ...files import write_csv
from ..tasks import as_text
from .plan import SEED, Plan, label, short
from .trials import Trials, choice

UNITS = dict.fromkeys(("loss", "objective", "bce", "nll", "kl"), "nats")
UNITS |= {"mse": "squared error"}


@dataclass
class Row:
    """One slot of a sweep."""

    slot: int
    state: str  # complete, pruned, failed, or running elsewhere
    values: dict[str, Any]  # of the search space; labels instead of objects
    metrics: dict[str, float]
    epochs: int | None
    seconds: float | None  # of all attempts that went on from one another
    attempts: int
    error: str


@dataclass
class Point:
    """One point of the search space: the rows that differ in nothing but the seed."""

    values: dict[str, Any]
    rows: list[Row]

    def all(self, metric: str) -> np.ndarray:
        """The metric of each finished row, (seeds,)."""
        return np.array([row.metrics[metric] for row in self.rows if metric in row.metrics], dtype=float)

    def mean(self, metric: str) -> float:
        """NaN where no row has it."""
        found = self.all(metric)
        return float(found.mean()) if len(found) else float("nan")

    @property
    def complete(self) -> bool:
        """Whether all rows ended well: a mean over fewer seeds is not compared."""
        return all(row.state == "complete" for row in self.rows)


def rows(trials: Trials) -> list[Row]:
    """One row a slot, whatever became of it."""
    found = []
    for slot, attempts in trials.by_slot().items():
        trial = trials.counted(attempts) or (attempts[-1] if attempts else None)
        if trial is None:
            continue
        attrs = trial.user_attrs
        state = {TrialState.FAIL: "failed", TrialState.WAITING: "failed"}.get(trial.state, trial.state.name.lower())
        known = {key: choice(value) for key, value in trials.plan.cell(slot).items()}
        tried = sum("passed" not in attempt.user_attrs for attempt in attempts)
        found.append(
            Row(
                slot=slot,
                state=state,
                values={**known, **trial.params},
                metrics=attrs.get("metrics", {}),
                epochs=attrs.get("epochs"),
                seconds=attrs.get("seconds"),
                attempts=tried,
                error=attrs.get("error", ""),
            )
        )
    return found


def points(found: list[Row]) -> list[Point]:
    """Rows put together that differ in the seed alone, in their order."""
    together: dict[str, Point] = {}
    for row in found:
        values = {key: value for key, value in row.values.items() if key != SEED}
        together.setdefault(json.dumps(values), Point(values, [])).rows.append(row)
    return list(together.values())


def front(values: np.ndarray, directions: list[str]) -> np.ndarray:
    """Which points no other dominates, bool (N,), of objectives (N, k).

    A point dominates another if it is at least as good in each objective and better in one. With one objective these
    are the best points.
    """
    costs = values * np.where(np.array(directions) == "maximize", -1.0, 1.0)
    no_worse = (costs[:, None] <= costs[None]).all(-1)  # [i, j]: i is at least as good as j
    better = (costs[:, None] < costs[None]).any(-1)
    return np.asarray(~(no_worse & better).any(0))


def best(plan: Plan, found: list[Point]) -> list[Point]:
    """The Pareto front by the objectives, validation's; nothing of the test enters."""
    whole = [point for point in found if point.complete]
    if not whole:
        return []
    values = np.array([[point.mean(name) for name in plan.objectives] for point in whole])
    return [point for point, on in zip(whole, front(values, list(plan.objectives.values())), strict=True) if on]


def write(plan: Plan, trials: Trials) -> str:
    """Write ``results.csv`` and the pictures into the study's folder; the table, and where everything lies."""
    found = rows(trials)
    together = points(found)
    chosen = best(plan, together)
    written = [_write_csv(plan, found, chosen), *_pictures(plan, together, chosen)]
    failed = [f"trial {row.slot} failed: {row.error}" for row in found if row.state == "failed"]
    return "\n".join(["", *_table(plan, together, chosen), "", *failed, *(f"wrote        {path}" for path in written)])


def _write_csv(plan: Plan, found: list[Row], chosen: list[Point]) -> Path:
    metrics = [*plan.objectives, *plan.show]
    metrics += sorted({name for row in found for name in row.metrics} - set(metrics))
    path = plan.folder / "results.csv"
    lines: list[list[Any]] = [
        ["trial", "state", "best", *plan.search, *metrics, "epochs", "seconds", "attempts", "error"]
    ]
    for row in found:
        on = int(any(row in point.rows for point in chosen))
        values = [_cell(row.values.get(key)) for key in plan.search]
        numbers = [_cell(row.metrics.get(name)) for name in metrics]
        more = [_cell(row.epochs), _cell(row.seconds), row.attempts, row.error]
        lines.append([f"trial_{row.slot:03d}", row.state, on, *values, *numbers, *more])
    write_csv(path, lines)
    return path


def _cell(value: Any) -> str:
    return "" if value is None else as_text(value)


def _table(plan: Plan, found: list[Point], chosen: list[Point]) -> list[str]:
    keys = [key for key in plan.search if key != SEED]
    metrics = [*plan.objectives, *(name for name in plan.show if name not in plan.objectives)]
    lines = [["", "trial", *(short(key, keys) for key in keys), *metrics, "epochs", "seconds"]]
    for point in found:
        states = sorted({row.state for row in point.rows} - {"complete"})
        lines.append(
            [
                "*" if point in chosen else "",
                ",".join(str(row.slot) for row in point.rows) + (f" {'/'.join(states)}" if states else ""),
                *(label(point.values.get(key, ""), 4) for key in keys),
                *(_spread(point.all(name)) for name in metrics),
                ",".join(dict.fromkeys(str(row.epochs) for row in point.rows if row.epochs is not None)),
                f"{sum(row.seconds or 0 for row in point.rows):.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    by = " and ".join(f"{name} ({direction}d)" for name, direction in plan.objectives.items())
    what = "on the Pareto front of" if len(plan.objectives) > 1 else "best by"
    seeds = "; mean ± standard deviation over seeds" if SEED in plan.search else ""
    return [*text, "", f"* {what} {by}; test/… is shown, and chooses nothing{seeds}"]


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def _pictures(plan: Plan, found: list[Point], chosen: list[Point]) -> list[Path]:
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
    better = {"maximize": "higher is better", "minimize": "lower is better"}.get(plan.objectives.get(metric, ""))
    return "; ".join(note for note in (UNITS.get(metric.split("/")[1] if "/" in metric else metric), better) if note)


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


def _slant(values: list[str]) -> dict[str, Any]:
    """Long labels side by side would run into each other."""
    wide = max(len(line) for value in _ticks(values) for line in value.split("\n"))
    return {"rotation": 20, "ha": "right", "fontsize": 8} if wide > 10 else {}


def heatmap(plan: Plan, found: list[Point], keys: list[str], metric: str) -> Figure:
    """A metric over a grid: the first key goes up, the combinations of all others go across."""
    y, x = (
        _values(plan, keys[0]),
        [", ".join(some) for some in itertools.product(*(_values(plan, k) for k in keys[1:]))],
    )
    grid = np.full((len(y), len(x)), np.nan)
    for point in found:
        up, *across = (label(point.values[key]) for key in keys)
        grid[y.index(up), x.index(", ".join(across))] = point.mean(metric)
    figure = Figure(figsize=(2.8 + 0.9 * len(x), max(3.4, 1.8 + 0.62 * len(y))), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    low, high = image.get_clim()
    for (i, j), value in np.ndenumerate(grid):
        text = "none" if np.isnan(value) else f"{value:.4g}"
        dark = not np.isnan(value) and value < (low + high) / 2
        axis.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    axis.set(xticks=range(len(x)), yticks=range(len(y)), ylabel=short(keys[0], keys))
    axis.set_xlabel(", ".join(short(key, keys) for key in keys[1:]))
    axis.set_xticklabels(_ticks(x), **_slant(x))
    axis.set_yticklabels(_ticks(y))
    axis.set_title(f"Sweep {plan.study}: {metric}{_over(found)}", fontsize=10)
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
        axis.set_xticklabels(_ticks(x), **_slant(x))
        axis.grid(alpha=0.3)
    for axis in list(figure.axes)[len(metrics) :]:
        axis.remove()
    if len(keys) == 2:
        figure.axes[0].legend(fontsize=8)
    bars = "; bars: standard deviation" if _over(found) else ""
    figure.suptitle(f"Sweep {plan.study}{_over(found)}{bars}", fontsize=10)
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
