"""Which trials can be trained together: those of equal shape that differ in β, learning rate or seed alone."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Generator, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from ...errors import UserError
from ...models import IWAE, VAE, Autoencoder
from ...models.stacked import stacked
from .. import tasks
from .group import Group
from .plan import BETA, RATE, SEED, Plan
from .storage import connect
from .trials import Trials

DIFFER = BETA, RATE, SEED  # in which trials of a group may
MOST = 32  # trials at once: more are hardly faster, and lose more when they are killed
# settings of the Trainer that mean for all members at once what they mean for each; of the others none may be set
ALIKE = (
    *("accelerator", "devices", "strategy", "num_nodes", "deterministic", "benchmark", "inference_mode"),
    *("max_epochs", "min_epochs", "limit_test", "num_sanity", "log_every", "enable_", "default_root_dir"),
)


def check(plan: Plan) -> None:
    """Raise a UserError when trials depend on how others end: on which values they have, or when they stop."""
    if plan.sampler == "tpe" or plan.pruning:
        what = "pruning" if plan.pruning else "sampler = tpe"
        raise UserError(f"{plan.file}: {what} learns from trials that have ended: leave --batch out")


def plan_groups(cli: Any, plan: Plan, trials: Trials, jobs: int) -> list[list[int]]:
    """The slots that are left, those together that can be trained together; says of the others why they cannot."""
    alike: dict[str, list[int]] = {}
    values = {slot: trials.foreseen(slot) for slot in trials.left()}
    for slot, those in values.items():
        rest = {key: value for key, value in those.items() if key not in DIFFER}
        alike.setdefault(json.dumps(rest), []).append(slot)
    groups = []
    for slots in alike.values():
        reason = _why_not(tasks.build(cli, plan.arguments(values[slots[0]]))) if len(slots) > 1 else None
        if reason is not None:
            print(f"trials {', '.join(map(str, slots))}: one after another: {reason}", flush=True)
        size = 1 if reason else max(1, min(MOST, -(-len(slots) // jobs)))
        groups += [slots[i : i + size] for i in range(0, len(slots), size)]
    return groups


def _why_not(built: Any) -> str | None:
    """What keeps trials like this one from being trained together, if anything does."""
    given, usual = built.settings.trainer, inspect.signature(pl.Trainer.__init__).parameters
    for key, parameter in usual.items():
        if not key.startswith(ALIKE) and given.get(key) not in (parameter.default, None, False):
            return f"trainer.{key} = {given.get(key)}"
    if given.get("enable_checkpointing") is False:
        return "trainer.enable_checkpointing = False"
    if built.trainer.world_size > 1:
        return "several processes train each"
    if type(built.settings.seed_everything) is not int:
        return f"seed_everything = {built.settings.seed_everything}"
    return _why_not_model(built.model, built.datamodule)


def _why_not_model(model: Any, data: Any) -> str | None:
    if type(model) not in (Autoencoder, VAE, IWAE):
        return f"{type(model).__name__} is neither Autoencoder, VAE nor IWAE"
    if data.redraw is not None:
        return f"{type(data).__name__} draws training samples anew in each epoch"
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return "dropout would be drawn for all at once"
    try:
        stacked([model.encoder]), stacked([model.decoder])
    except UserError:
        return "the network is not an MLP"
    configured: Any = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    if isinstance(configured, dict) and "monitor" in configured["lr_scheduler"]:
        return f"{type(configured['lr_scheduler']['scheduler']).__name__} waits for a metric"
    if isinstance(optimizer, torch.optim.LBFGS):
        return "LBFGS computes the loss several times a step"
    return None


def ledger(plan: Plan, groups: Sequence[Sequence[int]]) -> Generator[tasks.Task, None, None]:
    """Groups of trials until none is left, of this process or any other."""
    trials = Trials(plan, connect(plan))
    while left := trials.left():
        with trials.claim_group(groups) as claimed:
            if not claimed:
                time.sleep(0.5)  # others run what is left; one of them may die
                continue
            group = claimed[0] if len(claimed) == 1 else Group(claimed)
            print(f"{group}  …  ({len(left)} left)", flush=True)
            yield group
