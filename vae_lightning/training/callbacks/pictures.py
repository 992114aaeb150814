"""Pictures of what a model sees: to TensorBoard, and as PNG files into the run's folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ...colours import BLACK, BLUE, ORANGE
from ...data import ANOMALY, NORMAL, Batch
from ...errors import UserError
from ..board import VIEW


def reconstructions(x: Tensor, x_hat: Tensor, label: Tensor, scores: Tensor | None = None) -> Figure:
    """Inputs, their reconstructions, the squared errors; normal samples left of anomalies.

    Args:
        x: (B, C, H, W), in [0, 1].
        x_hat: The shape of x.
        label: (B,).
        scores: (B,), written below each column.
    """
    figure = Figure(figsize=(max(4.0, 0.7 * len(x)), 2.7), layout="constrained")
    axes = figure.subplots(3, len(x), squeeze=False)
    error = (x - x_hat).square().mean(1, keepdim=True)
    shades = {"cmap": "gray", "vmin": 0, "vmax": 1}, {"cmap": "inferno", "vmin": 0, "vmax": error.max().item()}
    for column, what in enumerate(label.tolist()):
        colour = BLUE if what == NORMAL else ORANGE
        for row, images in enumerate((x, x_hat, error)):
            axis = axes[row, column]
            pixels = images[column].clamp(0, 1) if row < 2 else images[column]
            axis.imshow(pixels.permute(1, 2, 0).squeeze(-1).numpy(), **shades[row // 2])
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color=colour, linewidth=2)
        if scores is not None:
            axes[2, column].set_xlabel(f"{scores[column]:#.3g}", fontsize=9, color=colour)
    for row, name in enumerate(("input", "output", "error")):
        axes[row, 0].set_ylabel(name)
    below = "" if scores is None else "; below, the score"
    figure.suptitle(f"Reconstructions: normal (blue) and anomalous (orange){below}", fontsize=10)
    return figure


def histogram(scores: Tensor, label: Tensor, threshold: float, score: str, title: str) -> Figure:
    """The histogram of normal samples against that of anomalies, with the threshold.

    Args:
        scores: (N,).
        label: (N,).
        threshold: Of the same score.
        score: Its name.
        title: Says which samples they are.
    """
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    # a few extreme anomalies must not squeeze everything else into one bar
    low, high = scores.min().item(), scores.quantile(0.99).item()
    if reachable := math.isfinite(threshold):
        high = max(high, 1.2 * threshold)
    bins = np.linspace(low, high, 61)
    for what, colour, kind in ((NORMAL, BLUE, "normal"), (ANOMALY, ORANGE, "anomalous")):
        chosen = scores[label == what].clamp(max=high)
        if not len(chosen):  # normal data alone
            continue
        density, _ = np.histogram(chosen.numpy(), bins, density=True)
        axis.stairs(density, bins, fill=True, color=colour, alpha=0.6, label=f"{kind} (n = {len(chosen):,})")
    if reachable:
        axis.axvline(threshold, color=BLACK, linestyle="--", label=f"threshold {threshold:.4g}")
    beyond = int((scores > high).sum())
    note = f"\nthe last bar counts all scores above {high:.3g}: {beyond:,} of them" if beyond else ""
    axis.set(xlabel=f"{score}{note}", ylabel="density", title=title)
    figure.legend(loc="outside lower center", ncols=3)  # inside the axes it would hide bars, or points
    return figure


def latent_pca(z: Tensor, label: Tensor, title: str) -> Figure:
    """The two first principal components of latent vectors: PCA of the normal ones, anomalies projected.

    Args:
        z: (N, d).
        label: (N,).
        title: Says which samples they are.
    """
    centre = z[label == NORMAL].mean(0)
    _, singular, v = torch.linalg.svd(z[label == NORMAL] - centre, full_matrices=False)
    points = (z - centre) @ v[:2].T
    share = singular.square() / singular.square().sum()
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axis = figure.subplots()
    area = min(30.0, max(6.0, 5000 / len(z)))  # of a point: of many, smaller ones
    for what, colour, kind in ((NORMAL, BLUE, "normal"), (ANOMALY, ORANGE, "anomalous")):
        x, y = points[label == what].T
        axis.scatter(x, y, s=area, alpha=0.5, color=colour, label=kind, linewidths=0)
    names = [f"component {i + 1} ({share[i]:.0%} of the normal variance)" for i in range(2)]
    axis.set(xlabel=names[0], ylabel=names[1], title=title)
    figure.legend(loc="outside lower center", ncols=2, markerscale=(30 / area) ** 0.5)
    return figure


class Pictures(Callback):
    """Reconstructions (of images), score histograms, latent PCA and the latent projector, of validation samples.

    Args:
        every_n_epochs: How often; the last epoch always has pictures, and so has a validation at the last step.
        columns: Images in the picture of reconstructions, half of them anomalies.
        max_points: Samples at most in the latent pictures.

    Raises:
        UserError: When a number is too small.
    """

    def __init__(self, every_n_epochs: int = 10, columns: int = 12, max_points: int = 2000) -> None:
        given = {"every_n_epochs": (every_n_epochs, 1), "columns": (columns, 2), "max_points": (max_points, 2)}
        for key, (value, least) in given.items():
            if value < least:
                raise UserError(f"pictures.{key} = {value}: give at least {least}")
        self.every_n_epochs, self.columns, self.max_points = every_n_epochs, columns, max_points
        self.seen: list[tuple[Tensor, ...]] = []
        self.samples: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def _due(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return False
        return (trainer.current_epoch + 1) % self.every_n_epochs == 0 or _last(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.seen, self.samples = [], {NORMAL: [], ANOMALY: []}

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        if not self._due(trainer):
            return
        x = pl_module.prepared(batch.x)
        scores = pl_module.detector.graph.scores(batch.x)[pl_module.detector.names[0]]
        latent = [pl_module.encode(x).float().cpu()] if hasattr(pl_module, "encode") else []
        images = [thumbnails(x)] if latent and len(pl_module.input_shape) == 3 and _last(trainer) else []
        self.seen.append((scores.float().cpu(), batch.label.cpu(), batch.target.cpu(), *latent, *images))
        for what, kept in self.samples.items():
            chosen = (batch.label == what).nonzero().flatten()[: self.columns // 2 - len(kept)]
            kept.extend(zip(x[chosen], scores[chosen], strict=True))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not self.seen:
            return
        scores, label, target, *latent = (torch.cat(column) for column in zip(*self.seen, strict=True))
        detector = pl_module.detector
        threshold = detector.threshold.value.item()
        named = axis_name(detector)
        self._show(trainer, "scores", histogram(scores, label, threshold, named, "Scores of validation samples"))
        if len(pl_module.input_shape) == 3:
            shown = [*self.samples[NORMAL], *self.samples[ANOMALY]]
            x, of_x = (torch.stack(column) for column in zip(*shown, strict=True))
            of = [what for what, kept in self.samples.items() for _ in kept]
            pictures = x.cpu(), pl_module.reconstruct(x).float().cpu(), torch.tensor(of), of_x.float().cpu()
            self._show(trainer, "reconstructions", reconstructions(*pictures))
        if latent:
            z, *images = latent
            some = torch.linspace(0, len(z) - 1, min(self.max_points, len(z))).long()
            if z.shape[1] > 1 and (label[some] == NORMAL).sum() > 1:
                picture = latent_pca(z[some], label[some], title="Latent means of validation samples")
                self._show(trainer, "latent", picture)
            facts = described(trainer, label[some], target[some], scores[some])
            self._project(trainer, z[some], facts, *(thumbs[some] for thumbs in images))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for what, name in ((NORMAL, "normal"), (ANOMALY, "anomalous")):
                    if (label == what).any():
                        logger.experiment.add_histogram(f"{VIEW}scores_{name}", scores[label == what], _step(trainer))
        self.seen = []

    @staticmethod
    def _show(trainer: Trainer, name: str, figure: Figure) -> None:
        show(trainer, figure, name, f"{name}_epoch{trainer.current_epoch:03d}", _step(trainer))

    @staticmethod
    def _project(trainer: Trainer, z: Tensor, facts: dict[str, list[str]], images: Tensor | None = None) -> None:
        """The latent projector, once: its files grow with each step that is shown."""
        for logger in trainer.loggers:
            if _last(trainer) and isinstance(logger, TensorBoardLogger):
                rows = list(zip(*facts.values(), strict=True))
                place: dict[str, Any] = {"global_step": _step(trainer), "tag": "latent"}
                logger.experiment.add_embedding(z, rows, images, metadata_header=list(facts), **place)


def show(trainer: Trainer, figure: Figure, name: str, file: str, step: int) -> None:
    """Put a picture on TensorBoard under a name, and into the run's folder as ``pictures/<file>.png``."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)  # no window, no global state of pyplot
    canvas.draw()  # once: both show the same pixels
    pixels = np.asarray(canvas.buffer_rgba())
    # not trainer.log_dir: that asks all ranks, and only this one is here
    if log_dir := next((logger.log_dir for logger in trainer.loggers if logger.log_dir), None):
        folder = Path(log_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{file}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(VIEW + name, pixels, step, dataformats="HWC")


def axis_name(detector: Any) -> str:
    """The score that decides, with its unit where it has one."""
    name = detector.names[0]
    unit = getattr(detector.model.scores[name], "unit", "")
    return f"{name} ({unit})" if unit else name


def thumbnails(x: Tensor, most: int = 32) -> Tensor:
    """Images (B, C, H, W) for the projector: 32 pixels wide at most, on the CPU."""
    size = min(most, x.shape[2]), min(most, x.shape[3])
    return torch.nn.functional.adaptive_avg_pool2d(x.float(), size).clamp(0, 1).cpu()


def described(trainer: Trainer, label: Tensor, target: Tensor, scores: Tensor) -> dict[str, list[str]]:
    """What the projector can colour points by, (N,) each: normal or anomalous, the class, the score."""
    names: list[str] = getattr(trainer.datamodule, "classes", [])  # type: ignore[attr-defined]
    return {
        "label": ["normal" if what == NORMAL else "anomalous" for what in label.tolist()],
        "class": [str(names[c]) if 0 <= c < len(names) else "–" for c in target.tolist()],
        "score": [f"{score:.4g}" for score in scores.tolist()],
    }


def _step(trainer: Trainer) -> int:
    """Where Lightning puts the metrics of a validation: at the step that is behind."""
    return max(0, trainer.global_step - 1)


def _last(trainer: Trainer) -> bool:
    """Whether this validation is the last one: there are as many epochs, or steps, as were asked for."""
    return trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
