"""Seeds of the places in a run that draw at random: an epoch's order, a step's noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BLOCK = 512  # neighbours whose seeds are made at once: to make one takes as long


def seed_at(seed: int, *place: int) -> int:
    """The seed of a generator, in [0, 2⁶⁴): a function of a run's own seed and a place, ``(rank, step)`` for one.

    NumPy promises the numbers of its SeedSequence for good, as Python does not those of ``hash``. Places with another
    number of coordinates are other places; a place is those of its block of 512 along the last coordinate.
    """
    *others, last = place
    return _block(seed, *others, last // BLOCK)[last % BLOCK]


@lru_cache(64)
def _block(seed: int, *place: int) -> list[int]:
    states: list[int] = np.random.SeedSequence(seed, spawn_key=place).generate_state(BLOCK, np.uint64).tolist()
    return states
