"""A table's rows, as a schema encodes them, to what a network is given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from . import transforms
from .preprocessing import Preprocessing, as_double
from .statistics import Moments, Sample

Transform = Literal["none", "quantile", "blend", "log"]
FARTHEST = 1e9  # standard deviations; squares of what is farther out, added up over columns, are soon beyond float32


class Columns(Preprocessing):
    """Numbers standardised and filled in, a feature for each kind of gap, categories one-hot.

    Raw rows are what ``Schema`` makes of a table: numbers, codes, NaN for what is missing.
    Prepared ones have, in this order:

    - a feature for each number: (t(x) − mean) / standard deviation of normal training rows; the median where missing,
    - a feature for each column in ``gaps``, numeric or not: 1 where its value is missing, else 0,
    - a feature for each code of each category: 1 for the row's own, else 0; none is 1 where it is missing.

    t is the identity; or, against skew, ``log``: asinh(x / s), the logarithm of what is large beside s and linear
    below, with s the 5 % quantile of |x| where all have one sign, else its median; or ``quantile``: the normal score
    Φ⁻¹(rank), linear between 129 knots, and beyond the training's range by the slope from its middle to its end: what
    is out of range stays out of range. scikit-learn's PowerTransformer and QuantileTransformer are its relatives.
    ``blend`` is the sum of that normal score and the standardised number, brought to unit variance: distances then see
    both what is far away and what is rare. Of a column that is constant in training another value is as rare as n rows
    can tell: ±Φ⁻¹(1 − 1/2n) from one unit on.

    Prepared numbers end at ±10⁹: 3e38 where training has seen 0 alone is strange, and its score a number all the same.

    The same number gives the same bits as float32 or float64, whatever the batch.

    Args:
        codes: For each column, its number of codes (``Column.codes``): 0 for numbers, K + 2 for K levels.
        gaps: Which columns, by number, have a feature that says whether a value is missing: those in which training
            rows have gaps.
        transform: t, for all numbers.

    Attributes:
        mean, mean_low: float32 (numbers); their sum is the mean, to 48 bits, of x, or of t(x) under ``log``.
        std: float32 (numbers), 1 for what is constant.
        fill: float32 (numbers), the prepared median.
        scale: float32 (numbers), s.
        knots, knots_low: float32 (numbers, 129), ascending, standardised; their sum are the quantiles, +∞ where values
            are tied and fewer do.
        heights, slopes: float32 (numbers, 130), of the line that ends at a knot.
        shares: float32 (gaps + codes): how often each gap and code is there, (count + ½) / (rows + 1), never 0 or 1.

    Raises:
        UserError: When a column has one code, or there is none of the gaps' number.
    """

    dtypes = (torch.float32, torch.float64)
    wants = "rows that a schema has encoded, float32 or float64"
    takes_missing = True
    number_columns: Tensor
    gap_columns: Tensor
    code_columns: Tensor
    code_values: Tensor
    mean: Tensor
    mean_low: Tensor
    std: Tensor
    fill: Tensor
    scale: Tensor
    knots: Tensor
    knots_low: Tensor
    heights: Tensor
    slopes: Tensor
    shares: Tensor

    def __init__(self, codes: list[int], gaps: list[int] = [], transform: Transform = "none") -> None:  # noqa: B006
        super().__init__()
        if not codes or any(n < 0 or n == 1 for n in codes):
            raise UserError(f"Columns: codes = {codes} must hold 0 for each number, K + 2 for each category")
        if sorted(set(gaps)) != list(gaps) or not set(gaps) <= set(range(len(codes))):
            raise UserError(f"Columns: gaps = {gaps} must be columns from 0 to {len(codes) - 1}, ascending")
        if transform not in get_args(Transform):
            raise UserError(f"Columns: transform = {transform} is not one of {', '.join(get_args(Transform))}")
        self.codes, self.gaps, self.transform = list(codes), list(gaps), transform
        self.numbers = [i for i, n in enumerate(codes) if not n]
        self.categories = [i for i, n in enumerate(codes) if n]
        self._places("number_columns", self.numbers)
        self._places("gap_columns", self.gaps)
        self._places("code_columns", [i for i in self.categories for _ in range(codes[i])])
        codes_there = torch.tensor([float(code) for i in self.categories for code in range(codes[i])])
        self.register_buffer("code_values", codes_there, persistent=False)
        for name in ("mean", "mean_low", "std", "fill", "scale", "knots", "knots_low", "heights", "slopes", "shares"):
            self.register_buffer(name, torch.empty(0))

    def _places(self, name: str, columns: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(columns, dtype=torch.int64), persistent=False)

    # What a prepared row holds

    @property
    def width(self) -> int:
        """Features of a prepared row."""
        return len(self.columns)

    @property
    def columns(self) -> list[int]:
        """Which column each feature comes from."""
        return [*self.numbers, *self.gaps, *(i for i in self.categories for _ in range(self.codes[i]))]

    @property
    def groups(self) -> list[tuple[int, int]]:
        """First feature, and the one past the last, of each category."""
        ends = len(self.numbers) + len(self.gaps) + np.cumsum([0, *(self.codes[i] for i in self.categories)])
        return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))

    def raw_shape(self, input_shape: list[int]) -> list[int]:
        return [len(self.codes)]

    @property
    def fitted(self) -> bool:
        return len(self.shares) > 0 or (self.width == len(self.numbers) == self.mean.numel())

    # What is learnt

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn the statistics in one pass: exact mean and deviation; median and quantiles of 20,000 rows.

        Raises:
            UserError: Without any row, or for a column that float32 cannot hold (infinity among them).
        """
        moments, sample, counts = Moments(), Sample(), torch.zeros(self.width - len(self.numbers), dtype=torch.int64)
        for raw in batches:
            self.check(raw, [len(self.codes)])
            raw = raw.to(self.number_columns.device)
            numbers = as_double(raw[:, self.number_columns]).cpu()
            moments.update(numbers)
            sample.update(numbers)
            counts += torch.cat([part.sum(0) for part in self._ones(raw)]).cpu()
        if not moments.rows:
            raise UserError("Columns: there are no rows to fit on")
        self._set(shares=(counts + 0.5) / (moments.rows + 1))
        if not self.numbers:
            return
        values = [sample.column(i) for i in range(len(self.numbers))]
        values = [column if len(column) else np.zeros(1) for column in values]
        if self.transform == "log":
            scales = np.array([transforms.log_scale(column) for column in values])
            self._set(scale=torch.from_numpy(scales))
            values = [
                transforms.log(torch.from_numpy(column / s)).numpy() for column, s in zip(values, scales, strict=True)
            ]
            mean, std = (torch.cat(part) for part in zip(*map(transforms.moments, values), strict=True))
        else:
            mean, std = moments.mean, moments.std
        if not (good := mean.float().isfinite() & std.float().isfinite()).all():
            column = self.numbers[int((~good).nonzero()[0])]
            raise UserError(f"Columns: column {column} holds infinity, or numbers beyond float32")
        std = torch.where(std.float() < transforms.TINY, 1.0, std)
        self._set(mean=mean, mean_low=mean - mean.float().double(), std=std)
        medians = torch.tensor([np.median(column) for column in values], dtype=torch.float64) - mean
        if self.transform in ("quantile", "blend"):
            self._fit_knots([(column - m) / s for column, m, s in zip(values, mean.numpy(), std.numpy(), strict=True)])
            self._set(fill=self._normal_scores((medians / std)[None])[0])
        else:
            self._set(fill=medians.float() / self.std.cpu())

    def _fit_knots(self, values: list[np.ndarray]) -> None:
        lines = [transforms.normal_score_lines(column, self.transform == "blend") for column in values]
        knots, heights, slopes = (torch.from_numpy(np.stack(part)) for part in zip(*lines, strict=True))
        low = torch.where(knots.isfinite(), knots - knots.float().double(), 0.0)
        self._set(knots=knots, knots_low=low, heights=heights, slopes=slopes)

    def _set(self, **buffers: Tensor) -> None:
        for name, value in buffers.items():
            setattr(self, name, value.float().to(self.number_columns.device))

    # What it does

    def forward(self, raw: Tensor) -> Tensor:
        if not self.fitted:
            raise UserError("Columns is not fitted: fit it on normal training rows, or load a state_dict")
        self.check(raw, [len(self.codes)])
        return torch.cat([self._prepared(raw[:, self.number_columns]), *(part.float() for part in self._ones(raw))], 1)

    def _ones(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Which columns' values are missing, and which codes are there: bool (B, gaps), (B, codes)."""
        return raw[:, self.gap_columns].isnan(), raw[:, self.code_columns] == self.code_values

    def _prepared(self, numbers: Tensor) -> Tensor:
        if not self.numbers:
            return numbers.float()
        exact = torch.float32 if numbers.device.type == "mps" else torch.float64  # which has no double
        x = numbers.to(exact)
        if self.transform == "log":
            x = transforms.log(x / self.scale.to(exact))
        centred = (
            (x - self.mean) - self.mean_low if exact == torch.float32 else x - (self.mean.double() + self.mean_low)
        )
        if self.transform in ("quantile", "blend"):
            x = self._normal_scores(centred / self.std.to(exact))
        else:
            x = centred.float() / self.std
        return torch.where(numbers.isnan(), self.fill, x.clamp(-FARTHEST, FARTHEST))

    # And back

    def fold(self, features: Tensor) -> Tensor:
        columns = torch.tensor(self.columns, device=features.device)
        return features.new_zeros(len(features), len(self.codes)).index_add(1, columns, features)

    def restore(self, x: Tensor) -> Tensor:
        """Numbers, the likeliest code of each category; NaN where a gap is likelier than not, or no code stands out."""
        x = as_double(x)
        raw = x.new_full((len(x), len(self.codes)), torch.nan)
        raw[:, self.numbers] = self._restored(x[:, : len(self.numbers)])
        for column, (start, end) in zip(self.categories, self.groups, strict=True):
            codes = x[:, start:end]
            raw[:, column] = codes.argmax(1).double().masked_fill(codes.sum(1) < 0.5, torch.nan)
        missing = x[:, len(self.numbers) : len(self.numbers) + len(self.gaps)] > 0.5
        raw[:, self.gaps] = raw[:, self.gaps].masked_fill(missing, torch.nan)
        return raw

    def _restored(self, numbers: Tensor) -> Tensor:
        """Prepared numbers, float64 (B, numbers), as they were."""
        if not self.numbers:
            return numbers
        if self.transform in ("quantile", "blend"):
            knots = as_double(self.knots) + as_double(self.knots_low)
            numbers = transforms.back(numbers, knots, as_double(self.heights), as_double(self.slopes))
        x = numbers * as_double(self.std) + (as_double(self.mean) + as_double(self.mean_low))
        return x.sinh() * as_double(self.scale) if self.transform == "log" else x

    def _normal_scores(self, x: Tensor) -> Tensor:
        """Standardised numbers (B, numbers) → float32 (B, numbers)."""
        knots = self.knots.to(x) + self.knots_low.to(x)
        return transforms.along(x, knots, self.heights.to(x), self.slopes.to(x)).float()
