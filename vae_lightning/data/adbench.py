"""Tables with known anomalies, to compare detectors on: half of the normal rows train, everything else tests."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..detection.columns import Columns, Transform
from ..errors import UserError
from .base import AnomalyDataModule
from .checks import not_finite
from .splits import Part


class ADBench(AnomalyDataModule):
    """A data set of ADBench, or any file like them, in the protocol that semi-supervised detectors are compared in.

    Half of the normal rows are the training part (validation and calibration come out of it), the other half and all
    anomalies the test part; ``seed`` draws the halves. Of more than ``max_rows`` rows as many are drawn beforehand, as
    Livernoche et al. 2024, "On Diffusion Modeling for Anomaly Detection", have it. Han et al. 2022, "ADBench: Anomaly
    Detection Benchmark".

    Args:
        path: An NPZ file with X (N, D), numbers, and y (N,): 0 is normal, 1 anomalous.
        max_rows: Rows that are used at most.
        transform: Of all columns, see ``Columns``.
        **kwargs: The split, see ``AnomalyDataModule``.

    Raises:
        UserError: When there is no such file, or it holds something else.
    """

    classes = ["normal", "anomaly"]  # noqa: RUF012 (never changed)

    def __init__(self, path: str, max_rows: int = 50_000, transform: Transform = "none", **kwargs: Any) -> None:
        self.path, self.max_rows = path, max_rows
        self._x, self._y = read(Path(path))
        self.input_shape = [self._x.shape[1]]
        self.preprocessing = Columns([0] * self._x.shape[1], transform=transform)
        super().__init__(**kwargs)

    @property
    def default_anomaly_classes(self) -> list[int]:
        return [1]

    def load(self) -> tuple[Part, Part]:
        train, test = halves(self._y, self.seed, self.max_rows)
        x, y = torch.from_numpy(self._x), torch.from_numpy(self._y)
        return Part(x[train], y[train], train), Part(x[test], y[test], test)


def halves(y: np.ndarray, seed: int, max_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the training part and of the test part, ascending: half of the normal ones, and all others."""
    rows = np.random.default_rng(seed).permutation(len(y))[:max_rows]
    normal, anomalous = rows[y[rows] == 0], rows[y[rows] != 0]
    train, test = normal[: len(normal) // 2], np.concatenate([normal[len(normal) // 2 :], anomalous])
    return torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(test))


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """X float64 (N, D) and y int64 (N,) of a file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["X"], file["y"]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file: give an NPZ file with X and y") from None
    except (OSError, KeyError, ValueError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}: expected an NPZ file with X and y") from None
    if x.ndim != 2 or y.shape != x.shape[:1] or x.dtype.kind not in "biuf" or not np.isin(y, [0, 1]).all():
        raise UserError(f"{path}: X {x.dtype} {list(x.shape)}, y {list(y.shape)}: expected numbers (N, D), 0 or 1 (N,)")
    x = x.astype(np.float64)
    if (place := not_finite(torch.from_numpy(x))) is not None:
        raise UserError(f"{path}: row {place[0]}, column {place[1]} is NaN or infinite")
    return x, y.astype(np.int64)
