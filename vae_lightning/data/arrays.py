"""Your own data in memory: arrays, tensors or tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..detection.preprocessing import Images, Standardize
from ..errors import UserError
from ..frames import columns_of
from .base import AnomalyDataModule
from .checks import not_finite
from .splits import Part, stratified

LARGEST_CLASS = 65_535


class Arrays(AnomalyDataModule):
    """NumPy arrays, tensors, or tables of pandas, polars or pyarrow as a data set.

    ``Arrays(x)`` is enough for a table of normal rows. The caller's arrays are never written to.

    Args:
        train: The training part, labelled or not: a table (N, D) of numbers, or ``images``.
        labels: Class numbers (N,), or booleans: 0 is normal and everything else anomalous, unless ``normal_classes``
            or ``anomaly_classes`` say otherwise. None: all of ``train`` is normal.
        test: The test part, with the same columns. None: a random ``test_fraction`` of ``train``.
        test_labels: Those of ``test``.
        images: Whether the samples are uint8 images, (N, H, W), (N, C, H, W), or (N, H, W, C) with 1, 3 or 4 channels;
            the last axis is that of the channels where its length is one of these and the second one's is not.
        classes: The names of the classes.
        test_fraction: Share of each class that becomes the test part when ``test`` is None, in [0, 1); 0: no test part.
        **kwargs: The split, see ``AnomalyDataModule``; its ``seed`` draws the test part as well.

    Attributes:
        columns: The names of a table's columns, None if it has none.

    Raises:
        UserError: For anything but finite numbers, fewer than two rows, no column, labels that do not match the rows,
            or a test part that does not match the training part.
    """

    def __init__(
        self,
        train: Any,
        labels: Any = None,
        test: Any = None,
        test_labels: Any = None,
        *,
        images: bool = False,
        classes: list[str] | None = None,
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        if not 0 <= test_fraction < 1:
            raise UserError(f"Arrays: test_fraction = {test_fraction} is not a share: give a number from 0 to below 1")
        if test is None and test_labels is not None:
            raise UserError("Arrays: test_labels are given and test is not: give both, or labels alone")
        self.images, self.test_fraction = images, test_fraction
        self.preprocessing = Images() if images else Standardize()
        self._x, self.columns = _samples(train, images, "train")
        if len(self._x) < 2:
            raise UserError(f"Arrays: train has {len(self._x)} rows: give two or more")
        self._target = _classes(labels, len(self._x), "labels")
        self._test = None if test is None else self._test_part(test, test_labels)
        self.input_shape = list(self._x.shape[1:])
        self.classes = self._names(classes)
        super().__init__(**kwargs)

    @property
    def default_anomaly_classes(self) -> list[int]:
        return list(range(1, len(self.classes)))

    def recipe(self) -> None:
        """None: it is its rows."""

    def load(self) -> tuple[Part, Part]:
        if self._test is not None:
            return Part(self._x, self._target), self._test
        train, test = stratified(self._target, self.test_fraction, self.seed)
        return Part(self._x[train], self._target[train], train), Part(self._x[test], self._target[test], test)

    def _test_part(self, test: Any, labels: Any) -> Part:
        x, columns = _samples(test, self.images, "test")
        if x.shape[1:] != self._x.shape[1:]:
            raise UserError(f"Arrays: test has samples of shape {list(x.shape[1:])}, not {list(self._x.shape[1:])}")
        if columns is not None and self.columns is not None and columns != self.columns:
            place = next(i for i, (a, b) in enumerate(zip(columns, self.columns, strict=True)) if a != b)
            raise UserError(f"Arrays: test has {columns[place]!r} where train has the column {self.columns[place]!r}")
        dtype = torch.promote_types(x.dtype, self._x.dtype)
        self._x = self._x.to(dtype)
        return Part(x.to(dtype), _classes(labels, len(x), "test_labels"))

    def _names(self, classes: list[str] | None) -> list[str]:
        """The names of the classes, which must be as many as there are."""
        targets = [self._target] if self._test is None else [self._target, self._test.target]
        n = 1 + max(int(target.max()) for target in targets if len(target))
        if classes is None:
            return ["normal", "anomaly"][:n] if n <= 2 else [str(c) for c in range(n)]
        if len(classes) < n:
            raise UserError(f"Arrays: classes = {classes} names {len(classes)}, and labels go up to {n - 1}")
        return list(classes)


def _samples(given: Any, images: bool, key: str) -> tuple[Tensor, list[str] | None]:
    """Images as uint8 (N, C, H, W), a table as floats (N, D) and its columns' names."""
    try:
        x, columns = columns_of(given)
    except UserError as error:
        raise UserError(f"Arrays: {key}: {error}") from None
    if images:
        return _images(x, key), None
    if x.ndim != 2:
        hint = ": say images=True for images" if x.ndim in (3, 4) else ""
        raise UserError(f"Arrays: {key} has shape {list(x.shape)}, not (rows, columns){hint}")
    if not x.shape[1]:
        raise UserError(f"Arrays: {key} has no columns")
    x = x if x.is_floating_point() else x.double()
    if (place := not_finite(x)) is not None:
        column = f"{place[1]} ({columns[place[1]]!r})" if columns else place[1]
        raise UserError(f"Arrays: {key} holds NaN or infinity in row {place[0]}, column {column}")
    return x, columns


def _images(x: Tensor, key: str) -> Tensor:
    if x.dtype != torch.uint8:
        kind = str(x.dtype).removeprefix("torch.")
        raise UserError(f"Arrays: {key} holds {kind}: images are uint8 from 0 to 255")
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or not x[:1].numel():
        raise UserError(f"Arrays: {key} has shape {list(x.shape)}, not (N, H, W), (N, C, H, W) or (N, H, W, C)")
    channels = (1, 3, 4)
    return x.movedim(3, 1).contiguous() if x.shape[3] in channels and x.shape[1] not in channels else x


def _classes(labels: Any, n: int, key: str) -> Tensor:
    """Class numbers as int64 (n,); without labels all are 0."""
    if labels is None:
        return torch.zeros(n, dtype=torch.int64)
    try:
        target, _ = columns_of(labels)
    except UserError as error:
        raise UserError(f"Arrays: {key}: {error}: give class numbers, 0 being normal") from None
    if list(target.shape) != [n]:
        raise UserError(f"Arrays: {key} has shape {list(target.shape)}, not [{n}], one for each row")
    target = target.double()  # whole numbers may come as floats
    bad = (target != target.floor()) | (target < 0) | ~(target <= LARGEST_CLASS)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise UserError(
            f"Arrays: {key} holds {target[row].item():g} in row {row}: classes are whole numbers from 0 to "
            f"{LARGEST_CLASS}, 0 being normal"
        )
    return target.long()
