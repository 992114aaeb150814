"""Checkpoint files: written whole or not at all, found again, and read with a plain word on what is wrong."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from ..errors import UserError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and then renames: a process killed at any moment leaves the old file or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class EpochCheckpoint(ModelCheckpoint):
    """Saves at the end of epochs alone: Lightning need not ask at each step."""

    on_train_batch_end = Callback.on_train_batch_end


class StepCheckpoint(ModelCheckpoint):
    """Saves every so many steps, but not at an epoch's last: the epoch's end saves right after, and a run that resumes
    from between the two, and is killed and resumed again, would train an epoch twice.
    """

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args)


def find(ckpt_path: str, runs: Path, experiment: str | None) -> Path:
    """The file that ``--ckpt_path`` means: a path, or ``last`` or ``best`` of the newest run of an experiment.

    Args:
        ckpt_path: As given.
        runs: The folder of all runs, ``<runs>/<experiment>/version_<n>``.
        experiment: None: any.

    Raises:
        UserError: When there is no such file. Training never starts from scratch instead.
    """
    if ckpt_path not in ("last", "best"):
        if not (path := Path(ckpt_path)).is_file():
            raise UserError(f"--ckpt_path {ckpt_path}: there is no such file: give a .ckpt file, `last` or `best`")
        return path
    found = sorted(runs.glob(f"{experiment or '*'}/*/checkpoints/{ckpt_path}.ckpt"), key=lambda p: p.stat().st_mtime)
    if not found:
        where = runs / experiment if experiment else runs
        raise UserError(
            f"--ckpt_path {ckpt_path}: no run in {where} has a {ckpt_path}.ckpt: leave --ckpt_path out to start anew, "
            "or give a file"
        )
    return found[-1]


def run_folder(checkpoint: Path) -> Path | None:
    """The run that a checkpoint belongs to: the folder with ``config.yaml`` above ``checkpoints/``."""
    folder = checkpoint.resolve().parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of this project.

    Raises:
        UserError: When the file is truncated or no such checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError) as error:
        raise UserError(f"{path}: truncated or no checkpoint ({type(error).__name__}): give another one") from error
    if not isinstance(content, dict) or "state_dict" not in content or "beta" not in content:
        raise UserError(f"{path}: holds no model of vae_lightning: give a checkpoint that `fit` has written")
    return content


def check(path: Path, content: dict[str, Any], model: nn.Module) -> None:
    """Raise a UserError if the checkpoint is another model's, or of another shape."""
    # other scores than the checkpoint's are fitted anew, so the detector may differ
    saved, wanted = (
        {key: value for key, value in state.items() if not key.startswith("detector.")}
        for state in (content["state_dict"], model.state_dict())
    )
    of = content.get("hyper_parameters", {}).get("_class_path", "").rsplit(".", 1)[-1]
    hint = "give the configuration that it was trained with, or leave --config out to use the one saved beside it"
    if of and of != type(model).__name__:
        raise UserError(
            f"{path}: the checkpoint's model is {of}, the configuration says {type(model).__name__}: {hint}"
        )
    for key in sorted(saved.keys() ^ wanted.keys()):
        side = "checkpoint" if key in saved else "configuration"
        raise UserError(f"{path}: only the {side} has `{key}`: {hint}")
    for key, value in saved.items():
        if value.shape != wanted[key].shape:
            raise UserError(
                f"{path}: `{key}` is {list(value.shape)} in the checkpoint and {list(wanted[key].shape)} in the "
                f"configuration: {hint}"
            )
