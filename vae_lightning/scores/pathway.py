"""How a sample and its reconstruction differ on their way through the encoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError
from .base import Score
from .whitening import Whitened

Layer = Literal["input", "hidden", "latent"]
LAYERS: list[Layer] = ["input", "hidden", "latent"]


class SAP(Score):
    """Σ_l ‖h_l(x) − h_l(x̂)‖²: how much the reconstruction differs from x on its way through the encoder.

    Simple Aggregation along Pathway: Kim et al. 2020, "RaPP: Novelty Detection with Reconstruction along Projection
    Pathway", eq. 4. h_0 is x itself, then come the hidden activations, then the code.

    Args:
        layers: Which of them.
    """

    def __init__(self, layers: list[Layer] = ["input", "hidden", "latent"]) -> None:  # noqa: B006 (never changed)
        super().__init__()
        self.layers, self.requires = list(layers), methods_for_layers(self, layers)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return torch.stack([d.square().sum(1) for d in differences(model, x, self.layers)]).sum(0)


class NAP(Whitened):
    """‖Σ^(−½) (d(x) − m)‖², d(x) = h(x) − h(x̂) in all layers at once.

    Normalised Aggregation along Pathway: Kim et al. 2020 (see ``SAP``), eq. 6, with a shrunk covariance of
    the training samples in place of their SVD.

    Args:
        layers: Which differences.
        capacity, rank: See ``Whitened``.
    """

    def __init__(
        self,
        layers: list[Layer] = ["input", "hidden", "latent"],  # noqa: B006 (never changed)
        capacity: int = 4096,
        rank: int = 512,
    ) -> None:
        super().__init__(capacity, rank)
        self.layers, self.requires = list(layers), methods_for_layers(self, layers)

    def represent(self, model: Any, x: Tensor) -> Tensor:
        return torch.cat(differences(model, x, self.layers), 1)


def differences(model: Any, x: Tensor, layers: list[Layer]) -> list[Tensor]:
    """h_l(x) − h_l(x̂) in each of the layers: (B, *input_shape) → [(B, features), …]."""
    reconstruction = model.reconstruct(x)
    found = []
    if "input" in layers:
        found.append((x - reconstruction).flatten(1))
    if "hidden" in layers:
        pairs = zip(model.hidden(x), model.hidden(reconstruction), strict=True)
        found += [h - h_reconstructed for h, h_reconstructed in pairs]
    if "latent" in layers:
        found.append(model.encode(x) - model.encode(reconstruction))
    return found


def methods_for_layers(score: Score, layers: list[Layer]) -> tuple[str, ...]:
    """What a model must have for the differences in these layers."""
    if not layers or not set(layers) <= set(LAYERS):
        raise UserError(f"{type(score).__name__}: layers = {layers} must name at least one of {', '.join(LAYERS)}")
    return ("reconstruct", *(["hidden"] if "hidden" in layers else []), *(["encode"] if "latent" in layers else []))
