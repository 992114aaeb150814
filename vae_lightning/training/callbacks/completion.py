"""What is kept can be used: every checkpoint of a run has thresholds that belong to its weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ...detection import storage
from ..resumption import LastCheckpoint


class Completion(Callback):
    """However a run ends, fits scores and thresholds of the checkpoints that are kept and have none.

    Scores are fitted at each validation; weights that were saved between two of them have no thresholds of their own.
    Here they get them: at the end of fit, and when it is interrupted.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.complete(trainer, pl_module)
        trainer.strategy.barrier("completion")  # nobody reads a file that is about to be replaced

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        stopped = isinstance(exception, (KeyboardInterrupt, SIGTERMException))
        if stopped and trainer.is_global_zero and trainer.state.fn == "fit":
            self.complete(trainer, pl_module)

    @staticmethod
    def complete(trainer: Trainer, model: Any) -> None:
        """Complete the files of all checkpoint callbacks."""
        for path in kept(trainer):
            content = storage.read(path)
            if all(len(v) for k, v in content["state_dict"].items() if _is_calibration(k)):
                continue
            other = copy.copy(model)  # the same trainer and data, weights of its own
            own = {name: vars(model)[name] for name in ("_modules", "_parameters", "_buffers")}
            vars(other).update(copy.deepcopy(own))
            other.trainer = trainer  # which no copy of a LightningModule keeps
            other.load_state_dict(content["state_dict"])
            other.fit_detector()
            content["state_dict"] = {key: value.cpu() for key, value in other.state_dict().items()}
            storage.write(content, path)


def kept(trainer: Trainer) -> list[Path]:
    """The files that the trainer's checkpoint callbacks have written and not removed again."""
    names: list[Any] = []
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            names += [callback.best_model_path, callback.last_model_path, *callback.best_k_models]
        elif isinstance(callback, LastCheckpoint) and callback.folder is not None:  # it is where others have trained
            names.append(callback.path)
    return [path for name in dict.fromkeys(names) if name and (path := Path(name)).is_file()]


def _is_calibration(key: str) -> bool:
    return key.startswith("thresholds.") and key.endswith(".calibration")
