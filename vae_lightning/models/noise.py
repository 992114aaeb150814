"""The noise that a model is given while a Trainer runs it: the same again, however the run was made."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..scores.noise import sample_noise
from ..seeds import seed_at

HALF = 2**20  # a row's number as two that float32 holds exactly
KEPT = 2**22  # numbers that are kept from epoch to epoch: to draw them takes as long as a small network's pass


class Noise:
    """Standard normal draws, of a place in the run or of each sample.

    In training they belong to a place, ``(rank, step)``, so that a resumed run draws what an undisturbed one would
    have drawn. In evaluation they belong to the samples: one draws the same in each epoch, in any batch, on any rank.

    Args:
        later: By how much the seed is larger than the run's.
    """

    def __init__(self, later: int = 0) -> None:
        self.later = later
        self._generator: torch.Generator | None = None
        self._rows: Tensor | None = None
        self._seen: dict[tuple[int, ...], tuple[int, Tensor, list[Tensor]]] = {}  # seed, rows, and what they were given
        self._given: list[Tensor] = []  # to the present rows
        self._draws = self._kept = 0  # since the rows are known; numbers in _seen

    def __reduce__(self) -> Any:
        return type(self), (self.later,)  # copied and sent without what it can draw again

    def begin(self, device: torch.device, *place: int, rows: Tensor | None = None) -> None:
        """From now on draw what belongs to a place, or to each sample of a batch.

        Args:
            device: Where the generator is.
            place: In the run.
            rows: int64 (B,), where each sample stands in its source.
        """
        self.generator(device).manual_seed(seed_at(self._seed, *place))
        self._rows, self._draws, self._given = rows, 0, []
        if rows is not None and device.type == "cpu":  # a GPU draws faster than it compares
            seed, seen, _ = self._seen.get(place, (self._seed, rows, None))
            if seed != self._seed or not torch.equal(seen, rows):  # another split or run
                self._seen, self._kept = {}, 0
            *_, self._given = self._seen.setdefault(place, (self._seed, rows, []))

    def generator(self, device: torch.device) -> torch.Generator:
        """What belongs to a place is drawn from it."""
        mine = self._generator
        # cuda is cuda:0 for a generator, and is not equal to it
        if mine is None or (mine.device.type, mine.device.index or 0) != (device.type, device.index or 0):
            self._generator = mine = torch.Generator(device)
        return mine

    def __call__(self, *shape: int, device: torch.device) -> Tensor:
        """Of B samples (B, …), or of k draws each (k, B, features)."""
        if self._rows is None:
            return torch.randn(*shape, generator=self.generator(device), device=device)
        self._draws += 1
        if self._draws <= len(self._given) and self._given[self._draws - 1].shape == shape:
            return self._given[self._draws - 1].clone()
        draws, features = (shape[0], shape[2]) if len(shape) == 3 else (1, math.prod(shape[1:]))
        content = torch.stack([self._rows // HALF, self._rows % HALF], 1)
        noise = sample_noise(content, draws, features, seed_at(self._seed, self._draws)).view(shape)
        if self._draws == len(self._given) + 1 and self._kept + noise.numel() <= KEPT:
            self._given.append(noise.clone())  # its own: what is handed out may be changed
            self._kept += noise.numel()
        return noise

    @property
    def _seed(self) -> int:
        return torch.initial_seed() + self.later
