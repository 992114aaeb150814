"""The file of a detector: a checkpoint of ``fit``, or what ``Detector.save`` has written. Found, read and written.

Both hold tensors and primitives alone and are read with ``weights_only``; what the model is made of is a recipe, see
:mod:`vae_lightning.recipe`.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..recipe import build

KEY = "vae_lightning"  # of what this package puts into a checkpoint
FORMAT = 2  # 1: preprocessing in the data module's state, thresholds without calibration scores
RECALIBRATE = "`test --ckpt_path` of a run, or Detector.calibrate with normal samples that nothing else has seen"


def versions() -> dict[str, str]:
    """Of this package and what it computes with, for the file's card."""
    return {name: version(name) for name in ("vae_lightning", "torch", "lightning")}


def find(path: str | Path, which: str = "best", runs: str | Path = "lightning_logs") -> Path:
    """The checkpoint that is meant.

    Args:
        path: A file; a run's folder; or ``best`` or ``last``, of the newest run.
        which: Of a run's folder: ``best``, or else ``last`` where there is no best one; or ``last``.
        runs: The folder of all runs, ``<runs>/<experiment>/version_<n>``.

    Raises:
        UserError: When there is none.
    """
    if str(path) in ("best", "last"):
        return newest(str(path), Path(runs))
    path = Path(path)
    if path.is_dir():
        for name in dict.fromkeys((which, "last")):
            if (file := path / "checkpoints" / f"{name}.ckpt").is_file():
                return file
        raise UserError(f"{path}: there is no checkpoints/{which}.ckpt in it: give the folder of a run, or a file")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file: give a .ckpt file, the folder of a run, `last` or `best`")
    return path


def newest(which: str, runs: Path, experiment: str | None = None) -> Path:
    """``<which>.ckpt`` of the newest run, of any experiment or one.

    Raises:
        UserError: When no run has one. Training never starts from scratch instead.
    """
    found = sorted(runs.glob(f"{experiment or '*'}/*/checkpoints/{which}.ckpt"), key=lambda p: p.stat().st_mtime)
    if not found:
        where = runs / experiment if experiment else runs
        raise UserError(f"{which}: no run in {where} has a {which}.ckpt: give a file, or train first")
    return found[-1]


def load(path: Path) -> Any:
    """What ``torch.save`` has written: tensors and primitives.

    Raises:
        UserError: When the file is damaged, or holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise UserError(f"{path}: truncated or no checkpoint ({type(error).__name__}): give another one") from error


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of this package, brought to the present format.

    Raises:
        UserError: When it is damaged, not of this package, or of a later format.
    """
    content = load(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path}: holds no model of vae_lightning: give a checkpoint that `fit` has written")
    if KEY not in content and "_class_path" in content.get("hyper_parameters", {}):
        content = _upgraded(content)
    about = content.get(KEY)
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: holds no model of vae_lightning: give a checkpoint that `fit` has written")
    if about["format"] != FORMAT:
        writer = about.get("versions", {}).get("vae_lightning", "another version")
        raise UserError(
            f"{path}: written by vae_lightning {writer} in format {about['format']}; this one reads formats up to "
            f"{FORMAT}: install that version, or train again"
        )
    return content


def write(content: dict[str, Any], path: Path) -> None:
    """Write beside the target and then rename: a process killed at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of version 0.1 in the present format; its thresholds have to be calibrated again."""
    given = {k: v for k, v in content["hyper_parameters"].items() if not k.startswith("_")}
    model = {"class_path": content["hyper_parameters"]["_class_path"], "init_args": _modern(given)}
    shape = given.get("input_shape") or []
    statistics = next((v for v in content.values() if isinstance(v, dict) and set(v) == {"mean", "std"}), {})
    mean, std = statistics.get("mean"), statistics.get("std")
    prepares = "Images" if len(shape) == 3 else "Standardize" if mean is not None else "Unchanged"
    model["init_args"]["preprocessing"] = {"class_path": f"vae_lightning.detection.preprocessing.{prepares}"}
    state = {}
    for key, value in content["state_dict"].items():
        if not key.startswith("detector.thresholds."):
            state[key.removeprefix("detector.")] = value
    if mean is not None and std is not None:
        state |= {
            "preprocessing.mean": mean,
            "preprocessing.mean_low": torch.zeros_like(mean),
            "preprocessing.std": std,
        }
    about = {"format": FORMAT, "versions": {"vae_lightning": "0.1"}, "model": model, "trained_on": {}}
    return {**content, "state_dict": state, KEY: about}


def _modern(recipe: Any) -> Any:
    """Without the arguments that are no longer there."""
    if isinstance(recipe, list):
        return [_modern(item) for item in recipe]
    if isinstance(recipe, dict):
        return {k: _modern(v) for k, v in recipe.items() if k not in ("fit_on", "optimizer", "lr_scheduler")}
    return recipe


def restore(content: dict[str, Any], trust: Sequence[type] = (), where: str = "the checkpoint") -> Any:
    """The model of a checkpoint, with its weights and its thresholds, in evaluation mode.

    Args:
        content: As :func:`read` gives it.
        trust: See :meth:`vae_lightning.detection.detector.Detector.load`.
        where: What messages call the file.

    Raises:
        UserError: When recipe and weights do not go together, or name what is not known.
    """
    about = content[KEY]
    try:
        model = build(about["model"], trust, where)
        model.load_state_dict(content["state_dict"])
        model.trained_on = dict(about["trained_on"])
    except UserError:
        raise
    except Exception as error:  # whatever a recipe leads to that nobody wrote on purpose
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: its recipe and its weights do not go together: {reason}") from error
    return model.eval()
