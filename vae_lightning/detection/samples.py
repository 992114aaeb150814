"""What a detector is handed, whatever it is, as raw samples: tensors that the preprocessing takes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..frames import as_samples, is_samples
from ..schema import Schema
from .preprocessing import Preprocessing


class Samples:
    """Raw samples in batches, checked; one pass over them.

    Args:
        x: An array, a tensor, a table, or an iterable of batches of these.
        preprocessing: What they are for.
        shape: Of one raw sample.
        columns: Names of a table's columns, in order, None if they have none.
        schema: What the columns are, None if they are numbers.

    Raises:
        UserError: When x is none of these; in the pass for whatever samples cannot be.
    """

    def __init__(
        self,
        x: Any,
        preprocessing: Preprocessing,
        shape: list[int],
        columns: list[str] | None = None,
        schema: Schema | None = None,
    ) -> None:
        if not is_samples(x) and not isinstance(x, Iterable):
            raise UserError(
                f"{type(x).__name__} holds no samples: give an array, a tensor, a table, or batches of them"
            )
        self.parts = [x] if is_samples(x) else x
        self.preprocessing, self.shape, self.columns, self.schema = preprocessing, shape, columns, schema
        self.rows = 0
        self.unknown: Counter[str] = Counter()
        self.extra: dict[str, None] = {}

    def __iter__(self) -> Iterator[Tensor]:
        for part in self.parts:
            for raw in self._encoded(part):
                self.preprocessing.check(raw, self.shape)
                check_finite(raw, self.rows, self.columns, self.preprocessing.takes_missing)
                self.rows += len(raw)
                yield raw
        if self.extra:
            names = ", ".join(self.extra)
            warnings.warn(f"columns that the detector does not know are left out: {names}", stacklevel=4)
        if self.unknown:
            counts = ", ".join(f"{name} {count:,}" for name, count in self.unknown.items())
            what = f"categories that no training row had, in {self.rows:,} rows: {counts}"
            warnings.warn(what, stacklevel=4)

    def _encoded(self, part: Any) -> Iterator[Tensor]:
        if self.schema is None:
            yield as_samples(part, self.columns)
            return
        for found in self.schema.encode_batches(part, self.rows):
            self.unknown.update(found.unknown)
            self.extra.update(dict.fromkeys(found.extra))
            yield found.x


def check_finite(
    raw: Tensor, first_row: int = 0, columns: Sequence[str] | None = None, takes_missing: bool = False
) -> None:
    """Raise a UserError that names row and column if a raw sample (N, …) holds infinity or, unless taken, NaN."""
    if not raw.is_floating_point() or not raw.numel():
        return
    # NaN is the extreme of numbers that it is among: where both are finite, all are
    if not takes_missing and all(extreme.isfinite() for extreme in raw.aminmax()):
        return
    if (wrong := raw.isinf() if takes_missing else ~raw.isfinite()).any():
        row, *place = wrong.nonzero()[0].tolist()
        column = columns[place[0]] if columns else ", ".join(map(str, place))
        value = raw[(row, *place)].item()
        raise UserError(f"row {first_row + row}, column {column} is {value}: fill it in, or leave the row out")
