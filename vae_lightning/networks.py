"""Encoder and decoder bodies. A network is an architecture; it builds the two halves once the shapes are known."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from .errors import UserError

Activation = Literal["ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Tanh", "Softplus", "Identity"]


class Blocks(nn.Sequential):
    """Blocks one after the other, the last of them the head. The activations between them can be asked for."""

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The output of each block but the head, each flattened to (B, features)."""
        activations = []
        for block in list(self)[:-1]:
            x = block(x)
            activations.append(x.flatten(1))
        return activations


class Network(ABC):
    """An architecture: what encoder and decoder are made of."""

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
