"""The self-check of a trained model: all findings in one table, the diseases first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import ANOMALY, NORMAL
from ..detection.modes import evaluating
from ..errors import UserError
from .findings import Finding, of_alarms, of_codes, of_loss, of_scores, of_seeds, of_training, rank_correlation

ROWS = 2000  # of a split, that are looked at


@dataclass(repr=False)
class Diagnosis:
    """All findings, the bad ones first."""

    findings: list[Finding]

    @property
    def bad(self) -> list[Finding]:
        """The diseases among them."""
        return [finding for finding in self.findings if finding.verdict == "bad"]

    def __repr__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.verdict:<5} {finding.name:<{width}}  {finding.value}: {finding.words}")
            lines += [f"{'':<5} {'':<{width}}  → {finding.remedy}"] if finding.remedy else []
        summary = f"{len(self.bad)} of {len(self.findings)} checks found something wrong"
        return "\n".join([*lines, "", summary if self.bad else f"{len(self.findings)} checks, nothing wrong"])


@torch.no_grad()
def diagnose(
    model: Any, data: Any, objective: Sequence[float] = (), twin: tuple[str, np.ndarray, np.ndarray] | None = None
) -> Diagnosis:
    """Look a trained model over.

    Args:
        model: Trained, with fitted scores and thresholds.
        data: The AnomalyDataModule that it was trained on.
        objective: ``val/objective`` of each epoch, in order; fewer than five say nothing.
        twin: The name of a run with another seed, its test scores (N,) and these of the model (N,).

    Raises:
        UserError: When the model has no encoder, decoder and likelihood.
    """
    if lacks := [name for name in ("encode", "decode", "likelihood") if not hasattr(model, name)]:
        raise UserError(f"{type(model).__name__} cannot be diagnosed: it has no {lacks[0]}")
    fresh = untrained(model)
    fresh.detector.fit(_first(data.reference_dataloader()), _first(data.validation_normals_dataloader()))
    with evaluating(model), evaluating(fresh):
        raw = torch.cat(list(_first(data.validation_normals_dataloader())))
        x = model.prepared(raw.to(model.device))
        nll = [float(-m.likelihood.log_prob(m.decode(m.encode(x)), x).mean()) for m in (model, fresh)]
        found = [of_loss(*nll), *of_codes(model, x), *of_training(objective)]
        split, raw, label = labelled(data)
        scores = [_scores(m, raw) for m in (model, fresh)]
        norm = model.prepared(raw.to(model.device)).flatten(1).norm(dim=1).cpu()
        found += of_scores(scores[0], norm.numpy(), scores[1], label, split)
        if data.has("test"):
            normal = torch.cat([batch.x[batch.label == NORMAL] for batch in data.loader("test")])
            if len(normal):
                found += of_alarms(model, np.asarray(model.detector(normal).anomaly))
    found += [of_seeds(rank_correlation(*twin[1:]), twin[0])] if twin else []
    return Diagnosis(sorted(found, key=lambda finding: ("bad", "note", "good").index(finding.verdict)))


def _scores(model: Any, raw: Tensor) -> np.ndarray:
    """Of the score that decides, calibrated or not: (N,)."""
    found = [part[model.detector.names[0]] for part in model.detector.through(model.detector.graph.scores, raw)]
    return torch.cat(found).numpy()


def untrained(model: Any) -> Any:
    """The same model with weights as they are drawn, always the same; its preprocessing is the trained one's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = model.again()
    fresh.preprocessing = model.preprocessing
    return fresh.to(model.device).eval()


def labelled(data: Any) -> tuple[str, Tensor, np.ndarray]:
    """Name, raw samples and labels of the split that holds anomalies: val if it does, else test; val without any."""
    for split in ("val", "test"):
        if data.has(split):
            batches = list(data.loader(split))
            label = torch.cat([batch.label for batch in batches]).cpu()
            if (label == ANOMALY).any() and (label == NORMAL).any():
                some = torch.cat([(label == what).nonzero().flatten()[:ROWS] for what in (NORMAL, ANOMALY)])
                raw = torch.cat([batch.x for batch in batches])
                return split, raw[some.to(raw.device)], label[some].numpy()
    raw = torch.cat(list(_first(data.validation_normals_dataloader())))
    return "val", raw, np.zeros(len(raw))


class _first:  # noqa: N801 (read as a function)
    """The raw samples of a loader up to 2000 or so, as often as they are asked for."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Any:
        rows = 0
        for batch in self.loader:
            yield batch.x
            rows += len(batch.x)
            if rows >= ROWS:
                return
