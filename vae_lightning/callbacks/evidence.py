"""The log-likelihood of test samples, as papers report it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ..data import NORMAL, Batch
from ..errors import UserError
from ..scores import ImportanceWeighted


class Evidence(Callback):
    """Logs −log p(x) of the normal test samples in nats, bounded from above by k importance samples: ``test/nll_<k>``.

    The mean of :class:`ImportanceWeighted` over the split. It is dear, which is why it is no score of the detector:
    10,000 images with k = 5000 and two hidden layers of 200 take about a quarter of an hour on one core.

    Args:
        k: Samples of z for each x.
        seed: Of the noise.

    Raises:
        UserError: When the model is not a VAE, or k is below 1.
    """

    def __init__(self, k: int = 5000, seed: int = 0) -> None:
        if k < 1:
            raise UserError(f"Evidence: k = {k} must be at least 1")
        self.k, self.seed = k, seed
        self.total = torch.zeros(2, dtype=torch.float64)  # of the bounds, and their number

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not callable(getattr(pl_module, "log_weights", None)):
            raise UserError(f"trainer.callbacks: Evidence needs a VAE, and {type(pl_module).__name__} is none")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total = torch.zeros(2, dtype=torch.float64)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        normal = batch.x[batch.label == NORMAL]
        for i, x in enumerate(normal.split(100) if len(normal) else []):
            # the score gives all samples the same noise; here new noise now and then lets errors cancel out
            bound = ImportanceWeighted(self.k, hash((self.seed, trainer.global_rank, batch_idx, i)))
            bounds = bound(pl_module, x).double().cpu()
            self.total += torch.stack([bounds.sum(), torch.tensor(float(len(x)))])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total, count = trainer.strategy.reduce(self.total.to(pl_module.device), reduce_op="sum")
        pl_module.log(f"test/nll_{self.k}", (total / count).float(), rank_zero_only=True)
