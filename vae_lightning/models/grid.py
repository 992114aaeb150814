"""Networks whose code stays a grid: each of its places sees a part of the image, and is seen in that part alone."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from ..errors import UserError
from .networks import Activation, Blocks, Network


class Grid(Network):
    """Convolutions whose code is a small image, for textures and for images of which details matter.

    The first layer cuts the image into patches; each further one halves height and width, and the decoder mirrors the
    encoder. ``latent_dim`` is the number of all places times what the code has at each: 128 × 128 pixels in patches of
    4 × 4 and two more stages are 8 × 8 places, so 512 is 8 numbers a place. A few leave no room for defects.

    Args:
        channels: Of each stage, the patches' first.
        patch: Height and width in pixels of the patches.
        activation: After each layer, the name of a module of ``torch.nn``.
        batch_norm: Normalise each layer before its activation.

    Raises:
        UserError: When samples are no images, or of a size that cannot be divided so.
    """

    def __init__(
        self,
        channels: list[int] = [32, 64, 64],  # noqa: B006 (never changed; a signature that reads as the configuration does)
        patch: int = 4,
        activation: Activation = "ReLU",
        batch_norm: bool = True,
    ) -> None:
        if not channels or any(width < 1 for width in channels):
            raise UserError(f"Grid: channels = {channels} must hold at least one stage, of at least 1 channel")
        if patch < 1:
            raise UserError(f"Grid: patch = {patch} must be at least 1 pixel")
        self.channels, self.patch, self.activation, self.batch_norm = list(channels), patch, activation, batch_norm

    def encoder(self, input_shape: list[int], outputs: int) -> Blocks:
        places = math.prod(self._grid(input_shape))
        blocks = [self._layer(nn.Conv2d(input_shape[0], self.channels[0], self.patch, self.patch), self.channels[0])]
        for fan_in, fan_out in itertools.pairwise(self.channels):
            blocks.append(self._layer(nn.Conv2d(fan_in, fan_out, 3, 2, 1), fan_out))
        head = nn.Sequential(nn.Conv2d(self.channels[-1], self._at_each(outputs, places), 1), nn.Flatten())
        return Blocks(*blocks, head).to(memory_format=torch.channels_last)

    def decoder(self, latent_dim: int, heads: int, input_shape: list[int]) -> Blocks:
        grid = self._grid(input_shape)
        code, widths = self._at_each(latent_dim, math.prod(grid)), self.channels[::-1]
        unflatten = nn.Unflatten(1, (code, *grid))
        blocks = [nn.Sequential(unflatten, *self._layer(nn.Conv2d(code, widths[0], 3, 1, 1), widths[0]))]
        for fan_in, fan_out in itertools.pairwise(widths):
            blocks.append(self._layer(nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1), fan_out))
        last = nn.ConvTranspose2d(widths[-1], heads * input_shape[0], self.patch, self.patch)
        head = nn.Sequential(last, nn.Unflatten(1, (heads, input_shape[0])))
        return Blocks(*blocks, head).to(memory_format=torch.channels_last)

    def _layer(self, layer: nn.Module, width: int) -> nn.Sequential:
        norm = [nn.BatchNorm2d(width)] if self.batch_norm else []
        return nn.Sequential(layer, *norm, getattr(nn, self.activation)())

    def _grid(self, input_shape: list[int]) -> list[int]:
        """Height and width of the code."""
        if len(input_shape) != 3:
            raise UserError(
                f"Grid: samples of shape {list(input_shape)} are not images (channels, height, width): use MLP"
            )
        pixels = self.patch * 2 ** (len(self.channels) - 1)
        if any(side % pixels or not side for side in input_shape[1:]):
            raise UserError(
                f"Grid: {input_shape[1]} × {input_shape[2]} pixels cannot be divided into places of {pixels} × {pixels}"
                ": give another size, patch or number of channels"
            )
        return [side // pixels for side in input_shape[1:]]

    def _at_each(self, outputs: int, places: int) -> int:
        """What the code has at each place."""
        if outputs % places:
            raise UserError(
                f"Grid: latent_dim must be a multiple of the code's {places} places: {8 * places} for 8 at each"
            )
        return outputs // places
