"""Your own table: a file, a folder of parts or a DataFrame, with numbers, categories and missing values."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..detection.columns import Columns
from ..detection.preprocessing import Unchanged
from ..errors import UserError
from ..schema import Schema
from . import cache as files
from .base import AnomalyDataModule
from .delimited import MISSING
from .inference import Found, infer
from .labels import Marks, classes, read_marks
from .readers import Source, open_table
from .splits import Part, Sources, stratified

CALIBRATES = 10_000  # rows
ELSEWHERE = -2  # the class of a row in the part that it is not in

if TYPE_CHECKING:
    Rows = Any  # or a DataFrame, which a configuration cannot hold
else:
    Rows = str | Path


class Table(AnomalyDataModule):
    """Rows with numbers, categories and missing values, from files of any size or a DataFrame, as in
    ``Table("rows.csv")``.

    Column types are inferred from the whole file; if that is a guess, a warning says so. Levels of categories and the
    like are those of the training split alone.

    Encoded, a table of up to ``memory`` gigabytes is held in memory. A larger one is written into a file in ``cache``,
    whose size is announced beforehand, and gathered from in bounded memory; the file serves every later run, as long as
    table and schema are the same, and may be removed whenever none is running.

    Ten thousand rows calibrate, at most, unless ``calibration_fraction`` says otherwise: p-values are then multiples of
    1 / 10,001, and the false-alarm rate at α = 1 % is within 0.8 and 1.2 % for 95 of 100 calibration splits. More of
    them would sharpen neither to any purpose, and cost each p-value a search among them.

    Args:
        train: The training part: a CSV, Parquet, Arrow or NumPy file, a folder of such parts, or a DataFrame.
        test: The test part, with the same columns. None: ``test_fraction`` of ``train``.
        label: The column that says which rows are normal. None: all of them are; in an NPZ file ``y``, if it has one.
            If only the test part has it, the training part is normal.
        normal_labels: Its values that are normal, everything else being anomalous. None: 0, false or normal.
        time: The column of dates or numbers by which the latest rows are the test part. None: a random test part.
        id: The column that identifies rows; not a feature. ``predict`` copies it.
        ignore: Columns that are not features.
        numeric: Columns to read as numbers.
        categorical: Columns to read as categories.
        delimiter: Of CSV. None: a tab for ``.tsv``, else a comma.
        missing: What marks a missing value in CSV.
        max_levels: How many categories of a column, the most frequent, get their own code; the rest is ``other``.
        transform: Of numbers, against skew: see ``Columns``.
        test_fraction: Share of each class, or of the whole by time, that is the test part when ``test`` is None, in
            [0, 1); 0: no test part.
        cache: The folder for tables that are larger than ``memory``.
        memory: Gigabytes.
        schema: As a detector stores it; nothing is then inferred.
        **kwargs: The split, see ``AnomalyDataModule``; its ``seed`` draws the test part as well.

    Attributes:
        schema: What its columns are.
        columns: Their names.

    Raises:
        UserError: For a table that cannot be read or trained on: the message names file, row and column.
    """

    def __init__(
        self,
        train: Rows,
        test: Rows | None = None,
        *,
        label: str | None = None,
        normal_labels: list[str | int | bool] | None = None,
        time: str | None = None,
        id: str | None = None,
        ignore: list[str] = [],  # noqa: B006 (never changed; a signature that reads as the configuration does)
        numeric: list[str] = [],  # noqa: B006
        categorical: list[str] = [],  # noqa: B006
        delimiter: str | None = None,
        missing: list[str] = list(MISSING),  # noqa: B006
        max_levels: int = 50,
        transform: Literal["none", "quantile", "blend", "log"] = "none",
        test_fraction: float = 0.2,
        cache: str = "lightning_logs/cache",
        memory: float = 0.5,
        schema: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= test_fraction < 1:
            raise UserError(f"Table: test_fraction = {test_fraction} is not a share: give a number from 0 to below 1")
        if max_levels < 1:
            raise UserError(f"Table: max_levels = {max_levels} must be at least 1")
        if kwargs.get("anomalies_from") is not None:
            raise UserError("Table: anomalies_from is not for tables: give a test part with a label column")
        self.test_fraction, self.id, self._time = test_fraction, id, time
        self._folder, self._memory = Path(cache), memory * 1e9
        self._reading = delimiter, missing
        self._train = open_table(train, delimiter, missing, "train")
        self._test = None if test is None else open_table(test, delimiter, missing, "test")
        self._signatures = self._signature()
        label = label or self._train.label
        self._check_names([name for name in (time, id, *ignore, *numeric, *categorical) if name], label)
        self._mark(label, normal_labels)
        self.preprocessing, self.input_shape = Unchanged(), []  # until it is known what the columns are
        super().__init__(**kwargs)
        self._divide()
        self._beside = sorted({name for name in (label, time, id, *ignore) if name is not None})
        found = _given(schema) if schema else self._infer(set(self._beside), numeric, categorical, max_levels)
        self.schema, self.gaps, self.columns = found.schema, found.gaps, found.schema.names
        self.preprocessing = Columns([column.codes for column in self.schema], self.gaps, transform)
        self.input_shape = [self.preprocessing.width]
        for guess, names in found.guesses.items():
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            warnings.warn(f"{self._train.name}: {listed}: {guess}", stacklevel=2)

    @property
    def default_anomaly_classes(self) -> list[int]:
        return list(range(self._normal, len(self.classes)))

    def load(self) -> tuple[Part, Part]:
        if self._signature() != self._signatures:
            raise UserError(f"{self._train.name}: changed since its columns were looked at: start again")
        train = self._encoded(self._train, len(self._target))
        return self._parts(train, train if self._test is None else self._encoded(self._test, len(self._test_target)))

    def about(self) -> dict[str, Any]:
        delimiter, missing = self._reading
        reading = {"delimiter": delimiter, "missing": list(missing)}
        return {**super().about(), "schema": self.schema.to_json(), "id": self.id, "beside": self._beside, **reading}

    def recipe(self) -> Any:
        recipe = super().recipe()
        if recipe is not None:
            recipe["init_args"]["schema"] = {**self.schema.to_json(), "gaps": self.gaps}
        return recipe

    # What the rows are

    def _mark(self, label: str | None, normal_labels: Any) -> None:
        """Find the class of each row."""
        if self._test is not None and label is not None and label not in self._test.names:
            raise UserError(f"{self._test.name}: lacks the column {label!r}, which says what is normal")
        self._marks = self._kept(self._train, label if label in self._train.names else None, self._time)
        test = None if self._test is None else self._kept(self._test, label, None)
        self.classes, self._normal, self._target, other = classes(
            self._marks, test, label, normal_labels, self._train.name
        )
        self._test_target = self._target if other is None else other

    def _divide(self) -> None:
        """Take the test part out of the training part, unless it has a file of its own."""
        rows = self._marks.rows
        if self._test is None:
            if self._marks.time is None:
                train, test = stratified(self._target, self.test_fraction, self.seed)
            else:
                order = torch.from_numpy(self._marks.time.argsort(kind="stable"))
                train, test = order.tensor_split([rows - round(self.test_fraction * rows)])
            whole = self._target
            self._target, self._test_target = (whole.index_fill(0, part, ELSEWHERE) for part in (test, train))
        if self.calibration_fraction is None:
            normals = int(torch.isin(self._target, torch.tensor(self.division()[0])).sum())
            self.calibration_fraction = min(self.val_fraction, CALIBRATES / max(1, normals))

    def _parts(self, train: Any, test: Any) -> tuple[Part, Part]:
        return Part(train, self._target), Part(test, self._test_target)

    def _infer(self, beside: set[str], numeric: list[str], categorical: list[str], max_levels: int) -> Found:
        blank = [torch.empty(1, 0).expand(len(target), 0) for target in (self._target, self._test_target)]
        parts = self._parts(blank[0], blank[0] if self._test is None else blank[1])
        trained = np.zeros(len(self._target), bool)
        split: Any = self.divide(Sources(*parts, *parts))["train"]
        trained[split.rows] = True
        path = self._path(self._train, "columns", trained, sorted(beside), numeric, categorical, max_levels)
        if known := files.recall(path):
            return _given(known[0])
        found = infer(self._train, trained, beside, numeric, categorical, max_levels)
        if self._large(self._train, len(trained)):
            files.remember(path, {**found.schema.to_json(), "gaps": found.gaps, "guesses": found.guesses})
        return found

    # What is kept for the next run

    def _kept(self, source: Source, label: str | None, time: str | None) -> Marks:
        path = self._path(source, "rows", label, time)
        if known := files.recall(path):
            (rows, words), arrays = known
            return Marks(rows, arrays.get("label"), words, arrays.get("time"))
        marks = read_marks(source, label, time)
        if self._large(source, marks.rows):
            files.remember(path, [marks.rows, marks.words], label=marks.label, time=marks.time)
        return marks

    def _encoded(self, source: Source, rows: int) -> Any:
        """The rows as numbers, in memory or in a file."""
        if lacking := [name for name in self.columns if name not in source.names]:
            raise UserError(f"{source.name}: lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}")

        def batches() -> Iterator[Tensor]:
            return source.apply(lambda batch, first_row: self.schema.encode(batch, first_row).x, columns=self.columns)

        shape, dtype = (rows, len(self.schema)), np.dtype(self.schema.dtype)
        if not self._large(source, rows):
            return files.held(shape, dtype, batches())
        path = self._path(source, "numbers", self.schema.to_json()).with_suffix(".npy")
        return files.stored(path, shape, dtype, batches)

    def _large(self, source: Source, rows: int) -> bool:
        """Whether a file is too large for its numbers to be held in memory."""
        return rows * len(source.names) * 4 > self._memory and bool(source.signature())

    def _path(self, source: Source, what: str, *key: Any) -> Path:
        name = f"{Path(source.name).stem}-{what}-{files.key(source.signature(), self._reading, *key)}.npz"
        return self._folder / name

    def _signature(self) -> list[Any]:
        return [source.signature() for source in (self._train, self._test) if source is not None]

    def _check_names(self, names: list[str], label: str | None) -> None:
        """Refuse columns that are declared and not there."""
        known = list(dict.fromkeys([*self._train.names, *(self._test.names if self._test else [])]))
        for name in names:
            if name not in self._train.names:
                raise UserError(f"{self._train.name}: has no column {name!r}{_suggest(name, self._train.names)}")
        if label is not None and label not in known:
            raise UserError(f"{self._train.name}: has no column {label!r}, the label{_suggest(label, known)}")


def _given(content: dict[str, Any]) -> Found:
    """A schema as a detector or the cache keeps it."""
    schema = Schema.from_json({key: value for key, value in content.items() if key not in ("gaps", "guesses")})
    return Found(schema, list(content.get("gaps", [])), content.get("guesses", {}))


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {close[0]!r}?" if close else f": it has {', '.join(known[:12])}"
