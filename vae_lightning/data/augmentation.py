"""Light augmentation of raw images: shifts and flips, one gather for both."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Flip = Literal["none", "horizontal", "vertical", "both"]


def moved(x: Tensor, generator: torch.Generator, shift: int, flip: Flip) -> Tensor:
    """Each image moved by up to ``shift`` pixels along either axis, its edge repeated, and flipped or not.

    Args:
        x: (B, channels, height, width), of any type.
        generator: What is drawn from, on the device of x.
        shift: Pixels; all distances up to it are equally likely.
        flip: Along which axes an image may be flipped, with probability ½ each.
    """
    rows, columns = (
        _places(x, size, generator, shift, flip in ("both", axis))[:, None]
        for size, axis in ((x.shape[2], "vertical"), (x.shape[3], "horizontal"))
    )
    x = x.gather(2, rows[..., None].expand_as(x))
    return x.gather(3, columns[:, :, None].expand_as(x))


def _places(x: Tensor, size: int, generator: torch.Generator, shift: int, flip: bool) -> Tensor:
    """Where each pixel along an axis comes from: int64 (B, size)."""
    distance = torch.randint(-shift, shift + 1, (len(x), 1), generator=generator, device=x.device)
    place = (torch.arange(size, device=x.device) + distance).clamp(0, size - 1)
    if not flip:
        return place
    turned = torch.randint(2, (len(x), 1), generator=generator, device=x.device).bool()
    return torch.where(turned, size - 1 - place, place)
