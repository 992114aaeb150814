"""How well score maps tell anomalous pixels from others: AUROC of all pixels, in bounded memory."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torchmetrics import Metric

from ...data import NORMAL, Batch

BITS = 20  # of a float32 that pixels are sorted by: sign, exponent and 11 of the mantissa, a relative 0.0005


class PixelAUROC(Metric):
    """The area under the ROC curve of pixels, as many as there may be: 16 MB, summed over batches and ranks.

    Scores that agree in 12 bits count as tied, which is half a win. The error is at most half the share of the pairs,
    anomalous and not, that lie within 0.05 % of each other.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(2, 2**BITS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Maps (B, H, W), and masks, bool (B, H, W): which pixels are anomalous."""
        place = _order(maps.float().nan_to_num(torch.inf, torch.inf, -torch.inf)) + masks.long() * 2**BITS
        self.counts += torch.bincount(place.flatten(), minlength=2 * 2**BITS).view(2, -1)

    @property
    def both(self) -> bool:
        """Whether there are pixels of both kinds."""
        return bool((self.counts.sum(1) > 0).all())

    def compute(self) -> Tensor:
        """The AUROC, NaN without pixels of both kinds."""
        normal, anomalous = self.counts.cpu().double()
        below = normal.cumsum(0) - normal / 2
        return ((anomalous * below).sum() / (normal.sum() * anomalous.sum())).float()


def _order(x: Tensor) -> Tensor:
    """A number in [0, 2**BITS) that grows with x, float32: int64 of its shape."""
    bits = (x + 0.0).view(torch.int32)  # + 0: of the two zeros only one
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> (32 - BITS)).long() + 2 ** (BITS - 1)


class PixelMetrics(Callback):
    """Logs ``test/pixel_auroc`` where the data have masks and a score has maps; of the first such score.

    With several, ``test/pixel_auroc/<score>`` are each one's. Anomalous images whose mask is not known are left out.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, PixelAUROC] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        names = pl_module.detector.mapped if getattr(data, "has_masks", False) else []
        self.metrics = {name: PixelAUROC().to(pl_module.device) for name in names}

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        if not self.metrics:
            return
        found = [_mask(trainer.datamodule, *one) for one in zip(*batch, strict=True)]  # type: ignore[attr-defined]
        known = torch.tensor([mask is not None for mask in found], device=batch.x.device)
        if not known.any():
            return
        masks = torch.stack([mask for mask in found if mask is not None]).to(batch.x.device)
        for name, maps in pl_module.detector.graph.maps(batch.x[known]).items():
            self.metrics[name].update(maps, masks)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = {name: metric.compute() for name, metric in self.metrics.items()}
        values = {name: value for name, value in values.items() if not value.isnan()}
        for i, (name, value) in enumerate(values.items()):
            if i == 0:
                pl_module.log("test/pixel_auroc", value, sync_dist=True)
            if len(values) > 1:
                pl_module.log(f"test/pixel_auroc/{name}", value, sync_dist=True)


def _mask(data: Any, x: Tensor, label: Tensor, target: Tensor, row: Tensor) -> Tensor | None:
    """Which pixels of a test sample are anomalous, bool (H, W); None if that is not known."""
    if label == NORMAL:
        return torch.zeros(x.shape[-2:], dtype=torch.bool)
    return None if target < 0 else data.mask(int(row))  # another data set's
