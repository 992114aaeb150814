"""What can be wrong with a data module's arguments and with what it loads: one line each, before anything is made."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from torch import Tensor

from ..detection.preprocessing import Preprocessing
from ..errors import UserError

if TYPE_CHECKING:
    from .base import AnomalyDataModule
    from .splits import Part, Sources

SEEDS = 2**32  # NumPy's
CORES = max(16, os.cpu_count() or 1)  # more processes than that do not make anything faster


def check_arguments(data: AnomalyDataModule) -> None:
    """Raise a UserError for what cannot be meant."""
    _check_preprocessing(data)
    _check_shares(data)
    _check_classes(data)
    other = data.anomalies_from
    if other is not None and list(other.input_shape) != list(data.input_shape):
        raise UserError(
            f"{_name(data)}: anomalies_from {_name(other)} has shape {list(other.input_shape)}, not "
            f"{list(data.input_shape)}"
        )


def _check_preprocessing(data: AnomalyDataModule) -> None:
    if not isinstance(found := getattr(data, "preprocessing", None), Preprocessing):
        raise UserError(
            f"{_name(data)}: preprocessing = {found} does not say what its samples are: give the class an attribute "
            "preprocessing = Images() for uint8 images, Standardize() for a table, or Unchanged() for prepared float32"
        )


def _check_shares(data: AnomalyDataModule) -> None:
    for key, good in (
        ("val_fraction", 0 < data.val_fraction < 1),
        ("calibration_fraction", data.calibration_fraction is None or 0 <= data.calibration_fraction < 1),
        ("test_anomalies", 0 < data.test_anomalies <= 1),
        ("contamination", 0 <= data.contamination < 1),
    ):
        if not good:
            raise UserError(
                f"{_name(data)}: {key} = {getattr(data, key)} is not a share: give a number between 0 and 1"
            )
    for key in ("batch_size", "eval_batch_size"):
        if (value := getattr(data, key)) < 1:
            raise UserError(f"{_name(data)}: {key} = {value} must be at least 1")
    if not isinstance(data.seed, int) or not 0 <= data.seed < SEEDS:
        raise UserError(f"{_name(data)}: seed = {data.seed} is not a whole number from 0 to below 2**32")
    if not 0 <= data.num_workers <= CORES:
        raise UserError(
            f"{_name(data)}: num_workers = {data.num_workers}: give 0 to {CORES}; here are {os.cpu_count()} cores"
        )
    if not 0 < data.val_anomalies < math.inf:
        raise UserError(f"{_name(data)}: val_anomalies = {data.val_anomalies} must be a positive number")


def _check_classes(data: AnomalyDataModule) -> None:
    name, everything = _name(data), set(range(len(data.classes)))
    for key in ("normal_classes", "anomaly_classes"):
        chosen = getattr(data, key)
        if chosen is not None and (not chosen or not set(chosen) <= everything):
            raise UserError(
                f"{name}: {key} = {chosen} must name at least one class out of 0 to {len(data.classes) - 1}"
            )
    normal, anomalous = data.division()
    if not normal:
        raise UserError(f"{name}: anomaly_classes = {anomalous} leaves nothing normal: leave a class out")
    if both := sorted(set(normal) & set(anomalous)):
        raise UserError(f"{name}: class {both[0]} is in normal_classes and in anomaly_classes: it can only be in one")
    if data.anomalies_from is not None and data.anomaly_classes is not None:
        raise UserError(f"{name}: anomaly_classes and anomalies_from are both given: leave one of them out")


def check_sources(data: AnomalyDataModule, sources: Sources) -> None:
    """Raise a UserError for samples that ``data.preprocessing`` does not take, and for what is no number."""
    train, test, other_train, other_test = sources
    if other_train.x.dtype != train.x.dtype:
        raise UserError(
            f"{_name(data)}: anomalies_from {_name(data.anomalies_from)} holds {other_train.x.dtype}, not "
            f"{train.x.dtype}: images go with images, features with features"
        )
    for part, which in ((train, "training"), (test, "test")):
        _check_part(data, part, which)
    if data.anomalies_from is not None:
        for part, which in ((other_train, "training"), (other_test, "test")):
            _check_part(data, part, f"{_name(data.anomalies_from)}'s {which}")


def _check_part(data: AnomalyDataModule, part: Part, which: str) -> None:
    # what lies in a file was checked before it was written
    x = part.x if isinstance(part.x, Tensor) else part.x[:1]
    try:
        data.preprocessing.check(x, data.preprocessing.raw_shape(data.input_shape))
    except UserError as error:
        raise UserError(f"{_name(data)}: the {which} part does not suit its preprocessing: {error}") from None
    if part.target.shape != part.x.shape[:1]:
        raise UserError(
            f"{_name(data)}: the {which} part has {len(part.x)} samples and classes of shape {list(part.target.shape)}"
        )
    if (place := not_finite(x, data.preprocessing.takes_missing)) is not None:
        row, *feature = place
        what = "infinity" if data.preprocessing.takes_missing else "NaN or infinity"
        raise UserError(
            f"{_name(data)}: sample {row} holds {what} in column {', '.join(map(str, feature))} ({which} "
            "part): correct it or leave it out"
        )


def not_finite(x: Tensor, takes_missing: bool = False) -> tuple[int, ...] | None:
    """Where the first NaN or infinity lies, the first infinity where NaN is taken; None if there is none."""
    if not x.is_floating_point() or not (wrong := x.isinf() if takes_missing else ~x.isfinite()).any():
        return None
    return tuple(wrong.nonzero()[0].tolist())


def _name(data: AnomalyDataModule | None) -> str:
    return type(data).__name__
