"""What a loader hands to a model: the one thing that data and models both know."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NORMAL, ANOMALY = 0, 1


class Batch(NamedTuple):
    """What every loader hands out.

    Attributes:
        x: (B, *raw_shape), raw: uint8 images, numbers as the table holds them. Preprocessing is the model's.
        label: int64 (B,), ``NORMAL`` or ``ANOMALY``.
        target: int64 (B,), the data set's own class, −1 where it has none.
        row: int64 (B,), where the sample stands in the part of the data set that it comes from.
    """

    x: Tensor
    label: Tensor
    target: Tensor
    row: Tensor


def even_batches(samples: int, batch_size: int, batches: int | None = None) -> list[int]:
    """The sizes of batches, as even as can be.

    A last batch of one sample would stop batch norm, and weigh as much as the others.

    Args:
        samples: To be handed out.
        batch_size: Of a batch at most.
        batches: How many there are to be. None: as few as ``batch_size`` allows.
    """
    batches = -(-samples // batch_size) if batches is None else batches
    small, larger = divmod(samples, max(1, batches))
    return [small + (i < larger) for i in range(batches)]
