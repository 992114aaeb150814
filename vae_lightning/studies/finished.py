"""Finished runs, out of their folders."""

from __future__ import annotations

import glob
import json
import math
import re
import sys
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from sklearn.metrics import roc_auc_score

from ..errors import UserError, blaming, one_line
from ..files import read_yaml
from ..training.callbacks.metrics import SCORES
from ..training.runs import RESULTS
from .curves import scalars
from .settings import defaults, leaves

# keys that say where a run lies and what is watched, and nothing about what it comes to
BYSTANDERS = re.compile(
    r"(runs|experiment|ckpt_path|weights_only|checkpoint_every_n_steps|pictures\..*|data\..*(num_workers|on_device)"
    r"|trainer\.(logger|enable_\w+|default_root_dir|profiler|num_sanity_val_steps|log_every_n_steps|\w+registry))(\..*)?"
)


@dataclass
class Run:
    """A finished run, out of its folder.

    Attributes:
        folder: Where it lies.
        settings: Its configuration on one level: ``model.network.hidden: [400]``.
        metrics: Its outcome, with ``epochs`` and ``seconds``.
        unset: Of its classes' arguments, those left at a default of None.
    """

    folder: Path
    settings: dict[str, Any]
    metrics: dict[str, float]
    unset: frozenset[str] = frozenset()

    @cached_property
    def scores(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Test labels (N,) and the scores (N,) that decide; None where there are none of the test in ``metrics``."""
        path, found = self.folder / SCORES, read_scores(self.folder)
        if found is None:
            _note(f"{self.folder} has no {SCORES}, so no ROC curve: `test` with its checkpoint writes it")
            return None
        labels, scores = found[0], np.nan_to_num(found[1])  # the largest number for infinity
        if len(np.unique(labels)) < 2:
            _note(f"{path} holds no anomalies, so no ROC curve")
            return None
        auroc = float(roc_auc_score(labels, scores))
        if abs(auroc - self.metrics.get("test/auroc", auroc)) > 1e-5:
            _note(f"{path} is of another test than {RESULTS} (AUROC {auroc:.4f}), so no ROC curve of it")
            return None
        return labels, scores

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """Every logged scalar of training and validation as {epoch: value}."""
        with blaming(f"{self.folder}: its TensorBoard events are damaged: leave the run out"):
            curves = scalars(self.folder)
        if not curves:
            _note(f"{self.folder} has no TensorBoard events, so no training curves")
        return curves


def find(patterns: list[str]) -> list[Path]:
    """The folders that paths and patterns mean, each once, version_2 before version_10."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        folders = [Path(pattern)]
        if not folders[0].exists():
            folders = [path for name in glob.glob(pattern, recursive=True) if (path := Path(name)).is_dir()]
        if not folders:
            raise UserError(f"{pattern}: no folder matches: give folders of runs, <runs>/<experiment>/version_<n>")
        for folder in sorted(folders, key=_natural):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def read(folder: Path) -> Run:
    """A finished run's settings and results.

    Raises:
        UserError: When the folder is no run, the run is not finished, or a file is damaged.
    """
    config, results = folder / "config.yaml", folder / RESULTS
    if not config.is_file():
        hint = f"{folder}/*" if any(folder.glob("*/config.yaml")) else "<runs>/<experiment>/version_<n>"
        raise UserError(f"{folder} is not a run (it has no config.yaml): give {hint}")
    if not results.is_file():
        raise UserError(
            f"{folder} is not finished (it has no {RESULTS}): leave it out, or resume it: "
            f"fit --ckpt_path {folder}/checkpoints/last.ckpt"
        )
    try:
        content = json.loads(results.read_text())
        figures = {name: _figure(name, value) for name, value in content["metrics"].items()}
        metrics = figures | {name: _finite(name, content[name]) for name in ("epochs", "seconds")}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{results}: damaged ({one_line(error)}): leave the run out, or train it again") from error
    content = read_yaml(config, "configuration: leave the run out")
    with blaming(f"{config}: damaged: leave the run out"):
        return _run(folder, content, metrics)


def _run(folder: Path, content: dict[str, Any], metrics: dict[str, float]) -> Run:
    # an option that is null is one that is not there: later versions may add more of them
    left = dict(defaults(content))
    unset = frozenset(key for key, value in left.items() if value is None)
    settings = {**left, **dict(leaves(content))}
    settings = {k: v for k, v in settings.items() if v is not None and not BYSTANDERS.fullmatch(k)}
    return Run(folder, settings, metrics, unset)


def read_scores(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels (N,) and the scores (N,) that decide, of a run's test; None where it has left none.

    Raises:
        UserError: When the file is damaged.
    """
    path = folder / SCORES
    if not path.is_file():
        return None
    try:
        with np.load(path) as file:
            labels, scores = file["labels"], file[file.files[0]]
        if not (labels.shape == scores.shape == (len(labels),)) or {labels.dtype.kind, scores.dtype.kind} - set("iufb"):
            raise ValueError(f"labels {list(labels.shape)}, scores {list(scores.shape)}")
    except (
        ValueError,
        OSError,
        KeyError,
        IndexError,
        TypeError,
        BadZipFile,
        EOFError,
        MemoryError,
        zlib.error,
    ) as error:
        said = f"damaged ({one_line(error)}): `test` with the run's checkpoint writes it again"
        raise UserError(f"{path}: {said}") from error
    return labels, scores


def _figure(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} = {value!r} is not a number")
    return float(value)


def _finite(name: str, value: Any) -> float:
    if not math.isfinite(_figure(name, value)):
        raise ValueError(f"{name} = {value} is not finite")
    number: float = value
    return number


def _note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)
