"""Predictions as a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class Predictions(Callback):
    """Writes ``predictions.csv`` into the run's folder: each score, the decision, and what the data set says.

    One row a sample, in the order of the data, from all processes.

    Args:
        filename: Within the run's folder.
    """

    def __init__(self, filename: str = "predictions.csv") -> None:
        self.filename = filename
        self.outputs: list[dict[str, Tensor]] = []

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.outputs.append({name: column.cpu() for name, column in outputs.items()})

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = list(self.outputs[0])
        columns = {name: torch.cat([output[name] for output in self.outputs]) for name in names}
        shares: list[dict[str, Tensor] | None] = [columns]
        if trainer.world_size > 1:
            shares = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, columns)
        log_dir = trainer.log_dir  # asks all ranks
        if not trainer.is_global_zero or log_dir is None:
            return
        total = sum(len(share["label"]) for share in shares if share)
        rows: list[list[Any]] = [[] for _ in range(total)]
        for rank, share in enumerate(shares):
            assert share is not None
            # rank r holds every world_size-th sample, from the r-th on
            rows[rank :: trainer.world_size] = [
                list(row) for row in zip(*(share[n].tolist() for n in names), strict=True)
            ]
        path = Path(log_dir) / self.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sample", *names])
            writer.writerows([i, *map(_plain, row)] for i, row in enumerate(rows))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
