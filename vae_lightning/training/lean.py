"""What Lightning does at each step without effect, left out: for a small net on a CPU it is a good part of the time.

This is the one place that touches Lightning's private parts. ``Trainer(lean=False)`` leaves it all alone, with the same
weights to the bit; where a version of Lightning lacks what is touched here, it is left alone by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from ..batch import Batch
from ..data import AnomalyDataModule
from ..models import AnomalyModel
from .adam import Prepared, simple

log = logging.getLogger(__name__)

WITHIN_STEP = "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"
STEP_HOOKS = "on_train_batch_start", *WITHIN_STEP, "on_train_batch_end"


class NoProfiler(PassThroughProfiler):
    """Lightning enters its profiler's context 60 times a step: here they all are one that does nothing."""

    nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.nothing


@contextlib.contextmanager
def lean(trainer: Any, model: LightningModule, data: Any) -> Iterator[None]:
    """Within, Lightning calls at each step only what has an effect. On a CPU that is a twentieth of a small net's step.

    Args:
        trainer: Before its fit.
        model: Trained by it.
        data: Its data module, if it has one.
    """
    before: list[Replaced] = []

    def put(instance: Any, name: str, value: Any) -> None:
        before.append((instance, name, vars(instance).get(name, _ABSENT), value))
        # not setattr, which would register a module's attribute
        vars(instance)[name] = value

    try:
        try:
            for instance, name in _idle_hooks(trainer, model):
                put(instance, name, None)  # Lightning passes over a hook that is None
            if _leaves_batches_alone(model, data):
                put(model, "_on_before_batch_transfer", _as_it_is)
                put(model, "_apply_batch_transfer_handler", _as_it_is)
            # what training_step is given is found out here, not at each step
            indexed = is_param_in_hook_signature(model.training_step, "batch_idx", min_args=2)
            names = ("batch", "batch_idx")[: 1 + indexed]
            if not hasattr(trainer.fit_loop.epoch_loop, "_build_kwargs"):
                raise AttributeError("_build_kwargs")
            loop = trainer.fit_loop.epoch_loop.automatic_optimization
            put(loop, "run", _Step(loop, model))
            put(trainer.fit_loop.epoch_loop, "_build_kwargs", lambda _, *given: dict(zip(names, given, strict=False)))
        except AttributeError as error:
            log.debug("this version of Lightning is left as it is: %s", error)
            _undo(before)
        if not torch.cuda.is_available():
            # Lightning has CUDA looked for in a way that loads a library each time, and Adam looks at each step
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        yield
    finally:
        _undo(before)


_ABSENT: Any = object()
Replaced = tuple[Any, str, Any, Any]  # an instance's attribute: what it was, and what it became


def _undo(before: list[Replaced]) -> None:
    while before:
        instance, name, value, ours = before.pop()
        attributes: Any = vars(instance)
        if attributes.get(name, _ABSENT) is not ours:
            continue  # someone has set it since
        if value is _ABSENT:
            del attributes[name]
        else:
            attributes[name] = value


def _idle_hooks(trainer: Any, model: LightningModule) -> Iterator[tuple[Any, str]]:
    """Hooks that do nothing: those of Lightning's base classes, unless an instance has one of its own."""
    instances: list[tuple[Any, type]] = [*((callback, Callback) for callback in trainer.callbacks)]
    for instance, base in [*instances, (model, LightningModule)]:
        for hook in STEP_HOOKS:
            if _inherits(instance, base, hook):
                yield instance, hook
    if not trainer.gradient_clip_val and _inherits(model, LightningModule, "configure_gradient_clipping"):
        yield model, "configure_gradient_clipping"


def _leaves_batches_alone(model: LightningModule, data: Any) -> bool:
    """Whether nobody wants a batch before the step: the loader has moved it already."""
    hooks = "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"
    return isinstance(data, AnomalyDataModule) and all(
        _inherits(model, LightningModule, hook) and _inherits(data, AnomalyDataModule, hook) for hook in hooks
    )


def _as_it_is(batch: Batch, *_: Any, **__: Any) -> Batch:
    return batch


def _steps_plainly(trainer: Any, model: LightningModule) -> bool:
    """Whether nothing comes between forward pass, gradients and optimiser: one process, one precision, no hooks."""
    hooks = "backward", "optimizer_step", "configure_gradient_clipping", *WITHIN_STEP
    return (
        isinstance(model, AnomalyModel)
        and _inherits(model, AnomalyModel, "training_step")
        and _inherits(model, AnomalyModel, "optimizer_zero_grad")
        and all(_inherits(model, LightningModule, hook) or vars(model).get(hook, model) is None for hook in hooks)
        and all(
            _inherits(c, Callback, hook) or vars(c).get(hook, c) is None
            for c in trainer.callbacks
            for hook in WITHIN_STEP
        )
        and type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and trainer.accumulate_grad_batches == 1
        and not trainer.gradient_clip_val
    )


class _Step:
    """What Lightning's own step comes to: forward pass, gradients, optimiser, and its counts of them."""

    def __init__(self, loop: Any, model: Any) -> None:
        self.loop, self.model = loop, model
        self.plain: bool | None = None
        self.adam: Prepared | None = None

    def __call__(self, optimizer: torch.optim.Optimizer, batch_idx: int, given: dict[str, Any]) -> dict[str, Any]:
        if self.plain is None or batch_idx == 0:  # asked again in each epoch: a callback may have changed something
            self.plain = _steps_plainly(self.loop.trainer, self.model)
        if not self.plain:
            its: dict[str, Any] = type(self.loop).run(self.loop, optimizer, batch_idx, given)
            return its
        counts, found = self.loop.optim_progress.optimizer, {}

        def closure() -> torch.Tensor:
            loss = found["loss"] = self._gradients(counts.zero_grad, optimizer, batch_idx, given)
            return loss

        counts.step.increment_ready()
        if self.adam is not None and self.adam.holds():
            closure()
            self.adam.step()
        else:
            optimizer.step(closure)  # type: ignore[arg-type]
            self.adam = Prepared(optimizer) if simple(optimizer) else None  # type: ignore[arg-type]
        counts.step.increment_completed()
        return found

    def _gradients(self, counts: Any, optimizer: Any, batch_idx: int, given: dict[str, Any]) -> torch.Tensor:
        self.model._current_fx_name = "training_step"
        loss: torch.Tensor = self.model.training_step(*given.values())
        self.model._current_fx_name = None
        counts.increment_ready()
        counts.increment_started()
        self.model.optimizer_zero_grad(self.model.current_epoch, batch_idx, optimizer)
        counts.increment_completed()
        loss.backward()
        return loss.detach()


def _inherits(instance: Any, base: type, method: str) -> bool:
    return method not in vars(instance) and getattr(type(instance), method) is getattr(base, method)
