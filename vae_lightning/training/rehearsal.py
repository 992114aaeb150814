"""A step of training before anything is written, for whatever no check foresees: a rate below zero, a wrong shape."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, blaming
from ..models.steps import Steps

SAMPLES = 16


def rehearse(model: Any, data: Any) -> None:
    """Train another model of the same make for a step; the model and the random state stay as they are.

    Args:
        model: An AnomalyModel that has not been trained yet.
        data: Its data module, set up.

    Raises:
        UserError: When that raises anything: which part, and what it says.
    """
    if type(model).training_step is not Steps.training_step:
        return  # its own way of training
    with torch.random.fork_rng(devices=[]):
        with blaming(f"data ({type(data).__name__})"):
            raw = next(iter(data.reference_dataloader())).x[:SAMPLES].cpu()
        name = f"model ({type(model).__name__})"
        with blaming(name):
            fresh = model.again()
            fresh.preprocessing = copy.deepcopy(model.preprocessing or data.preprocessing)
            if not fresh.preprocessing.fitted:
                fresh.preprocessing.fit([raw])
                fresh.prepare_for(fresh.preprocessing)
        with blaming("model.init_args.optimizer or lr_scheduler"):
            configured = fresh.configure_optimizers()
        optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        with blaming(f"{name} with {type(optimizer).__name__}"):
            raw = torch.cat([raw] * len(model.orders))  # an ensemble is given one batch for each order
            optimizer.step(lambda: _loss(fresh, raw))
        rate = optimizer.param_groups[0].get("lr")
        if isinstance(rate, float) and not math.isfinite(rate):
            raise UserError(f"model.init_args.optimizer: lr = {rate}: give a finite number")


def _loss(model: Any, raw: Tensor) -> Tensor:
    loss: Tensor = model.objective(model.prepared(raw), model.beta_at(0, 1))["loss"].mean()
    loss.backward()
    return loss
