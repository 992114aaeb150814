"""A few normal rows that a detector keeps: what an explanation compares with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..fitted import Fitted

ROWS, FEWEST, NUMBERS = 512, 16, 2**22  # kept at most, at least, and numbers in all


class Reference(Fitted):
    """At most 512 of the rows that a detector was calibrated with, drawn uniformly: raw, as buffers.

    Rows, and no contributions of theirs: those depend on the score that is explained and take gradients for some, too
    dear for each validation of a training; of so few rows they are computed in a moment when they are asked for. Large
    images are kept in fewer, at least 16: 4 million numbers in all. They travel in the detector's file;
    ``Detector.save(path, rows=False)`` leaves them out where rows must not leave the house.

    Attributes:
        rows: (n, *shape), of the raw samples' own type; doubles rounded to float32.
        rest: What the rounding took away, float32, for not every accelerator has doubles; empty for other types.
    """

    rows: Tensor
    rest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.empty(0))
        self.register_buffer("rest", torch.empty(0))

    @property
    def raw(self) -> Tensor | None:
        """The rows (n, *shape); None if there are none."""
        if not self.rows.numel():
            return None
        return self.rows if not self.rest.numel() else self.rows.cpu().double() + self.rest.cpu().double()

    def forget(self) -> None:
        """Keep none."""
        self.keep(Draw())

    def keep(self, draw: Draw) -> None:
        """Keep what was drawn, in place of what was kept before."""
        rows, device = draw.rows, self.rows.device
        rest = rows.new_empty(0, dtype=torch.float32)
        if rows.dtype == torch.float64:
            rest, rows = (rows - rows.float().double()).float(), rows.float()
        self.rows, self.rest = rows.to(device), rest.to(device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # files of before there were rows have none; and rows keep their type
        found = {prefix + name: state_dict.get(prefix + name, torch.empty(0)) for name in ("rows", "rest")}
        self.rows, self.rest = (torch.empty_like(saved, device=self.rows.device) for saved in found.values())
        super()._load_from_state_dict({**state_dict, **found}, prefix, *args)


class Draw:
    """A uniform draw without replacement from rows that come in batches; the same one each time."""

    def __init__(self) -> None:
        self.rows, self._keys = torch.empty(0), torch.empty(0, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(0)

    def add(self, raw: Tensor) -> None:
        """More rows (B, *shape) to draw from."""
        capacity = max(FEWEST, min(ROWS, NUMBERS // max(1, raw[:1].numel())))
        keys = torch.cat([self._keys, torch.rand(len(raw), generator=self._generator, dtype=torch.float64)])
        kept = len(self._keys)
        best = keys.topk(min(capacity, len(keys))).indices.sort().values  # the largest of independent keys
        new = raw[(best[best >= kept] - kept).to(raw.device)].cpu()
        self.rows = torch.cat([self.rows[best[best < kept]], new]) if kept else new
        self._keys = keys[best]
