"""How far a sample lies from its nearest neighbours among normal ones, and how far for that neighbourhood."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import UserError
from .base import Score, at_least
from .contributions import Contributions, parts
from .sharing import each
from .whitening import reservoir

Space = Literal["input", "code"]
CHUNK = 512  # samples whose distances to all others are held at once


class Neighbours(Score):
    """½ (d − m_d) / s_d + ½ (r − m_r) / s_r: a distance, and the same relative to what is usual where the sample lies.

    d is the mean distance to the k nearest normal samples (Angiulli and Pizzuti 2002, "Fast Outlier Detection in High
    Dimensional Spaces"). r is the mean distance to the ``local`` nearest ones over the mean of their own such
    distances, each without itself: what is far for a dense neighbourhood (Breunig et al. 2000, "LOF", in the simplified
    form of Schubert, Zimek and Kriegel 2014, "Local Outlier Detection Reconsidered"). m and s are mean and standard
    deviation over the normal samples themselves, each left out of its own neighbours: no sample is spent on scaling,
    and several of these scores have one unit, so ``Combined`` can average them with ``standardize: false``.

    Args:
        space: ``input``: the prepared sample; ``code``: μ(x).
        k: Neighbours of d.
        local: Neighbours of r.
        capacity: Normal samples that are kept at most.
    """

    center: Tensor
    rows: Tensor
    reach: Tensor
    floor: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, space: Space = "input", k: int = 5, local: int = 10, capacity: int = 32768) -> None:
        super().__init__()
        if space not in get_args(Space):
            raise UserError(f"Neighbours: space = {space} is not one of {', '.join(get_args(Space))}")
        at_least(1, self, k=k, local=local)
        at_least(max(k, local) + 1, self, capacity=capacity)
        self.space, self.k, self.local, self.capacity = space, k, local, capacity
        self.requires = ("encode",) if space == "code" else ()
        for name in ("center", "rows", "reach", "floor", "mean", "std"):
            self.register_buffer(name, torch.empty(0))

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        found = (self._represent(view, x) for view, x in each(model, train))
        rows = reservoir(found, self.capacity, 3, "Neighbours")
        self.center = rows.mean(0)
        self.rows = rows - self.center  # short vectors: their squares cancel with little loss in ‖a‖² − 2ab + ‖b‖²
        nearest = [self._nearest(part, CHUNK * i) for i, part in enumerate(self.rows.split(CHUNK))]
        distances, indices = (torch.cat(part) for part in zip(*nearest, strict=True))
        self.reach = distances[:, : self.local].mean(1)
        self.floor = 0.01 * self.reach.mean() + 1e-12  # where samples are repeated, their distances are 0
        found_parts = self._parts(distances, indices)
        self.mean, self.std = found_parts.mean(0), found_parts.std(0).clamp_min(1e-6)

    def forward(self, model: Any, x: Tensor) -> Tensor:
        found = self._parts(*self._nearest(self._represent(model, x) - self.center))
        return ((found - self.mean) / self.std).mean(1)

    def contributions(self, model: Any, x: Tensor, baseline: Tensor | None = None) -> Contributions:
        """Exact for ``input``: ‖x − n‖ = Σ (x_j − n_j)² / ‖x − n‖. For ``code`` gradients, which miss jumps of r."""
        if self.space != "input":
            return super().contributions(model, x, baseline)
        centred = self._represent(model, x) - self.center
        distances, indices = self._nearest(centred)
        shares = (centred[:, None] - self.rows[indices]).square() / distances.clamp_min(1e-30).unsqueeze(2)
        around = self.reach[indices[:, : self.local]].mean(1) + self.floor
        d, r = shares[:, : self.k].mean(1), shares[:, : self.local].mean(1) / around[:, None]
        constants = (torch.stack([torch.zeros_like(around), self.floor / around], 1) - self.mean) / self.std
        features = (d / self.std[0] + r / self.std[1]) / 2
        return parts(model, features.view_as(x), base=constants.mean(1))

    def _represent(self, model: Any, x: Tensor) -> Tensor:
        """(B, *input_shape) → (B, D)."""
        found: Tensor = model.encode(x) if self.space == "code" else x
        return found.flatten(1)

    def _parts(self, distances: Tensor, indices: Tensor) -> Tensor:
        """D and r, next to each other (B, 2), of ascending distances to neighbours and their places, (B, n) each."""
        d, around = distances[:, : self.local].mean(1), self.reach[indices[:, : self.local]].mean(1)
        return torch.stack([distances[:, : self.k].mean(1), (d + self.floor) / (around + self.floor)], 1)

    def _nearest(self, x: Tensor, first: int | None = None) -> tuple[Tensor, Tensor]:
        """Distances to the nearest rows, and which these are: (B, D) → 2 × (B, n).

        Args:
            x: Centred.
            first: The place of x[0] among the rows, if x are rows: each is then left out of its own neighbours.
        """
        # squared distances less ‖a‖², which changes no order; only those to the nearest are then summed term by term
        squares = torch.addmm(self.rows.square().sum(1), x, self.rows.T, alpha=-2)
        if first is not None:
            squares.diagonal(first).fill_(torch.inf)
        count = min(max(self.k, self.local), len(self.rows) - (first is not None))
        indices = squares.topk(count, largest=False).indices
        distances = (x[:, None] - self.rows[indices]).square().sum(2).sqrt()
        return distances, indices
