"""The Trainer of the command line, Python, sweeps, benchmarks and estimators."""

from __future__ import annotations

import contextlib
import sys
from functools import cached_property
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.states import RunningStage

from ..data import AnomalyDataModule
from ..models import AnomalyModel
from .callbacks.completion import Completion
from .callbacks.metrics import DetectionMetrics
from .callbacks.pixels import PixelMetrics
from .callbacks.progress import Bar, Lines, Summary
from .checkpoints import AtomicCheckpointIO
from .lean import NoProfiler, lean
from .limits import check_settings, check_strategy
from .processes import ended_together
from .resumption import Resumption


class Trainer(pl.Trainer):
    """Lightning's Trainer, with what the models of this package need.

    It logs ``DetectionMetrics`` and ``PixelMetrics``, calibrates what it keeps (``Completion``), writes checkpoints
    atomically, resumes from them bit for bit (``Resumption``), skips what Lightning does at each step without effect,
    and reports progress in plain lines (``Lines``) if the output is not a terminal.

    Args:
        *args: Lightning's.
        lean: Whether to skip that, see ``lean``. The weights are the same, bit for bit.
        **kwargs: Lightning's.

    Raises:
        UserError: For settings that make no sense, and for strategies that divide a model among processes.
    """

    def __init__(self, *args: Any, lean: bool = True, **kwargs: Any) -> None:
        asked_for = listed(kwargs.get("callbacks"))
        check_settings(kwargs)
        super().__init__(*args, **kwargs)
        check_strategy(self)
        self.lean = lean
        if lean and type(vars(self)["profiler"]) is PassThroughProfiler:
            self.profiler: Any = NoProfiler()
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:
            self.strategy.checkpoint_io = AtomicCheckpointIO()
        given: list[Any] = vars(self)["callbacks"]
        metrics = DetectionMetrics, PixelMetrics
        own = [kind() for kind in metrics if not any(isinstance(c, kind) for c in given)]
        last = [] if any(isinstance(c, Completion) for c in given) else [Completion()]
        bars = [c for c in given if isinstance(c, ProgressBar) and not any(c is one for one in asked_for)]
        given = [_bar() if c in bars else c for c in given]
        given = [Summary() if type(c) is ModelSummary and c not in asked_for else c for c in given]
        # metrics before those that monitor them, completion after saving
        self.callbacks: Any = [*own, Resumption(), *given, *last]

    @property
    def training(self) -> bool:
        return self.state.stage is RunningStage.TRAINING  # Lightning compares the characters of two strings

    @training.setter
    def training(self, value: bool) -> None:
        if value or self.training:
            self.state.stage = RunningStage.TRAINING if value else None

    @cached_property
    def enable_validation(self) -> bool:
        return super().enable_validation

    def fit(
        self,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: Any = None,
        weights_only: bool | None = True,
    ) -> None:
        data = train_dataloaders if isinstance(train_dataloaders, pl.LightningDataModule) else datamodule
        with ended_together(self), lean(self, model, data) if self.lean else contextlib.nullcontext():
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)
        if isinstance(model, AnomalyModel) and model.preprocessing is None and isinstance(data, AnomalyDataModule):
            data.setup("fit")  # it was trained in other processes, which sent weights alone
            model.adopt(data)


def _bar() -> ProgressBar:
    """A bar where it can be redrawn, on a terminal or in a notebook; elsewhere lines."""
    # redrawn at each step it would slow small nets down
    return Bar(refresh_rate=50) if sys.stdout.isatty() or _in_notebook() else Lines()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell is not None and shell() is not None


def listed(callbacks: Any) -> list[Any]:
    """As given to a Trainer: one, several, or none."""
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
