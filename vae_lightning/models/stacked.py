"""K networks of one shape as one: their weights lie side by side, and one batched product a layer serves all of them.

Rows come member by member: (K · B, …) holds the B rows of the first member, then those of the second. So whatever
computes row by row, a likelihood or a divergence, needs to know nothing of it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError


class Linears(nn.Module):
    """K linear layers: (K · B, in) → (K · B, out).

    Attributes:
        weight: (K, in, out), the other way round than a linear layer's: the product wants it so.
        bias: (K, 1, out).
    """

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]).contiguous())
        self.bias = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.unflatten(0, (len(self.weight), -1)), self.weight).flatten(0, 1)

    def lend(self, k: int, layer: nn.Module) -> None:
        """Let a linear layer have the weights of member k, as long as they are where they are."""
        vars(layer)["_parameters"] = {"weight": self.weight.detach()[k].T, "bias": self.bias.detach()[k, 0]}


class BatchNorms(nn.BatchNorm1d):
    """K batch norms: (K · B, features) → the same, each member's rows normalised by themselves."""

    def __init__(self, layers: list[nn.BatchNorm1d]) -> None:
        first = layers[0]
        super().__init__(len(layers) * first.num_features, first.eps, first.momentum)
        self.members = len(layers)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(self, name).copy_(torch.cat([getattr(layer, name) for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        side_by_side = x.unflatten(0, (self.members, -1)).transpose(0, 1).flatten(1)  # (B, K · features)
        return super().forward(side_by_side).unflatten(1, (self.members, -1)).transpose(0, 1).flatten(0, 1)

    def lend(self, k: int, layer: nn.Module) -> None:
        """Let a batch norm have the weights and statistics of member k."""
        for kind, names in (("_parameters", ("weight", "bias")), ("_buffers", ("running_mean", "running_var"))):
            part = {name: getattr(self, name).detach().unflatten(0, (self.members, -1))[k] for name in names}
            vars(layer)[kind] = {**vars(layer)[kind], **part}
        vars(layer)["_buffers"]["num_batches_tracked"] = self.num_batches_tracked  # the same for all


def stacked(networks: list[Any]) -> nn.Module:
    """K networks of one shape as one.

    Raises:
        UserError: For a layer with weights that is not one of an MLP.
    """
    first = networks[0]
    if isinstance(first, nn.Linear):
        return Linears(networks)
    if isinstance(first, nn.BatchNorm1d):
        return BatchNorms(networks)
    if any(True for _ in first.parameters(recurse=False)):
        raise UserError(f"Ensemble: members with a layer {type(first).__name__} cannot be stacked: give them an MLP")
    whole = copy.deepcopy(first)
    for name, _ in first.named_children():
        whole._modules[name] = stacked([network.get_submodule(name) for network in networks])
    return whole


def lend(stack: nn.Module, k: int, network: nn.Module) -> None:
    """Let a network have the weights of member k of a stack of its like."""
    if isinstance(stack, (Linears, BatchNorms)):
        stack.lend(k, network)
    else:
        for name, child in network.named_children():
            lend(stack.get_submodule(name), k, child)
