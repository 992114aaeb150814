"""A few normal samples that a detector keeps: explanations compare with them, an exported file is checked with them."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS, FEWEST, BYTES = 512, 4, 2**22  # kept at most; at least, however large; and in all


class Draw:
    """A uniform draw without replacement from samples that go by in batches; the same one each time.

    Samples, and no contributions of theirs: those depend on the score that is explained and take gradients for some,
    too dear for each validation of a training; of so few samples they are computed in a moment when they are asked for.

    Attributes:
        rows: At most 512 raw samples (n, *shape), fewer of large ones: 4 MiB in all, but at least four.
    """

    def __init__(self) -> None:
        self.rows, self._keys = torch.empty(0), torch.empty(0, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(0)

    def see(self, raw: Tensor) -> Tensor:
        """More samples (B, *shape) to draw from; gives them back."""
        capacity = max(FEWEST, min(ROWS, BYTES // max(1, raw[:1].nbytes)))
        keys = torch.cat([self._keys, torch.rand(len(raw), generator=self._generator, dtype=torch.float64)])
        kept = len(self._keys)
        best = keys.topk(min(capacity, len(keys))).indices.sort().values  # the largest of independent keys
        new = raw[(best[best >= kept] - kept).to(raw.device)].cpu()
        self.rows = torch.cat([self.rows[best[best < kept]], new]) if kept else new
        self._keys = keys[best]
        return raw
