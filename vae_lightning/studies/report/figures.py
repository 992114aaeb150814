"""The report's pictures: SVG that takes its colours from the page, in the light and in the dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...batch import ANOMALY, NORMAL
from ...colours import BLUE, ORANGE
from .bootstrap import GRID, Ranking

INK, FAINT = "#102030", "#a0b0c0"  # stand for the page's own, see the template
NAMES = {INK: "currentColor", FAINT: "var(--faint)", BLUE.lower(): "var(--normal)", ORANGE.lower(): "var(--strange)"}
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be selected, and is the page's font
    "svg.hashsalt": "report",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def svg(figure: Figure) -> str:
    """The figure as an element of a page."""
    FigureCanvasAgg(figure)  # no window, no global state of pyplot
    figure.savefig(buffer := io.StringIO(), format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"^<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 role="img">', text, flags=re.DOTALL)
    for colour, name in NAMES.items():
        text = text.replace(colour, name).replace(colour.upper(), name)
    return re.sub(r"\n\s*", "\n", text)


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def curves(found: Mapping[str, Mapping[int, float]], best: int | None) -> str | None:
    """Loss and AUROC against the epoch; None where nothing was logged.

    Args:
        found: {name: {epoch: value}} as TensorBoard has them.
        best: The epoch that was kept.
    """
    losses = {"train/loss": ("training", ORANGE), "val/objective": ("validation", BLUE)}
    there = {name: style for name, style in losses.items() if len(found.get(name, {})) > 1}
    if not there:
        return None
    with matplotlib.rc_context(STYLE):
        auroc = found.get("val/auroc", {})
        figure, axes = _axes(9.6, 2.9, 2 if len(auroc) > 1 else 1)
        for name, (label, colour) in there.items():
            axes[0].plot(list(found[name]), list(found[name].values()), color=colour, label=label, linewidth=1.8)
        axes[0].set(title="Loss, nats per sample", xlabel="epoch")
        if len(auroc) > 1:
            axes[1].plot(list(auroc), list(auroc.values()), color=BLUE, linewidth=1.8)
            axes[1].set(title="AUROC, validation", xlabel="epoch")
        for axis in axes:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            if best is not None:
                axis.axvline(best, color=INK, linewidth=0.8, linestyle=":", label=f"kept: epoch {best}")
        axes[0].legend()
        return svg(figure)


def detection(found: Ranking, share: float) -> str:
    """ROC and precision against recall, with bands; ``share`` of the samples are anomalies."""
    with matplotlib.rc_context(STYLE):
        figure, (roc, pr) = _axes(9.6, 3.9, 2)
        for axis, line, band in (
            (roc, found.roc, found.roc_band),
            (pr, found.precision_recall, found.precision_recall_band),
        ):
            axis.fill_between(GRID, *band, color=BLUE, alpha=0.18, linewidth=0, label="95 % of resamples")
            axis.plot(*_thinned(line), color=BLUE, linewidth=1.8)
            axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        roc.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=0.8, label="chance")
        pr.axhline(share, color=INK, linestyle=":", linewidth=0.8, label="chance")
        roc.set(title=f"ROC, area {found.auroc.value:.3f}", xlabel="false alarms", ylabel="anomalies found")
        pr.set(
            title=f"Precision and recall, average {found.average_precision.value:.3f}",
            xlabel="anomalies found",
            ylabel="alarms that are anomalies",
        )
        roc.legend(loc="lower right")
        pr.legend(loc="lower left")
        return svg(figure)


def histogram(score: np.ndarray, label: np.ndarray, threshold: float, name: str) -> str:
    """Scores of normal samples and anomalies, (N,) and (N,), with the threshold."""
    score = np.nan_to_num(score, posinf=float(np.finfo(np.float32).max))
    low, high = float(score.min()), float(score.max())
    tails = [np.quantile(score[label == what], 0.98) for what in (NORMAL, ANOMALY) if (label == what).any()]
    if high > 3 * max(tails):  # a few extreme anomalies must not squeeze everything else into one bar
        high = float(max(tails))
    if reachable := math.isfinite(threshold):
        high = max(high, threshold + 0.2 * abs(threshold - low))
    logarithmic = low > 0 and high > 30 * float(np.median(score[label == NORMAL]))
    ends = (low, high, 61) if logarithmic else (low, max(high, low + 1e-9), 61)
    edges = (np.geomspace if logarithmic else np.linspace)(*ends).tolist()
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(9.6, 2.9)
        for what, colour, kind in ((NORMAL, BLUE, "normal"), (ANOMALY, ORANGE, "anomalous")):
            chosen = score[label == what].clip(max=high)
            if len(chosen):
                shares = np.full(len(chosen), 100 / len(chosen))
                axis.hist(chosen, edges, weights=shares, color=colour, alpha=0.6, label=f"{kind}, {len(chosen):,}")
        if reachable:
            axis.axvline(threshold, color=INK, linestyle="--", linewidth=1, label=f"threshold {threshold:.4g}")
        beyond = int((score > high).sum())
        more = f"; the last bar holds {beyond} beyond {high:.3g}" if beyond else ""
        axis.set(title="Share of test samples, %", xlabel=f"{name}{more}")
        if logarithmic:
            axis.set_xscale("log")
        axis.legend()
        return svg(figure)


def latent_map(points: np.ndarray, label: np.ndarray, shares: np.ndarray) -> str:
    """Codes of test samples on two principal components of the normal ones: (N, 2), (N,), shares of variance (2,)."""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(5.2, 4.4)
        for what, colour, kind in ((NORMAL, BLUE, "normal"), (ANOMALY, ORANGE, "anomalous")):
            x, y = points[label == what].T
            if len(x):
                axis.scatter(x, y, s=9, color=colour, alpha=0.55, linewidths=0, label=kind)
        titles = [f"component {i + 1}, {100 * share:.0f} % of the variance" for i, share in enumerate(shares)]
        axis.set(title="Codes of test samples", xlabel=titles[0], ylabel=titles[1])
        axis.legend(markerscale=2)
        return svg(figure)


def units(kl: np.ndarray, active: np.ndarray) -> str:
    """KL of each latent unit in nats, (d,), the largest first; those that are not active are pale."""
    order = np.argsort(-kl)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _axes(4.2, 4.4)
        for i, unit in enumerate(order):
            axis.bar(i + 1, kl[unit], color=BLUE, alpha=0.85 if active[unit] else 0.25, width=0.8)
        axis.set(title="KL of each latent unit, nats", xlabel="unit, by KL")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        return svg(figure)


def _thinned(line: np.ndarray, most: int = 2000) -> np.ndarray:
    """A curve of many points by some of them, its first and last included."""
    return line[:, np.unique(np.linspace(0, line.shape[1] - 1, most).astype(int))]
