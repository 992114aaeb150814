"""The file of a detector: a checkpoint of ``fit``, or what ``Detector.save`` has written. Found, read and written.

Both hold tensors and primitives alone and are read with ``weights_only``; what the model is made of is a recipe, see
``recipe``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, one_line
from ..files import whole
from ..recipe import build

KEY = "vae_lightning"  # of what this package puts into a checkpoint
FORMAT = 2  # 1: preprocessing in the data module's state, thresholds without calibration scores
RECALIBRATE = "call Detector.calibrate with normal samples that nothing else has seen"


def versions() -> dict[str, str]:
    """Of this package and what it computes with, for the file's card."""
    return {name: _version(name) for name in ("vae_lightning", "torch", "lightning")}


_version = cache(version)  # it reads files


def find(
    path: str | Path, which: str = "best", runs: str | Path = "lightning_logs", experiment: str | None = None
) -> Path:
    """The checkpoint that is meant.

    Args:
        path: A file; a run's folder; or ``best`` or ``last``, of the newest run.
        which: Of a run's folder: ``best``, or else ``last`` where there is no best one; or ``last``.
        runs: The folder of all runs, ``<runs>/<experiment>/version_<n>``.
        experiment: Of whose runs the newest one is; None: of all.

    Raises:
        UserError: When there is none.
    """
    if which not in ("best", "last"):
        raise UserError(f"which = {which} is neither best nor last")
    if str(path) in ("best", "last"):
        return newest(str(path), Path(runs), experiment)
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


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of this package, brought to the present format.

    Raises:
        UserError: When it is damaged, not of this package, or of a later format.
    """
    return current(load(path), path)


def load(path: Path) -> Any:
    """What is in a file, whatever it is: tensors and primitives.

    Raises:
        UserError: When it is no checkpoint, not what was written, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes a checksum of each tensor, and does not look at it
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no error of its own for the many ways in which a file can be none
        what = f"damaged, truncated or no checkpoint ({type(error).__name__})"
        raise UserError(f"{path}: {what}: give another one{_beside(path)}") from error


def _beside(path: Path) -> str:
    """The other checkpoint of the same run, if there is one."""
    name = {"last.ckpt": "best.ckpt", "best.ckpt": "last.ckpt"}.get(path.name)
    return f", such as {path.with_name(name)}" if name and path.with_name(name).is_file() else ""


def current(content: Any, path: Path) -> dict[str, Any]:
    """The content of the file ``path`` in the present format; raises as ``read`` does."""
    if isinstance(content, dict) and KEY not in content and _is_old(content):
        content = _upgraded(content)
    about = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: holds no model of vae_lightning: give a checkpoint that `fit` wrote")
    if not isinstance(about["format"], int) or about["format"] != FORMAT:
        writer = about["versions"].get("vae_lightning") if isinstance(about.get("versions"), dict) else None
        raise UserError(
            f"{path}: written by vae_lightning {writer or 'of another version'} in format {about['format']}; this one "
            f"reads formats up to {FORMAT}: install that version, or train again"
        )
    if not _is_whole(content):
        raise UserError(f"{path}: damaged: weights or recipe are missing or not what they should be: give another one")
    return content


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether all is there that ``restore`` needs, and of the right kind."""
    state, model, trained_on = content.get("state_dict"), content[KEY].get("model"), content[KEY].get("trained_on")
    return (
        isinstance(state, dict)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())
        and isinstance(model, dict)
        and isinstance(model.get("class_path"), str)
        and isinstance(model.get("init_args"), dict)
        and isinstance(trained_on, dict)
    )


def _check_numbers(state: dict[str, Tensor], model: Any) -> None:
    """Raise a UserError for what no training leaves: weights that are no numbers, and scores out of order.

    Args:
        state: Of a file.
        model: That it is for. Its buffers may hold infinity, as the last knots of a table's column do.
    """
    kinds = {key: value.dtype for key, value in model.state_dict().items()}
    weights = {key for key, _ in model.named_parameters()}
    for key, value in state.items():
        if kinds.get(key, value.dtype).is_floating_point != value.dtype.is_floating_point:
            raise UserError(f"damaged: `{key}` holds {value.dtype}: give another one")
        no_number = value.isnan() | (value.isinf() & (key in weights))
        if not key.startswith("thresholds.") and no_number.any():
            raise UserError(f"damaged: `{key}` holds NaN or infinity: give another one")
        if key.endswith(".calibration") and not (value.isfinite().all() and (value.diff() >= 0).all()):
            raise UserError(f"damaged: `{key}` holds NaN, or is not in order: give another one")


def _try_out(model: Any) -> None:
    """Score the raw samples that come with a file: recipe and weights then go together.

    They were among those that the thresholds were fitted on, whose scores are finite, or there would be no threshold.
    """
    if model.canary is None or not model.detector.calibrated:
        return
    with torch.no_grad():
        found = model.detector.graph(model.canary).each
    if damaged := [name for name, score in found.items() if not score.isfinite().all()]:
        raise UserError(f"damaged: {damaged[0]} of its own calibration samples is NaN or infinite: give another one")


def write(content: dict[str, Any], path: Path) -> None:
    """Write beside the target and then rename: a process killed at any moment leaves the old file or the new one.

    Raises:
        UserError: When there is no room, or no folder any more; the previous file is intact.
    """
    try:
        with whole(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch says something about positions where the disk is full
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        said = (isinstance(cause, OSError) and cause.strerror) or one_line(cause or error)
        raise UserError(f"{path}: cannot be written ({said}): the previous file is intact") from error


def _is_old(content: dict[str, Any]) -> bool:
    """Whether a command line of version 0.1 has written it."""
    given, state = content.get("hyper_parameters"), content.get("state_dict")
    return isinstance(given, dict) and isinstance(given.get("_class_path"), str) and isinstance(state, dict)


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of version 0.1 in the present format; its thresholds have to be calibrated again."""
    given = {k: v for k, v in content["hyper_parameters"].items() if not k.startswith("_")}
    model = {"class_path": content["hyper_parameters"]["_class_path"], "init_args": _modern(given)}
    shape = given.get("input_shape")
    statistics = next((v for v in content.values() if isinstance(v, dict) and set(v) == {"mean", "std"}), {})
    mean, std = statistics.get("mean"), statistics.get("std")
    prepares = (
        "Images" if isinstance(shape, list) and len(shape) == 3 else "Standardize" if mean is not None else "Unchanged"
    )
    model["init_args"]["preprocessing"] = {"class_path": f"vae_lightning.detection.preprocessing.{prepares}"}
    state = {str(key).removeprefix("detector."): value for key, value in content["state_dict"].items()}
    for key in [key for key in state if key.startswith("thresholds.")]:
        state |= {key: torch.tensor(torch.nan), f"{key.removesuffix('value')}calibration": torch.empty(0)}
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        state |= {"preprocessing.mean": mean, "preprocessing.mean_low": torch.zeros_like(mean)}
        state |= {"preprocessing.std": std}
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
        content: As ``read`` gives it.
        trust: See ``load``.
        where: What messages call the file.

    Raises:
        UserError: When recipe and weights do not go together, or name what is not known.
    """
    about = content[KEY]
    drawn = torch.get_rng_state()  # a network draws its first weights: loading a file is to leave no trace
    try:
        model = build(about["model"], trust, where)
        if not all(hasattr(model, name) for name in ("preprocessing", "scores", "thresholds")):
            raise UserError(f"{where}: {about['model']['class_path']} is not a model")
        _check_numbers(content["state_dict"], model)
        model.load_state_dict(content["state_dict"])
        model.trained_on = dict(about["trained_on"])
        model.canary = about.get("canary")
        model.eval()
        _try_out(model)
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error
    except Exception as error:  # whatever a recipe leads to that nobody wrote on purpose
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: its recipe and its weights do not match: {reason}") from error
    finally:
        torch.set_rng_state(drawn)
    return model
