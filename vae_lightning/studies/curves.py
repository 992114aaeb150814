"""ROC and training curves of several runs in one picture."""

from __future__ import annotations

import io
import itertools
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter
from sklearn.metrics import roc_curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..colours import COLOURS, GREY, LINES

PANELS = {
    "train/loss": "nats per sample, lower is better",
    "val/objective": "nats per sample, lower is better",
    "val/auroc": "area, higher is better",
}


def scalars(run: Path) -> dict[str, dict[int, float]]:
    """Every scalar of training and validation in TensorBoard's event files as {epoch: value}, epochs from 1."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith(("train/", "val/"))]
    if not names:
        return {}
    # each epoch ends with a point of train/loss
    ends = sorted({event.step for event in events.Scalars("train/loss")}) if "train/loss" in names else []
    return {name: {bisect_left(ends, e.step) + 1: e.value for e in events.Scalars(name)} for name in names}


def roc(groups: Mapping[str, list[tuple[np.ndarray, np.ndarray] | None]], areas: Mapping[str, str]) -> Figure:
    """ROC curves, the mean of each group with its standard deviation: as usual, and with few false alarms magnified.

    Args:
        groups: By label, each run's labels (N,), 1 for an anomaly, and scores (N,); None draws nothing.
        areas: What the legend says beside a label.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    grid = np.union1d(np.linspace(0, 1, 201), np.logspace(-3, 0, 301))
    for (label, runs), style in zip(groups.items(), _styles(), strict=False):
        drawn = [roc_curve(*run)[:2] for run in runs if run is not None]
        text = f"{label} ({areas[label]})" if label in areas else label
        for axis in both:
            _mean(axis, drawn, style, text, grid)
    both[0].plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance (AUROC 0.5)")
    both[0].set(title="ROC, test split", xlabel="false positive rate", ylabel="true positive rate (higher is better)")
    both[1].set(title="The same, few false alarms magnified", xlabel="false positive rate (log scale)", xscale="log")
    both[1].set_xlim(1e-3, 1)
    _finish(figure, both[0], any(len(runs) > 1 for runs in groups.values()))
    return figure


def training(groups: Mapping[str, list[dict[str, dict[int, float]]]]) -> Figure:
    """Loss, objective and AUROC against the epoch, the mean of each group with its standard deviation.

    Runs of other lengths are drawn against the share of their training that is over.

    Args:
        groups: By label, each run's {name: {epoch: value}}.
    """
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    every = [run for runs in groups.values() for run in runs]
    lengths = sorted({max(map(max, curves)) for run in every if (curves := [c for c in run.values() if c])})
    relative = len(lengths) > 1
    for axis, (name, unit) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for (label, runs), style in zip(groups.items(), _styles(), strict=False):
            drawn = []
            for run in runs:
                points = run.get(name, {})
                last = max(map(max, filter(None, run.values())), default=1) if relative else 1
                drawn.append((np.array(list(points)) / last, np.array(list(points.values()))))
            _mean(axis, [(x, y) for x, y in drawn if len(x)], style, label)
        axis.set(title=name, xlabel="epoch", ylabel=unit)
        if relative:
            axis.set_xlabel(f"share of the training ({lengths[0]} to {lengths[-1]} epochs)")
            axis.xaxis.set_major_formatter(PercentFormatter(1))
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        values = [value for line in axis.lines for value in np.asarray(line.get_ydata())]
        if values and name != "val/auroc" and max(values) > 3 * min(values) > 0:
            axis.set(yscale="log", ylabel=f"{unit} (log scale)")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    _finish(figure, figure.axes[0], any(len(runs) > 1 for runs in groups.values()))
    return figure


def _mean(
    axis: Axes,
    curves: list[tuple[np.ndarray, np.ndarray]],
    style: dict[str, Any],
    label: str,
    grid: np.ndarray | None = None,
) -> None:
    """The only curve as it is; the mean of several, and a band of a standard deviation to either side."""
    if len(curves) < 2:
        for x, y in curves:
            axis.plot(x, y, **style, marker="o" if len(x) == 1 else None, label=label)
        return
    # where all of them are: beyond the shortest there is no spread over all seeds
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    at = np.unique(np.concatenate([x for x, _ in curves])) if grid is None else grid
    at = at[(at >= low) & (at <= high)]
    values = np.array([np.interp(at, x, y) for x, y in curves])
    mean, spread = values.mean(0), values.std(0, ddof=1)
    axis.plot(at, mean, **style, marker="o" if len(at) == 1 else None, label=label)
    axis.fill_between(at, mean - spread, mean + spread, color=style["color"], alpha=0.18, linewidth=0)


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    FigureCanvasAgg(figure)  # no window, no global state of pyplot
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=110)
    return buffer.getvalue()


def _styles() -> Iterator[dict[str, Any]]:
    for i in itertools.count():
        yield {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS) % len(LINES)], "linewidth": 1.6}


def _finish(figure: Figure, axis: Axes, bands: bool) -> None:
    for each in figure.axes:
        each.grid(alpha=0.25)
    handles, labels = axis.get_legend_handles_labels()
    columns = 1 if max(map(len, labels), default=0) > 60 else 2
    title = "lines are means over seeds, bands one standard deviation" if bands else None
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, title=title, title_fontsize=9)
