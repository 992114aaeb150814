"""The picture of docs/explanation/thresholds.md: how far the false-alarm rate of one detector may lie from α.

python results/beta_law.py     # writes docs/pictures/beta_law_light.png and beta_law_dark.png; seconds

Scores of normal samples are drawn from the uniform distribution, so a threshold t raises an alarm for a share 1 − t of
them: each calibration set gives one rate, without an error of its own. The curves are the law, the bars are thresholds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import beta

from vae_lightning import Conformal

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
ALPHA, SIZES, SETS = 0.05, (99, 399, 1999), 4000
INK = {"light": ("#1f2328", ("#bc4c00", "#0969da", "#1a7f37")), "dark": ("#e6edf3", ("#f0883e", "#58a6ff", "#3fb950"))}


def rates(n: int) -> np.ndarray:
    """The false-alarm rate of each of many calibration sets of n samples."""
    generator = torch.Generator().manual_seed(n)
    found = []
    for _ in range(SETS):
        threshold = Conformal(ALPHA)
        threshold.fit(torch.rand(n, generator=generator, dtype=torch.float64))
        found.append(1 - float(threshold.value))
    return np.array(found)


def draw(found: dict[int, np.ndarray], text: str, colours: tuple[str, ...]) -> Figure:
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    axis = figure.subplots()
    x = np.linspace(0, 0.12, 600)
    for (n, values), colour in zip(found.items(), colours, strict=True):
        k = int(ALPHA * (n + 1))
        low, high = beta.ppf([0.025, 0.975], k, n + 1 - k)
        axis.hist(values, np.linspace(0, 0.12, 81).tolist(), density=True, color=colour, alpha=0.35)
        label = f"n = {n:,}: {low:.1%} to {high:.1%} in 95 of 100 cases"
        axis.plot(x, beta.pdf(x, k, n + 1 - k), color=colour, linewidth=2, label=label)
    axis.axvline(ALPHA, color=text, linestyle="--", linewidth=1.2)
    axis.set(yticks=[], xlim=(0, 0.12), xticks=np.arange(0, 0.121, 0.02))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlabel("false-alarm rate of one detector, α = 5 %", color=text)
    axis.tick_params(colors=text)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(text)
    axis.legend(frameon=False, labelcolor=text, loc="upper right")
    return figure


def main() -> None:
    found = {n: rates(n) for n in SIZES}
    for name, (text, colours) in INK.items():
        figure = draw(found, text, colours)
        FigureCanvasAgg(figure)
        figure.savefig(FOLDER / f"beta_law_{name}.png", dpi=160, transparent=True)


if __name__ == "__main__":
    main()
