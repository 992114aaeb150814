"""What a Trainer's settings may be: numbers that would stop it in the middle, and strategies that no model here has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import strategies
from lightning.pytorch.callbacks import EarlyStopping

from ..data.checks import CORES
from ..errors import UserError

PRECISIONS = "32-true", "64-true", "16-mixed", "bf16-mixed"
SHORT = "32", "64", "16", "bf16"  # the same, as Lightning reads them
MOST = 2**31 - 1  # steps, batches or epochs, that a tensor can be divided by
SHARDED = strategies.FSDPStrategy, strategies.DeepSpeedStrategy, strategies.ModelParallelStrategy


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise a UserError for a setting of a Trainer that cannot be meant.

    Args:
        settings: A Trainer's arguments by name, as far as they are given.
    """
    for key, least in (("accumulate_grad_batches", 1), ("check_val_every_n_epoch", 1), ("log_every_n_steps", 0)):
        value = settings.get(key)
        if isinstance(value, int) and not least <= value <= MOST:
            raise UserError(f"trainer.{key} = {value}: give a number from {least} to {MOST}")
    _check_interval("val_check_interval", settings.get("val_check_interval"))
    _check_interval("limit_train_batches", settings.get("limit_train_batches"))
    clip = settings.get("gradient_clip_val")
    if clip is not None and not 0 < clip < float("inf"):
        raise UserError(f"trainer.gradient_clip_val = {clip}: give a positive number, or null")
    precision = settings.get("precision")
    if precision is not None and str(precision) not in PRECISIONS + SHORT:
        raise UserError(
            f"trainer.precision = {precision}: give one of {', '.join(PRECISIONS)}: weights stay as they are"
        )
    bounds = [settings.get(key) for key in ("max_steps", "max_time", "fast_dev_run")]
    callbacks = settings.get("callbacks") or []
    stops = any(isinstance(c, EarlyStopping) for c in (callbacks if isinstance(callbacks, list) else [callbacks]))
    if settings.get("max_epochs") == -1 and not stops and all(bound in (None, -1, False, 0) for bound in bounds):
        raise UserError("trainer.max_epochs = -1: give trainer.max_steps or trainer.max_time, or it would never end")


def _check_interval(key: str, value: Any) -> None:
    """A share of an epoch, or so many batches."""
    if isinstance(value, float) and key == "limit_train_batches" and value.is_integer():
        value = int(value)  # the command line's 5 comes as 5.0, which Lightning takes for 5 batches here alone
    if isinstance(value, (int, float)) and (value <= 0 or (isinstance(value, float) and value > 1)):
        raise UserError(f"trainer.{key} = {value}: give so many batches, 1 or more, or a share of them in (0.0, 1.0]")


def check_strategy(trainer: Any) -> None:
    """Raise a UserError for a way of training that thresholds cannot be fitted in, or that the machine cannot bear."""
    strategy, name = trainer.strategy, type(trainer.strategy).__name__
    if isinstance(strategy, SHARDED):
        raise UserError(f"trainer.strategy: {name} divides a model among processes, which needs all of it: give ddp")
    if getattr(strategy.launcher, "_start_method", None) == "spawn":
        raise UserError(f"trainer.strategy: {name} starts processes that share no memory: give ddp or ddp_fork")
    if trainer.num_devices > CORES and strategy.root_device.type == "cpu":
        raise UserError(
            f"trainer.devices = {trainer.num_devices}: this machine has {os.cpu_count()} cores: give {CORES} or fewer"
        )
