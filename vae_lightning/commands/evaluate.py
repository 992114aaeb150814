"""``vae-lightning validate`` and ``test``: the metrics of a checkpoint."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..training import runs
from ..training.callbacks.pictures import axis_name
from .prepare import prepare


def before(cli: Any) -> None:
    """Refuse to go on without a checkpoint; for predict, too."""
    if cli.settings.ckpt_path is None:
        raise UserError(f"--ckpt_path is missing: {cli.subcommand} needs a .ckpt file, `last` or `best`")
    prepare(cli)


def after(cli: Any) -> None:
    """Print the metrics."""
    if cli.trainer.is_global_zero and not cli.tries:
        metrics = runs.numbers(cli.trainer.callback_metrics)
        notes = [f"checkpoint   {cli.settings.ckpt_path}", *runs.cautions(cli.model, metrics, tested=True)]
        print(runs.table(metrics, cli.folder, notes, axis_name(cli.model.detector)))
