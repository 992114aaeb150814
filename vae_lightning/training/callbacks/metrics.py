"""AUROC, average precision, F1, precision and recall of a detector, correct for any number of processes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_f1_score,
    binary_precision,
    binary_recall,
)
from torchmetrics.utilities import dim_zero_cat

from ...data import NORMAL, AnomalyDataModule, Batch
from ...detection import Threshold
from ...files import whole
from ..board import Board

SCORES = "test_scores.npz"


class DetectionScores(Metric):
    """Collects scores and labels over batches and ranks; computes what detection is judged by, exactly.

    Args:
        names: Of the scores.
    """

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, scores: dict[str, Tensor], labels: Tensor) -> None:
        """Scores by name, each (B,), and labels (B,), 1 for an anomaly."""
        self.scores.append(torch.stack([scores[name] for name in self.names], dim=1))
        self.labels.append(labels)

    def compute(self) -> tuple[dict[str, Tensor], Tensor]:
        """All scores by name, each (N,), and all labels (N,)."""
        columns = dim_zero_cat(self.scores).unbind(1)
        return dict(zip(self.names, columns, strict=True)), dim_zero_cat(self.labels)


def ranking(scores: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """AUROC and average precision of scores (N,) for labels (N,): what no threshold enters into."""
    # by their places: infinite scores are tied, and their difference is not 0; in [0, 1], or a sigmoid would make ties
    places = scores.cpu().unique(return_inverse=True)[1].double()
    places, labels = places / places.max().clamp_min(1), labels.cpu()
    metrics: dict[str, Callable[..., Tensor]] = {"auroc": binary_auroc, "average_precision": binary_average_precision}
    found = {name: metric(places, labels, validate_args=False) for name, metric in metrics.items()}
    return {name: value.to(scores.device, torch.float32) for name, value in found.items()}


def decision(scores: Tensor, labels: Tensor, threshold: Threshold) -> dict[str, Tensor]:
    """What ``threshold`` makes of scores (N,): false alarms and, with anomalies (label 1), F1, precision and recall."""
    alarms, normal = threshold(scores), labels == NORMAL
    found = {"threshold": threshold.value}
    if normal.any():
        found["false_alarm_rate"] = alarms[normal].float().mean()
    if not normal.all():
        metrics = {"f1": binary_f1_score, "precision": binary_precision, "recall": binary_recall}
        found |= {name: metric(alarms.int(), labels, validate_args=False) for name, metric in metrics.items()}
    return found


class DetectionMetrics(Callback):
    """Logs how well the detector tells normal from anomalous, in validation and test.

    ``<split>/auroc``, ``average_precision``, ``f1``, ``precision``, ``recall``, ``threshold`` and ``false_alarm_rate``,
    the share of normal samples that raise an alarm, are the first score's; with several scores,
    ``<split>/auroc/<score>`` are each one's. Without anomalies in a split, what needs them is left out. At the start,
    the loggers are told the hyperparameters: the model's, the data set's, the seed.

    A test leaves ``test_scores.npz`` in the run's folder: each score under its name, float32 (N,), the one that decides
    first, and ``labels``, int8 (N,). With several processes the samples are in the order of the ranks.
    """

    def __init__(self) -> None:
        self.metric: DetectionScores | None = None

    def _start(self, model: Any) -> None:
        self.metric = DetectionScores(list(model.scores)).to(model.device)

    def _update(self, model: Any, batch: Batch) -> None:
        assert self.metric is not None
        self.metric.update(model.detector.graph.scores(batch.x), batch.label)

    def _log(self, model: Any, split: str) -> None:
        assert self.metric is not None
        scores, labels = self.metric.compute()
        primary = next(iter(scores))
        threshold = model.thresholds[primary]
        if threshold.fitted_on == split == "test":  # a source's protocol; its name says that it leaks
            threshold = copy.deepcopy(threshold)  # the model keeps its own
            threshold.fit(scores[primary][labels == NORMAL])
        values = decision(scores[primary], labels, threshold)
        if len(labels.unique()) == 2:
            values |= ranking(scores[primary], labels)
            if len(scores) > 1:
                values |= {f"auroc/{name}": ranking(column, labels)["auroc"] for name, column in scores.items()}
        for name, value in values.items():
            model.log(f"{split}/{name}", value.float(), prog_bar=name == "auroc", sync_dist=True)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step:  # resumed: they are there already
            return
        parameters: dict[str, Any] = flatten(dict(pl_module.hparams)) | described(trainer)
        for logger in trainer.loggers:
            if isinstance(logger, Board):
                logger.open(parameters, pl_module)
            else:
                logger.log_hyperparams(parameters)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._start(pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        self._update(pl_module, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._log(pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._start(pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        self._update(pl_module, batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._log(pl_module, "test")
        assert self.metric is not None
        scores, labels = self.metric.compute()  # cached; all ranks take part
        # not trainer.log_dir: without a logger that is the working directory
        folders = (logger.log_dir for logger in trainer.loggers if isinstance(logger, (TensorBoardLogger, CSVLogger)))
        if trainer.is_global_zero and (folder := next(folders, None)):
            save_scores(Path(folder) / SCORES, scores, labels)


def save_scores(path: Path, scores: dict[str, Tensor], labels: Tensor) -> None:
    """Scores by name, each (N,), and labels (N,) as an NPZ file, whole or not at all."""
    columns: dict[str, Any] = {name: column.float().cpu().numpy() for name, column in scores.items()}
    with whole(path) as temporary, temporary.open("wb") as file:  # a name without .npz would be given one
        np.savez(file, **columns, labels=labels.cpu().numpy().astype(np.int8))


def described(trainer: Trainer) -> dict[str, Any]:
    """Data set and seed of a training as hyperparameters, defaults left out."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    recipe = data.recipe() if isinstance(data, AnomalyDataModule) else None
    arguments = recipe["init_args"] if recipe else {}
    defaults = [inspect.signature(base.__init__).parameters for base in type(data).__mro__]  # type: ignore[misc]
    given = {
        name: value
        for name, value in arguments.items()
        if not any(name in of and of[name].default == value for of in defaults)
    }
    return {"data": type(data).__name__, **flatten(given, "data."), "seed": torch.initial_seed()}


def flatten(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested hyperparameters as one level: ``network: {class_path: …MLP, init_args: {hidden: [400]}}`` becomes
    ``network: MLP`` and ``network.hidden: [400]``.
    """
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, dict) and "class_path" in value:
            flat[prefix + name] = value["class_path"].rsplit(".", 1)[-1]
            flat.update(flatten(value.get("init_args") or {}, f"{prefix}{name}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            flat[prefix + name] = ", ".join(str(item.get("class_path", item)).rsplit(".", 1)[-1] for item in value)
        elif not name.startswith("_"):
            flat[prefix + name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
