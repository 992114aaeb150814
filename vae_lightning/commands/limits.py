"""What a command's own settings may be; a Trainer looks at its own, see ``limits``."""

from __future__ import annotations

from typing import Any

from ..data.checks import SEEDS
from ..errors import UserError


def check_settings(settings: Any) -> None:
    """Raise a UserError for a seed, an experiment or a number of steps that cannot be meant."""
    seed = settings.get("seed_everything")
    if not isinstance(seed, bool) and seed is not None and not 0 <= seed < SEEDS:
        raise UserError(f"seed_everything = {seed}: give a whole number from 0 to below 2**32, true or false")
    steps = settings.get("checkpoint_every_n_steps")
    if steps is not None and steps < 1:
        raise UserError(f"checkpoint_every_n_steps = {steps}: give at least 1, or null to save at each epoch's end")
    name = settings.get("experiment")
    if name is not None and not is_folder_name(name):
        raise UserError(f"experiment = {name!r}: give the name of a folder within --runs, without a path")


def is_folder_name(name: str) -> bool:
    """Whether it names a folder in another one, and none beside or above it."""
    return name.isprintable() and 0 < len(name.encode()) <= 200 and "/" not in name and name not in (".", "..")
