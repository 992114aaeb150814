"""What the report says, gathered from a finished run: figures, tables, sentences; no markup but the pictures'."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...batch import ANOMALY, NORMAL
from ...detection import card
from ...detection.modes import evaluating
from ...training.diagnosis import Diagnosis
from ...training.findings import active_units
from ..opened import Opened
from . import figures
from .bootstrap import Interval, Ranking, ranking
from .samples import Sample, samples

MOST = 20_000  # test samples at most, evenly spaced
POINTS = 800  # in the latent map


@dataclass
class Content:
    """All that the page shows.

    Attributes:
        title, subtitle: Of the page.
        tiles: Figures that come first: what, value, and a word on it.
        facts: What was trained on what, by name.
        splits: Name, normal samples and anomalies of each.
        diagnosis: The self-check.
        scores: Each score's name, AUROC and average precision; empty without anomalies.
        alarms: Sentences on the threshold and its false alarms.
        pictures: SVG by name.
        samples: By headings.
        method: How scores were taken apart.
        settings: The configuration on one level.
    """

    title: str
    subtitle: str
    facts: dict[str, str]
    splits: list[tuple[str, int, int]]
    diagnosis: Diagnosis
    method: str
    samples: dict[str, list[Sample]]
    settings: dict[str, Any]
    alarms: list[str] = field(default_factory=list)
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    scores: list[tuple[str, Interval, Interval]] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)


def gather(run: Opened) -> Content:
    """Everything on a run; its test split is scored once more, by its own detector.

    Raises:
        UserError: When the run has no test split.
    """
    detector, data = run.detector, run.data
    raw, label, row = _test(data)
    answer = detector(raw)
    each = {name: np.asarray(column) for name, column in answer.each.items()}
    shown, method = samples(detector, raw, label, row)
    folder = run.run.folder.resolve()
    content = Content(
        title=f"{folder.parent.name} / {folder.name}",
        subtitle=_subtitle(run),
        facts={name: fact for name, fact in card.facts(detector).items() if name != "threshold"},
        splits=[_split(data, name) for name in ("train", "val", "calibration", "test") if data.has(name)],
        diagnosis=run.diagnose(),
        method=method,
        samples=shown,
        settings=run.run.settings,
    )
    rankings = {name: ranking(label, _finite(score)) for name, score in each.items()} if label.any() else {}
    content.scores = [(name, found.auroc, found.average_precision) for name, found in rankings.items()]
    content.alarms = _alarms(detector, np.asarray(answer.anomaly), label)
    content.tiles = _tiles(content, rankings.get(detector.names[0]), detector, np.asarray(answer.anomaly), label)
    content.pictures = _pictures(run, raw, label, each[detector.names[0]], rankings.get(detector.names[0]))
    return content


def _test(data: Any) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Raw test samples, labels and rows; evenly spaced ones of very many."""
    batches = list(data.loader("test"))
    raw, label, row = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "label", "row"))
    some = torch.linspace(0, len(raw) - 1, min(MOST, len(raw))).long()
    return raw[some], label[some].cpu().numpy(), row[some].cpu().numpy()


def _finite(score: np.ndarray) -> np.ndarray:
    return np.nan_to_num(score, posinf=float(np.finfo(np.float32).max))


def _subtitle(run: Opened) -> str:
    metrics = run.run.metrics
    trained = f"{metrics['epochs']:.0f} epochs in {_time(metrics['seconds'])}"
    return f"{type(run.detector.model).__name__} on {type(run.data).__name__}, {trained}, {run.checkpoint.name}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _split(data: Any, name: str) -> tuple[str, int, int]:
    label = torch.cat([batch.label for batch in data.loader(name)])
    return name, int((label == NORMAL).sum()), int((label == ANOMALY).sum())


def _alarms(detector: Any, alarm: np.ndarray, label: np.ndarray) -> list[str]:
    """On the threshold: what it promises, and what came of it."""
    lines = [f"{detector.threshold.describe()}."]
    normal = label == NORMAL
    if normal.any():
        lines.append(f"On the test split {_share(alarm[normal])} normal samples raised an alarm.")
    if not normal.all():
        lines.append(f"Of its anomalies {_share(alarm[~normal])} were found.")
    return lines


def _share(found: np.ndarray) -> str:
    return f"{found.sum():,} of {len(found):,} ({100 * found.mean():.3g} %)"


def _tiles(
    content: Content, found: Ranking | None, detector: Any, alarm: np.ndarray, label: np.ndarray
) -> list[tuple[str, str, str]]:
    tiles = []
    if found is not None:
        for name, (value, low, high) in (("AUROC", found.auroc), ("average precision", found.average_precision)):
            tiles.append((name, f"{value:.3f}", f"{low:.3f} to {high:.3f}, 95 % interval"))
        tiles.append(("anomalies found", f"{100 * alarm[label == ANOMALY].mean():.3g} %", "at the threshold"))
    low, high = (100 * rate for rate in detector.threshold.alarm_rate_interval)
    rate = 100 * alarm[label == NORMAL].mean() if (label == NORMAL).any() else float("nan")
    tiles.append(("false alarms", f"{rate:.2g} %", f"{low:.2g} to {high:.2g} % promised"))
    bad, checks = len(content.diagnosis.bad), len(content.diagnosis.findings)
    tiles.append(("self-check", f"{checks - bad} of {checks}", "checks passed" if bad else "checks, nothing wrong"))
    return tiles


@torch.no_grad()
def _pictures(run: Opened, raw: Tensor, label: np.ndarray, score: np.ndarray, found: Ranking | None) -> dict[str, str]:
    detector = run.detector
    objective = run.run.curves.get("val/objective", {})
    best = min(objective, key=objective.__getitem__) if objective else None
    threshold = detector.threshold.value.item()
    drawn = {
        "curves": figures.curves(run.run.curves, best),
        "detection": figures.detection(found, float(label.mean())) if found else None,
        "histogram": figures.histogram(score, label, threshold, detector.names[0]),
        **_latent(detector.model, raw, label),
    }
    return {name: picture for name, picture in drawn.items() if picture}


def _latent(model: Any, raw: Tensor, label: np.ndarray) -> dict[str, str]:
    """The latent map and, where there is a posterior, KL by unit."""
    if not hasattr(model, "encode"):
        return {}
    some = _balanced(label)
    with evaluating(model):
        x = model.prepared(raw[some].to(model.device))
        z, found = model.encode(x).cpu().double(), {}
        normal = torch.from_numpy(label[some] == NORMAL)
        if z.shape[1] > 1 and normal.sum() > 2:
            centre = z[normal].mean(0)
            _, singular, directions = torch.linalg.svd(z[normal] - centre, full_matrices=False)
            shares = (singular.square() / singular.square().sum())[:2]
            points = (z - centre) @ directions[:2].T
            found["latent"] = figures.latent_map(points.numpy(), label[some], shares.numpy())
        if hasattr(model, "posterior") and normal.any():
            mu, logvar = model.posterior(x[normal.to(x.device)])
            kl = model.kl_terms(mu, logvar).mean(0)
            found["units"] = figures.units(kl.cpu().numpy(), active_units(mu).cpu().numpy())
    return found


def _balanced(label: np.ndarray) -> np.ndarray:
    """Positions of some normal samples and of some anomalies."""

    def chosen() -> Iterable[np.ndarray]:
        for what, most in ((NORMAL, 3 * POINTS // 4), (ANOMALY, POINTS // 4)):
            (places,) = np.nonzero(label == what)
            yield places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int))]

    return np.concatenate(list(chosen()))
