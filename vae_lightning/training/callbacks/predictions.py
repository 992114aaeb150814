"""Predictions as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ...detection import Scores
from ...errors import UserError
from ...files import write_csv


class Predictions(Callback):
    """Writes ``predictions.csv`` into the run's folder, a row a sample, in the order of the data, from all processes.

    ``row`` is the sample's row in its source, from 0; where anomalies come from another data set, ``source`` names it.
    Then each score, ``p_value`` and ``anomaly``, the decision; ``label`` and ``target``, what the data set says.

    Args:
        filename: Within the run's folder.
        fdr: Decide by Benjamini and Hochberg's procedure at this level, over all samples, not by the threshold.

    Raises:
        UserError: When ``fdr`` is outside (0, 1).
    """

    def __init__(self, filename: str = "predictions.csv", fdr: float | None = None) -> None:
        if fdr is not None and not 0 < fdr < 1:
            raise UserError(f"--fdr {fdr}: is not in (0, 1)")
        self.filename, self.fdr = filename, fdr
        self.outputs: list[dict[str, Tensor]] = []

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outputs = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.outputs.append({name: column.cpu() for name, column in outputs.items()})

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        columns = gathered(self.outputs, trainer.world_size)
        log_dir = trainer.log_dir  # asks all ranks
        if not trainer.is_global_zero or log_dir is None:
            return
        if self.fdr is not None:
            primary = columns[pl_module.detector.names[0]]
            answer = Scores(primary, columns["p_value"], columns["anomaly"], {})
            columns["anomaly"] = torch.from_numpy(pl_module.detector.decide(answer, fdr=self.fdr))
        table = {"row": columns.pop("row").tolist()}
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data.anomalies_from is not None:  # whose classes have no number in this data set
            names = type(data).__name__, type(data.anomalies_from).__name__
            table["source"] = [names[target < 0] for target in columns["target"].tolist()]
        table |= {name: [_plain(value) for value in column.tolist()] for name, column in columns.items()}
        write_csv(Path(log_dir) / self.filename, [list(table), *zip(*table.values(), strict=True)])


def gathered(outputs: list[dict[str, Tensor]], world: int) -> dict[str, Tensor]:
    """Columns of all batches and ranks in the order of the data: rank r holds every world-th sample, from the r-th."""
    columns = {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
    if world == 1:
        return columns
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, columns)
    whole = {name: column.new_empty(sum(len(share[name]) for share in shares)) for name, column in columns.items()}
    for rank, share in enumerate(shares):
        for name, column in share.items():
            whole[name][rank::world] = column
    return whole


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
