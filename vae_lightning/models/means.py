"""Means of logged terms over a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Means:
    """Means over all samples of a split, whatever the sizes of batches and shares of ranks."""

    def __init__(self, names: list[str] | None = None, total: Tensor | None = None) -> None:
        self.names, self._total = names or [], total
        self._batches: list[list[Tensor]] = []  # summed many at a time: every operation costs a small net's step time

    def update(self, terms: dict[str, Tensor]) -> None:
        """Add the terms of a batch, each (B,)."""
        self.names = list(terms)
        self._batches.append([term.detach() for term in terms.values()])
        if len(self._batches) == 100:
            _ = self.total

    @property
    def total(self) -> Tensor | None:
        """The sum of each term, and last the number of samples; None before there are any."""
        if self._batches:
            terms = [torch.cat(batches) for batches in zip(*self._batches, strict=True)]
            stacked = torch.stack([*terms, torch.ones_like(terms[0])])
            total = stacked.sum(1, dtype=torch.float32 if stacked.device.type == "mps" else torch.float64)
            self._total = total if self._total is None else self._total.to(total.device) + total
            self._batches = []
        return self._total

    def sum(self) -> float:
        """Of all terms together: finite as long as each is."""
        return 0.0 if self.total is None else self.total.sum().item()

    def compute(self, reduce: Callable[..., Any]) -> dict[str, Tensor]:
        """The means, over the ranks that ``reduce`` sums over."""
        *sums, count = reduce(self.total, reduce_op="sum").unbind()
        return {name: (value / count).float() for name, value in zip(self.names, sums, strict=True)}
