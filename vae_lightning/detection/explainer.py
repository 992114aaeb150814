"""How explanations are made: what columns add to a score, and what the same columns add in normal rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..scores.contributions import Contributions
from ..scores.sharing import sharing
from .explanation import GRADIENTS, SUM, Explanation, order
from .modes import evaluating

if TYPE_CHECKING:
    from .detector import Detector

FEW = 128  # rows that are compared with where that takes gradients


class Explainer:
    """Explains sample after sample; what normal rows' columns add is computed once.

    Args:
        detector: Calibrated.
        name: Of the score; None for the one that decides.
        tries: Columns of each sample that are set to what was expected, to see what the score would be; tables alone.
    """

    def __init__(self, detector: Detector, name: str | None = None, tries: int = 3) -> None:
        detector.check_calibrated()
        if name is not None and name not in detector.names:
            raise UserError(f"there is no score {name}: the detector has {', '.join(detector.names)}")
        self.detector, self.name, self.tries = detector, name or detector.names[0], tries
        self.rows = detector.model.canary
        self.normal, self.ceiling = self._normal()

    @torch.no_grad()
    def __call__(self, x: Any) -> Explanation:
        found = list(self.detector.through(self._parts, x))
        if not found:
            raise UserError("there are no samples: the iterable of batches is empty")
        return self._explained(found)

    @torch.no_grad()
    def run(self, raw: Any) -> Explanation:
        """The same of what ``Schema.encode`` or a ``Decoder`` gave: its numbers are not checked again."""
        return self._explained([self.detector.through_encoded(self._parts, raw)])

    def _explained(self, parts: list[dict[str, Tensor]]) -> Explanation:
        found = [self._finished(part) for part in parts]
        columns = {key: np.concatenate([part[key].numpy() for part in found]) for key in found[0]}
        exact = bool(columns.pop("exact").all())
        names, schema = (self.detector.columns, self.detector.schema) if columns["value"].ndim == 2 else (None, None)
        rows = None if self.rows is None else self.rows.cpu().numpy()
        return Explanation(names, schema, SUM if exact else GRADIENTS, rows=rows, ceiling=self.ceiling, **columns)

    def _parts(self, raw: Tensor) -> dict[str, Tensor]:
        """What a batch of raw samples gives by itself."""
        model = self.detector.model
        x = model.prepared(raw)
        view = sharing(model, x)
        score = model.scores[self.name]
        found: Contributions = score.contributions(view, x)
        total, exact = score(view, x).float(), torch.full([len(x)], found.exact)
        parts = {"score": total, "contributions": found.features, "latent": found.latent, "base": found.base}
        expected = model.preprocessing.restore(view.reconstruct(x))
        return {**parts, "gap": total - found.total, "value": raw, "expected": expected, "exact": exact}

    def _finished(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """With what comparing with normal rows adds to it."""
        contributions = parts["contributions"]
        p_value, excess = torch.full_like(contributions, torch.nan), contributions
        if self.normal is not None:
            p_value, excess = p_values(self.normal, contributions), excesses(self.normal, contributions)
        value, expected = parts["value"], parts["expected"]
        without = self._without(value, expected, excess) if value.ndim == 2 else contributions.new_empty(len(value), 0)
        return {**parts, "p_value": p_value, "excess": excess, "without": without}

    def _without(self, value: Tensor, expected: Tensor, excess: Tensor) -> Tensor:
        """The score if one column were as expected, (N, D): of the worst columns, NaN elsewhere."""
        without = torch.full_like(excess, torch.nan)
        changed = value.to(torch.promote_types(value.dtype, expected.dtype))
        rows = torch.arange(len(value))
        with evaluating(self.detector.model):
            for place in torch.from_numpy(order(excess.numpy(), self.tries)).T:
                other = changed.clone()
                other[rows, place] = expected[rows, place].to(other)
                scores = self.detector.graph.scores(other.to(self.detector.device))[self.name]
                without[rows, place] = scores.cpu()
        return without

    # What is normal

    @torch.no_grad()
    def _normal(self) -> tuple[Tensor | None, float]:
        """What columns of normal rows add, ascending for each, (*shape, n); and what is a lot for a pixel."""
        if self.rows is None:
            return None, float("nan")
        parts = next(self.detector.through(self._parts, self.rows[:1]))
        rows = self.rows if parts["exact"].all() else self.rows[:FEW]
        found = torch.cat([part["contributions"] for part in self.detector.through(self._parts, rows)])
        heat = found.sum(1) if found.ndim == 4 else found
        return found.movedim(0, -1).sort(-1).values.contiguous(), float(np.quantile(heat.numpy(), 0.999))


def p_values(normal: Tensor, contributions: Tensor) -> Tensor:
    """The share of normal rows in which the same column adds as much: (*shape, n), (N, *shape) → (N, *shape)."""
    columns = contributions.movedim(0, -1).contiguous()
    n = normal.shape[-1]
    less = torch.searchsorted(normal, columns)
    return ((1 + n - less) / (n + 1)).float().movedim(-1, 0).masked_fill(contributions.isnan(), 1 / (n + 1))


def excesses(normal: Tensor, contributions: Tensor) -> Tensor:
    """How far above the normal median, in distances from there to the 95th percentile: shapes as for p_values."""
    n = normal.shape[-1]
    median, high = normal[..., (n - 1) // 2], normal[..., min(n - 1, int(0.95 * n))]
    spread = high - median
    # a column that never adds anything has no spread of its own: that of the others, so that rounding is not blamed
    floor = 1e-3 * spread.mean() + torch.finfo(torch.float32).tiny
    return (contributions - median) / spread.clamp_min(floor)
