"""ROC and training curves of several runs in one picture."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from sklearn.metrics import roc_curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..colours import COLOURS, GREY, LINES

PANELS = {"train/loss": "nats per sample", "val/objective": "nats per sample", "val/auroc": "area, 1 is perfect"}


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
    """ROC curves, a line for each run: as usual, and with a scale on which few false alarms can be seen.

    Args:
        groups: By label, each run's labels (N,), 1 for an anomaly, and scores (N,); None draws nothing.
        areas: What the legend says beside a label.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for (label, runs), style in zip(groups.items(), _styles(groups.values()), strict=True):
        drawn = [roc_curve(*run)[:2] for run in runs if run is not None]
        text = f"{label} ({areas[label]})" if label in areas else label
        for i, (false, true) in enumerate(drawn):
            for axis in both:  # one entry in the legend for all seeds
                axis.plot(false, true, **style, label="_" if i else text)
    both[0].plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance (AUROC 0.5)")
    both[0].set(title="ROC, test split", xlabel="false positive rate", ylabel="true positive rate")
    both[1].set(title="The same, few false alarms magnified", xlabel="false positive rate (log scale)", xscale="log")
    both[1].set_xlim(1e-3, 1)
    _finish(figure, both[0])
    return figure


def training(groups: Mapping[str, list[dict[str, dict[int, float]]]]) -> Figure:
    """Loss, objective and AUROC against the epoch, a line for each run.

    Args:
        groups: By label, each run's {name: {epoch: value}}.
    """
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    for axis, (name, unit) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for (label, runs), style in zip(groups.items(), _styles(groups.values()), strict=True):
            for i, curve in enumerate(run.get(name, {}) for run in runs):
                marker = "o" if len(curve) == 1 else None
                axis.plot(list(curve), list(curve.values()), **style, marker=marker, label="_" if i else label)
        axis.set(title=name, xlabel="epoch", ylabel=unit)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        values = [value for line in axis.lines for value in np.asarray(line.get_ydata())]
        if values and name != "val/auroc" and max(values) > 3 * min(values) > 0:
            axis.set(yscale="log", ylabel=f"{unit} (log scale)")
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    _finish(figure, figure.axes[0])
    return figure


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    FigureCanvasAgg(figure)  # no window, no global state of pyplot
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=110)
    return buffer.getvalue()


def _styles(groups: Iterable[list[Any]]) -> Iterator[dict[str, Any]]:
    for i, runs in enumerate(groups):
        line = LINES[i // len(COLOURS) % len(LINES)]
        width = 1.6 if len(runs) == 1 else 1.0
        yield {"color": COLOURS[i % len(COLOURS)], "linestyle": line, "linewidth": width}


def _finish(figure: Figure, axis: Axes) -> None:
    for each in figure.axes:
        each.grid(alpha=0.25)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 if max(map(len, labels)) > 60 else 2, fontsize=9)
