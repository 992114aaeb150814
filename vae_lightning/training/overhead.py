"""What Lightning does at each step without effect, left out: for a small net on a CPU it is a good part of the time."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from ..data import AnomalyDataModule, Batch


class NoProfiler(PassThroughProfiler):
    """Lightning enters its profiler's context 60 times a step: here they all are one that does nothing."""

    nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


class LeanTrainer(Trainer):
    """Lightning's Trainer, but with short answers to what it is asked a dozen times a step."""

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


STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def spare_idle_hooks(trainer: Any, model: LightningModule, data: AnomalyDataModule) -> None:
    """Let Lightning call at each step only what has an effect: it passes over a hook that is None.

    On a CPU that is a twentieth of the step of a small net.
    """
    instances = [*((callback, Callback) for callback in trainer.callbacks), (model, LightningModule)]
    idle = [(instance, hook) for instance, base in instances for hook in STEP_HOOKS if _inherits(instance, base, hook)]
    if not trainer.gradient_clip_val and _inherits(model, LightningModule, "configure_gradient_clipping"):
        idle.append((model, "configure_gradient_clipping"))
    for instance, hook in idle:
        setattr(instance, hook, None)
    transfer = "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"
    if all(_inherits(model, LightningModule, hook) and _inherits(data, AnomalyDataModule, hook) for hook in transfer):
        model._on_before_batch_transfer = model._apply_batch_transfer_handler = _as_it_is  # type: ignore[method-assign]
    # what training_step is given is found out here, not at each step
    indexed = is_param_in_hook_signature(model.training_step, "batch_idx", min_args=2)
    names = ("batch", "batch_idx")[: 1 + indexed]
    trainer.fit_loop.epoch_loop._build_kwargs = lambda _, *given: dict(zip(names, given, strict=False))
    if not torch.cuda.is_available():
        # Lightning has CUDA looked for in a way that loads a library each time, and Adam looks at each step
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def _as_it_is(batch: Batch, *_: Any, **__: Any) -> Batch:
    """The loader has moved the batch already."""
    return batch


def _inherits(instance: Any, base: type, method: str) -> bool:
    return getattr(type(instance), method) is getattr(base, method)
