"""The log-likelihood of test samples, as papers report it."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from ...data import NORMAL, Batch
from ...errors import UserError
from ...scores import ImportanceWeighted
from .checked import Checked


class Evidence(Checked):
    """Logs −log p(x) of the normal test samples in nats, bounded from above by k importance samples: ``test/nll_<k>``.

    The mean of ``ImportanceWeighted`` over the split, and its standard error, ``test/nll_<k>_error``. It is slow,
    which is why it is no score of the detector: 10,000 images with k = 5000 and two hidden layers of 200 take seven
    minutes of one core, nearly all of it in the decoder's matrix products.

    Args:
        k: Samples of z for each x.
        seed: Of the noise.
        samples: Normal test samples at most, the first ones; None takes all, as papers do. MNIST's first ones are its
            easy ones: a look, and no figure.

    Raises:
        UserError: When the model is not a VAE, or k or samples is below 1.
    """

    def __init__(self, k: int = 5000, seed: int = 0, samples: int | None = None) -> None:
        for name, value in (("k", k), ("samples", samples)):
            if value is not None and value < 1:
                raise UserError(f"Evidence: {name} = {value} must be at least 1")
        self.k, self.seed, self.samples = k, seed, samples
        self.total = torch.zeros(3, dtype=torch.float64)  # number of the bounds, their sum, the sum of their squares

    def check(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not callable(getattr(pl_module, "log_weights", None)):
            raise UserError(f"trainer.callbacks: Evidence needs a VAE, not {type(pl_module).__name__}")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total = torch.zeros(3, dtype=torch.float64)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        normal = pl_module.prepared(batch.x[batch.label == NORMAL])
        if self.samples is not None:  # of each rank its share
            normal = normal[: max(0, -(-self.samples // trainer.world_size) - int(self.total[0]))]
        bound = ImportanceWeighted(self.k, self.seed)  # noise of its own for each sample: errors average out
        for x in normal.split(100) if len(normal) else []:
            bounds = bound(pl_module, x).cpu().double()
            self.total += torch.stack([torch.tensor(float(len(x))), bounds.sum(), bounds.square().sum()])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            self.total = trainer.strategy.reduce(self.total.to(pl_module.device), reduce_op="sum")
        count, total, squares = self.total
        mean = total / count
        error = ((squares / count - mean.square()).clamp_min(0) / count).sqrt()
        for name, value in (("", mean), ("_error", error)):
            pl_module.log(f"test/nll_{self.k}{name}", value.float(), rank_zero_only=True)
