"""Encoder and decoder bodies. A network is an architecture; it builds the two halves once the shapes are known."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..recipe import Recorded

Activation = Literal["ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Tanh", "Softplus", "Identity"]


class Blocks(nn.Sequential):
    """Blocks one after the other, the last of them the head. The activations between them can be asked for."""

    @property
    def hidden_blocks(self) -> list[nn.Module]:
        """All blocks but the head."""
        return list(self)[:-1]

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The output of each block but the head, each flattened to (B, features)."""
        activations = []
        for block in self.hidden_blocks:
            x = block(x)
            activations.append(x.flatten(1))
        return activations


class Network(Recorded, ABC):
    """An architecture: it builds encoder and decoder."""

    @abstractmethod
    def encoder(self, input_shape: list[int], outputs: int) -> Blocks:
        """(B, *input_shape) → (B, outputs)."""

    @abstractmethod
    def decoder(self, latent_dim: int, heads: int, input_shape: list[int]) -> Blocks:
        """(B, latent_dim) → (B, heads, *input_shape)."""


class MLP(Network):
    """Fully connected layers; the decoder mirrors the encoder.

    Args:
        hidden: Widths of the encoder's hidden layers. Empty: linear encoder and decoder.
        activation: After each hidden layer, the name of a module of ``torch.nn``.
        batch_norm: Normalise each hidden layer before its activation.
        dropout: Probability with which a hidden activation is dropped in training, in [0, 1).
    """

    def __init__(
        self,
        hidden: list[int] = [400],  # noqa: B006 (never changed; a signature that reads as the configuration does)
        activation: Activation = "ReLU",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if any(width < 1 for width in hidden):
            raise UserError(f"MLP: hidden = {hidden} must hold widths of at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"MLP: dropout = {dropout} is not in [0, 1)")
        self.hidden, self.activation = list(hidden), activation
        self.batch_norm, self.dropout = batch_norm, dropout

    def encoder(self, input_shape: list[int], outputs: int) -> Blocks:
        widths = [math.prod(input_shape), *self.hidden]
        head = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1], outputs))
        return Blocks(*self._blocks(widths, nn.Flatten()), head)

    def decoder(self, latent_dim: int, heads: int, input_shape: list[int]) -> Blocks:
        widths = [latent_dim, *reversed(self.hidden)]
        shape = (heads, *input_shape)
        head = nn.Sequential(nn.Linear(widths[-1], math.prod(shape)), nn.Unflatten(1, shape))
        return Blocks(*self._blocks(widths), head)

    def _blocks(self, widths: list[int], *first: nn.Module) -> list[nn.Sequential]:
        blocks = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            layers: list[nn.Module] = [*(first if i == 0 else ()), nn.Linear(fan_in, fan_out)]
            if self.batch_norm:
                layers.append(nn.BatchNorm1d(fan_out))
            layers.append(getattr(nn, self.activation)())
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            blocks.append(nn.Sequential(*layers))
        return blocks


class Residual(nn.Module):
    """x + f(x). He et al. 2016, "Deep Residual Learning for Image Recognition", section 3."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Conv(Network):
    """Strided convolutions for images (channels, height, width); the decoder mirrors the encoder.

    Each stage halves height and width, rounded up: 28 → 14 → 7, 65 → 33 → 17. The decoder restores the exact size.
    Four stages suit 64 × 64 pixels, five 128 × 128.

    Args:
        channels: Of each stage.
        hidden: Width of a fully connected layer between the stages and the code; 0 leaves it out.
        activation: After each layer, the name of a module of ``torch.nn``.
        batch_norm: Normalise each layer before its activation.
        residual: A residual block of two 3 × 3 convolutions at the resolution of each stage.

    Raises:
        UserError: When samples are not images, or too small to be halved in each stage.
    """

    def __init__(
        self,
        channels: list[int] = [32, 64],  # noqa: B006 (never changed; a signature that reads as the configuration does)
        hidden: int = 0,
        activation: Activation = "ReLU",
        batch_norm: bool = False,
        residual: bool = False,
    ) -> None:
        if not channels or any(width < 1 for width in channels):
            raise UserError(f"Conv: channels = {channels} must hold at least one stage, of at least 1 channel")
        if hidden < 0:
            raise UserError(f"Conv: hidden = {hidden} must be at least 0")
        self.channels, self.hidden, self.activation = list(channels), hidden, activation
        self.batch_norm, self.residual = batch_norm, residual

    def encoder(self, input_shape: list[int], outputs: int) -> Blocks:
        sizes = self._sizes(input_shape)
        features = self.channels[-1] * math.prod(sizes[-1])
        blocks = [
            nn.Sequential(*self._layer(nn.Conv2d(fan_in, fan_out, 3, 2, 1), fan_out), *self._refine(fan_out))
            for fan_in, fan_out in itertools.pairwise([input_shape[0], *self.channels])
        ]
        if self.hidden:
            blocks.append(nn.Sequential(nn.Flatten(), *self._layer(nn.Linear(features, self.hidden), self.hidden)))
        head = nn.Sequential(nn.Flatten(), nn.Linear(self.hidden or features, outputs))
        return Blocks(*blocks, head).to(memory_format=torch.channels_last)  # a tenth to a quarter faster on a CPU

    def decoder(self, latent_dim: int, heads: int, input_shape: list[int]) -> Blocks:
        sizes = self._sizes(input_shape)[::-1]
        widths = [*self.channels[::-1], heads * input_shape[0]]
        features = widths[0] * math.prod(sizes[0])
        blocks, fan_in = [], latent_dim
        if self.hidden:
            blocks.append(nn.Sequential(*self._layer(nn.Linear(latent_dim, self.hidden), self.hidden)))
            fan_in = self.hidden
        unflatten = nn.Unflatten(1, (widths[0], *sizes[0]))
        stage = [nn.Linear(fan_in, features), unflatten, *self._layer(nn.Identity(), widths[0])]
        for (fan_in, fan_out), size in zip(itertools.pairwise(widths), sizes[1:], strict=True):
            blocks.append(nn.Sequential(*stage, *self._refine(fan_in)))
            output_padding = (1 - size[0] % 2, 1 - size[1] % 2)  # an odd size was rounded up when it was halved
            upsample = nn.ConvTranspose2d(fan_in, fan_out, 3, 2, 1, output_padding)
            stage = self._layer(upsample, fan_out)
        head = nn.Sequential(upsample, nn.Unflatten(1, (heads, input_shape[0])))
        return Blocks(*blocks, head).to(memory_format=torch.channels_last)

    def _sizes(self, input_shape: list[int]) -> list[list[int]]:
        """(height, width) of the input and after each stage."""
        if len(input_shape) != 3:
            raise UserError(
                f"Conv: samples of shape {list(input_shape)} are not images (channels, height, width): use MLP"
            )
        sizes = [list(input_shape[1:])]
        for _ in self.channels:
            if min(sizes[-1]) < 2:
                raise UserError(
                    f"Conv: channels = {self.channels} are more stages than {input_shape[1]} × {input_shape[2]} pixels "
                    "can be halved: leave some out"
                )
            sizes.append([-(-n // 2) for n in sizes[-1]])
        return sizes

    def _layer(self, layer: nn.Module, width: int) -> list[nn.Module]:
        norm = nn.BatchNorm1d if isinstance(layer, nn.Linear) else nn.BatchNorm2d
        return [layer, *([norm(width)] if self.batch_norm else []), getattr(nn, self.activation)()]

    def _refine(self, width: int) -> list[nn.Module]:
        if not self.residual:
            return []
        convolutions = [nn.Conv2d(width, width, 3, 1, 1) for _ in range(2)]
        return [Residual(*self._layer(convolutions[0], width), *self._layer(convolutions[1], width))]
