"""One of several models that are trained together: what a Trainer of its own would keep of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from ..errors import UserError
from ..models import AnomalyModel
from .adam import Prepared, simple
from .callbacks.metrics import DetectionMetrics
from .checkpoints import EpochCheckpoint, callbacks
from .resumption import close


class Member:
    """A model, its optimiser, its figures, and the files that it comes to; nothing is written.

    Args:
        model: An AnomalyModel.
        seed: Of its run.
        folder: Of its run.

    Attributes:
        metrics: As last logged.
        history: The metrics at each epoch's end, after the optimiser step of that number.
        files: Checkpoints by their paths, what is to be written there.
        error: Why it cannot go on; the others do.
    """

    def __init__(self, model: AnomalyModel, seed: int, folder: Path) -> None:
        self.model, self.seed, self.folder = model, seed, folder.resolve()
        self.metrics: dict[str, float] = {}
        self.history: list[tuple[int, dict[str, float]]] = []
        self.files: dict[Path, dict[str, Any]] = {}
        self.error: str | None = None
        self.best: Any = next(c for c in callbacks(folder=self.checkpoints) if isinstance(c, EpochCheckpoint))
        self._detection = DetectionMetrics()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _log(self, name: str, value: Any, **_: Any) -> None:
        self.metrics[name] = float(value)

    # Training

    def adopt(self, gradients: dict[int, Tensor]) -> None:
        """Take the parameters, which are parts of a stack's, as its own, with the parts of the gradients.

        Args:
            gradients: Of the whole stack, each by the place in memory of what it is the gradient of.
        """
        for module in self.model.modules():
            for name, part in module._parameters.items():
                if part is not None:
                    module._parameters[name] = own = nn.Parameter(part.detach())
                    whole = gradients[part.untyped_storage().data_ptr()]
                    own.grad = whole.as_strided(part.shape, part.stride(), part.storage_offset())
        vars(self.model)["log"] = self._log  # to this, not to the Trainer that serves all
        configured: Any = self.model.configure_optimizers()
        with_schedule = isinstance(configured, dict)
        self.optimizer: torch.optim.Optimizer = configured["optimizer"] if with_schedule else configured
        self._schedule: Any = configured["lr_scheduler"] if with_schedule else {"scheduler": None, "interval": ""}
        self._prepared: Prepared | None = None

    def step(self) -> None:
        """The update of its weights."""
        if self._prepared is not None:
            self._prepared.step()
        else:
            self.optimizer.step()
            self._prepared = Prepared(self.optimizer) if simple(self.optimizer) else None  # type: ignore[arg-type]
        self._reschedule("step")

    def end_epoch(self, step: int) -> bool:
        """Whether this epoch is the best one up to now."""
        self.model.on_train_epoch_end()
        self._reschedule("epoch")
        self.history.append((step, dict(self.metrics)))
        best, score = self.best, torch.tensor(self.metrics["val/objective"]).nan_to_num(torch.inf)
        best.current_score = score
        if not best.check_monitor_top_k(self.model.trainer, score):
            return False
        best.best_model_path = best.kth_best_model_path = path = str(self.checkpoints / "best.ckpt")
        best.best_model_score, best.best_k_models, best.kth_value = score, {path: score}, score
        return True

    def _reschedule(self, interval: str) -> None:
        if self._schedule["interval"] == interval:
            self._schedule["scheduler"].step()

    # Validation

    def begin_validation(self, trainer: Any) -> None:
        self._detection.on_validation_epoch_start(trainer, self.model)
        self.model.on_validation_epoch_start()

    def validate(self, trainer: Any, batch: Any, index: int) -> None:
        self.model.validation_step(batch, index)
        self._detection.on_validation_batch_end(trainer, self.model, None, batch, index)

    def end_validation(self, trainer: Any) -> None:
        self.model.on_validation_epoch_end()
        self._detection.on_validation_epoch_end(trainer, self.model)

    # Files

    def fill(self, checkpoint: dict[str, Any], name: str, seconds: float) -> None:
        """Turn a checkpoint of all into the one that a run of its own would have saved, and keep it.

        Args:
            checkpoint: How far Lightning's loops are, and whatever else is the same for all.
            name: ``best`` or ``last``.
            seconds: What it has taken.
        """
        if name == "last":  # as LastCheckpoint has it
            progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
            close(progress)
            checkpoint["epoch"] = progress["current"]["completed"] - 1
        scheduler: LRScheduler | None = self._schedule["scheduler"]
        checkpoint.update(
            state_dict=_own(self.model.state_dict()),
            optimizer_states=[_own(self.optimizer.state_dict())],
            lr_schedulers=[] if scheduler is None else [_own(scheduler.state_dict())],
            callbacks={self.best.state_key: _own(self.best.state_dict())},
            callback_metrics={key: torch.tensor(value) for key, value in self.metrics.items()},
            record={"seconds": seconds, "metrics": dict(self.metrics)},
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # with the random state, a run that goes on from it takes the seed
            self.model.on_save_checkpoint(checkpoint)
        self.files[self.checkpoints / f"{name}.ckpt"] = checkpoint

    def attempt(self, what: Any, *arguments: Any) -> Any:
        """Call something of it; an error ends it and nobody else."""
        try:
            return what(*arguments)
        except UserError as error:
            self.error = str(error)
            return None


def _own(value: Any) -> Any:
    """The same with tensors of its own: parts of a stack would bring all of it into a file."""
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return type(value)((key, _own(item)) for key, item in value.items())
    return [_own(item) for item in value] if isinstance(value, list) else value
