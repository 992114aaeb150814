"""Corrupted images: anomalies made from the same data set."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..detection.preprocessing import Images
from ..errors import UserError
from .base import AnomalyDataModule
from .splits import Part


class Corrupted(AnomalyDataModule):
    """All images of another data set, corrupted: a source of anomalies for ``anomalies_from``.

    ========= =====================================================================================================
    noise     Gaussian noise is added to each pixel; ``amount`` is its standard deviation, 1 being white minus black
    occlusion a black square at a random place; ``amount`` is its side as a share of the image's. From a half on it
              always hides the image's centre
    inversion black becomes white and white black; ``amount`` is how far: 1 for complete inversion
    ========= =====================================================================================================

    The images stay uint8 and depend only on the arguments and ``seed``.

    Args:
        data: The data set whose images are corrupted; how it divides its classes does not matter here.
        kind: noise, occlusion or inversion.
        amount: In (0, 1], see the table. None: 0.3 for noise, 0.5 for occlusion, 1 for inversion.
        seed: Of the noise and the places.

    Raises:
        UserError: When the data set holds no uint8 images, or ``amount`` is out of range.
    """

    preprocessing = Images()

    def __init__(
        self,
        data: AnomalyDataModule,
        kind: Literal["noise", "occlusion", "inversion"] = "noise",
        amount: float | None = None,
        seed: int = 0,
    ) -> None:
        if amount is not None and not 0 < amount <= 1:
            raise UserError(f"Corrupted: amount = {amount} is not in (0, 1]")
        if kind not in _DEFAULT:
            raise UserError(f"Corrupted: kind = {kind} is unknown: choose one of {', '.join(_DEFAULT)}")
        if len(data.input_shape) != 3:
            raise UserError(
                f"Corrupted: data = {type(data).__name__} holds samples of shape {data.input_shape}, not images"
            )
        self.data, self.kind, self.amount = data, kind, amount
        self.input_shape, self.classes = data.input_shape, data.classes
        super().__init__(seed=seed)

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def load(self) -> tuple[Part, Part]:
        generator = torch.Generator().manual_seed(self.seed)
        train, test = self.data.load()
        if train.x.dtype != torch.uint8:
            raise UserError(f"Corrupted: data = {type(self.data).__name__} holds {train.x.dtype}, not uint8 images")
        return self._corrupt(train, generator), self._corrupt(test, generator)

    def _corrupt(self, part: Part, generator: torch.Generator) -> Part:
        amount = self.amount or _DEFAULT[self.kind]
        pieces = part.x.split(4096)  # the noise of all images at once would be many times their size
        return part._replace(x=torch.cat([_KIND[self.kind](x, amount, generator) for x in pieces]))


def noise(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise: x + amount·N(0, 1), cut at black and white; uint8 (B, C, H, W), as for the others."""
    return (x + 255 * amount * torch.randn(x.shape, generator=generator)).round().clamp(0, 255).to(torch.uint8)


def occlusion(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Black square, each side the share ``amount`` of the image's, at a random place."""

    def inside(size: int) -> Tensor:
        side = max(1, round(amount * size))
        start = torch.randint(size - side + 1, (len(x), 1), generator=generator)
        return (torch.arange(size) >= start) & (torch.arange(size) < start + side)

    rows, columns = inside(x.shape[2]), inside(x.shape[3])
    return x.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)


def inversion(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Black for white: (1 − amount)·x + amount·(255 − x)."""
    return (x + amount * (255 - 2 * x.float())).round().to(torch.uint8)


_KIND = {"noise": noise, "occlusion": occlusion, "inversion": inversion}
_DEFAULT = {"noise": 0.3, "occlusion": 0.5, "inversion": 1.0}
