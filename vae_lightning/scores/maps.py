"""Scores that say of each pixel of an image how anomalous it is, for defects that are small beside the image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .base import Score
from .sharing import each


class Mapped(Score):
    """A score with a map, whose largest value it is."""

    @abstractmethod
    def maps(self, model: Any, x: Tensor) -> Tensor:
        """How anomalous each pixel is: (B, C, H, W) → (B, H, W)."""

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return self.maps(model, x).flatten(1).amax(1)

    def check(self, model: nn.Module) -> None:
        super().check(model)
        shape = list(getattr(model, "input_shape", []))
        if len(shape) != 3:
            raise UserError(
                f"model.init_args.scores: {type(self).__name__} needs images (channels, height, width), and samples "
                f"are of shape {shape}: choose another score"
            )


class PatchError(Mapped):
    """The reconstruction's error in patches of several sizes, beside what is usual in the image and at the place.

    e_k(p) is the mean of (x − x̂)² over the k × k pixels around p, and r_k(p) is e_k(p) divided by its mean over the
    image. The map is the mean over k of (r_k(p) − m_k(p)) / d_k(p), with the mean m_k(p) and the standard deviation
    d_k(p) of r_k over normal training samples and the k × k pixels around p. So neither images that are harder to
    reconstruct all over are strange, nor places, such as borders, where the error is always large.

    Args:
        scales: The k, odd numbers of pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, scales: list[int] = [3, 7, 13]) -> None:  # noqa: B006 (never changed)
        super().__init__()
        if not scales or any(k < 1 or k % 2 == 0 for k in scales):
            raise UserError(f"PatchError: scales = {scales} must be odd numbers of pixels, at least one")
        self.scales = list(scales)
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for view, x in each(model, train):
            errors = self._errors(view, x).cpu().double()  # not every accelerator has doubles
            count, total, squares = count + len(x), total + errors.sum(0), squares + errors.square().sum(0)
        mean, square = self._local(total / count), self._local(squares / count)
        std = (square - mean.square()).clamp_min(0).sqrt()
        # where hardly anything ever changes, noise is no anomaly
        std = std.maximum(std.mean((1, 2), keepdim=True) / 10).clamp_min(1e-12)
        self.mean, self.std = mean.to(self.mean), std.to(self.std)

    def maps(self, model: Any, x: Tensor) -> Tensor:
        return ((self._errors(model, x) - self.mean) / self.std).mean(1)

    def _errors(self, model: Any, x: Tensor) -> Tensor:
        """r_k of each pixel: (B, C, H, W) → (B, scales, H, W)."""
        squares = (x - model.reconstruct(x)).square().mean(1, keepdim=True).expand(-1, len(self.scales), -1, -1)
        errors = self._local(squares)
        return errors / errors.mean((2, 3), keepdim=True).clamp_min(1e-12)

    def _local(self, maps: Tensor) -> Tensor:
        """The mean over k × k pixels of the map of each scale: (..., scales, H, W) → the same shape."""
        return torch.stack([local_mean(one, k) for one, k in zip(maps.unbind(-3), self.scales, strict=True)], -3)


def local_mean(maps: Tensor, k: int) -> Tensor:
    """The mean over those of the k × k pixels around each that are in the image: (..., H, W) → the same shape."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    for size, padding in (((k, 1), (k // 2, 0)), ((1, k), (0, k // 2))):  # one axis after the other: 2 k sums, not k²
        flat = F.avg_pool2d(flat, size, 1, padding, count_include_pad=False)
    return flat.view(maps.shape)
