"""Checkpoints of a run: which are kept, how they are written, and whether one suits a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from ..detection import storage
from ..errors import UserError
from .resumption import LastCheckpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """A process killed at any moment leaves the old file or the new one; files are read with a plain word on faults."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        storage.write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        content = storage.load(Path(path))
        if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
            return content  # weights alone: how a process that Lightning has forked hands them to the one it came from
        return storage.current(content, Path(path))


class EpochCheckpoint(ModelCheckpoint):
    """Saves at the end of epochs alone: Lightning need not ask at each step."""

    on_train_batch_end = Callback.on_train_batch_end


def callbacks(every_n_steps: int | None = None, folder: Path | None = None) -> list[Callback]:
    """What keeps ``best.ckpt``, the epoch with the smallest ``val/objective``, and ``last.ckpt``.

    Args:
        every_n_steps: Save the last one so often too, not only at the end of each epoch.
        folder: For the files; None for the logger's.
    """
    keep: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False, "auto_insert_metric_name": False}
    return [EpochCheckpoint(filename="best", monitor="val/objective", **keep), LastCheckpoint(folder, every_n_steps)]


def optimizer_differences(content: dict[str, Any], model: Any) -> list[str]:
    """One line for each setting of the optimiser in which a checkpoint and the configuration disagree.

    Training goes on with the checkpoint's; those that a scheduler changes by itself are left out.
    """
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    moving = {"lr", "betas", "momentum"} if isinstance(configured, dict) else set()
    lines = []
    for state in content.get("optimizer_states", [])[:1]:
        for old, new in zip(state["param_groups"], optimizer.param_groups, strict=False):
            for key in sorted((old.keys() & new.keys()) - moving - {"params"}):
                if old[key] != new[key]:
                    lines.append(
                        f"optimizer.{key} is {new[key]} in the configuration and {old[key]} in the checkpoint: the "
                        "checkpoint wins"
                    )
    return list(dict.fromkeys(lines))


def run_folder(checkpoint: Path) -> Path | None:
    """The run that a checkpoint belongs to: the folder with ``config.yaml`` above ``checkpoints/``."""
    folder = checkpoint.resolve().parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def check(path: Path, content: dict[str, Any], model: nn.Module) -> None:
    """Raise a UserError if the checkpoint is another model's, or of another shape."""
    # other scores and thresholds than the checkpoint's are fitted anew, and preprocessing comes with the data
    own = "scores.", "thresholds.", "preprocessing."
    saved, wanted = (
        {key: value for key, value in state.items() if not key.startswith(own)}
        for state in (content["state_dict"], model.state_dict())
    )
    of = content[storage.KEY]["model"]["class_path"].rsplit(".", 1)[-1]
    hint = "give the configuration that it was trained with, or leave --config out to use the one saved with it"
    if of != type(model).__name__:
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


def check_columns(what: str, trained_on: dict[str, Any], data: Any) -> None:
    """Raise a UserError if a table's columns have become others than those of the table that was trained on.

    Args:
        what: What messages call the detector: its file.
        trained_on: What the detector keeps of its data.
        data: The data module.
    """
    saved, schema = trained_on.get("schema"), getattr(data, "schema", None)
    if saved is None or schema is None:
        return
    old, new = ({column["name"]: column for column in each["columns"]} for each in (saved, schema.to_json()))
    if changed := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
        raise UserError(
            f"{what}: {', '.join(changed[:4])}: columns, or their levels, are not those that it was trained on: leave "
            "--config out, or keep train as it was and give new rows as test"
        )
