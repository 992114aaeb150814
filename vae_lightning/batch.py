"""What a loader hands to a model: the one thing that data and models both know."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NORMAL, ANOMALY = 0, 1


class Batch(NamedTuple):
    """What every loader hands out.

    Attributes:
        x: float32 (B, *input_shape); images in [0, 1].
        label: int64 (B,), ``NORMAL`` or ``ANOMALY``.
        target: int64 (B,), the data set's own class, −1 where it has none.
    """

    x: Tensor
    label: Tensor
    target: Tensor
