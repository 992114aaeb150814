"""The picture at the top of README.md and of the site: a detector of digits, drawn out of a run. A minute of one core.

python results/front_picture.py     # writes docs/pictures/front_light.png and front_dark.png

The digit 0 is normal. The columns are the first test images of each digit: nobody has chosen them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import vae_lightning as vl

HERE = Path(__file__).parents[1]
DIGITS = 0, 0, 0, 1, 4, 6, 8, 9
INK = {"light": ("#1f2328", "#0969da", "#bc4c00"), "dark": ("#e6edf3", "#58a6ff", "#f0883e")}  # text, normal, anomaly


def columns(target: np.ndarray) -> list[int]:
    """The first sample of each digit asked for, the second where it is asked for again, (N,) → indices."""
    return [int(np.flatnonzero(target == digit)[DIGITS[:i].count(digit)]) for i, digit in enumerate(DIGITS)]


def draw(detector: vl.Detector, x: np.ndarray, target: np.ndarray, ink: tuple[str, str, str]) -> Figure:
    """Test images (N, 1, 28, 28), uint8, of classes (N,), through a detector whose normal class is 0."""
    text, blue, orange = ink
    scores, threshold = detector.score(x), float(detector.threshold.value)
    model: Any = detector.model
    seen = model.prepared(torch.as_tensor(x[(shown := columns(target))]))
    with torch.no_grad():
        again = model.reconstruct(seen)
    error = (seen - again).square()
    figure = Figure(figsize=(8, 2.75), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.45, 1))
    axes = left.subplots(3, len(DIGITS))
    heat = colormaps["inferno"]
    for column, index in enumerate(shown):
        alarm = scores[index] > threshold
        for row, image in enumerate((seen, again, error)):
            axis, pixels = axes[row, column], image[column, 0].clamp(0, 1).numpy()
            axis.imshow(pixels, cmap="gray" if row < 2 else heat, vmin=0, vmax=1 if row < 2 else 0.8)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color=orange if alarm else blue, linewidth=1.6)
        axes[2, column].set_xlabel(f"{scores[index]:.3f}", fontsize=9, color=orange if alarm else blue)
    for axis, name in zip(axes[:, 0], ("input", "output", "error"), strict=True):
        axis.set_ylabel(name, fontsize=9.5, color=text)
    left.supxlabel("score: blue is normal, orange raises an alarm", fontsize=9, color=text)
    normal = target == 0
    axis = right.subplots()
    high = float(np.quantile(scores, 0.999))
    bins = np.linspace(0, high, 50).tolist()
    for chosen, colour, name in ((normal, blue, "zeros"), (~normal, orange, "other digits")):
        axis.hist(scores[chosen], bins, density=True, color=colour, alpha=0.75, label=name)
    axis.axvline(threshold, color=text, linestyle="--", linewidth=1.4)
    alarms = scores > threshold
    axis.set(yticks=[], xlim=(0, high))
    axis.set_xlabel("score: mean squared error of a pixel", fontsize=9, color=text)
    axis.tick_params(colors=text, labelsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(text)
    top = axis.get_ylim()[1]
    axis.text(threshold + 0.02 * high, 0.98 * top, f"threshold {threshold:.3f}", color=text, fontsize=9, va="top")
    for height, chosen, colour, name in ((0.85, normal, blue, "zeros"), (0.72, ~normal, orange, "other digits")):
        share = f"{alarms[chosen].mean():.1%} of {name} above"
        axis.text(threshold + 0.02 * high, height * top, share, color=colour, fontsize=9, va="top")
    return figure


def main(root: str) -> None:
    data = vl.data.MNIST(root, normal_classes=[0])
    model = vl.VAE([1, 28, 28], vl.MLP([400]), latent_dim=8, beta=1.0)
    run = vl.fit(model, data, max_epochs=20, verbose=False)
    batches = list(data.test_dataloader())
    x, target = (torch.cat([getattr(batch, name) for batch in batches]).numpy() for name in ("x", "target"))
    folder = HERE / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, ink in INK.items():
        figure = draw(run.detector, x, target, ink)
        FigureCanvasAgg(figure)
        figure.savefig(folder / f"front_{name}.png", dpi=200, transparent=True)
    print(run)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(HERE / "data"))
