"""What every command does before it runs: find whatever is wrong while nothing has been written, then take a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments import TorchElasticEnvironment

from ..detection import storage
from ..errors import UserError, blaming
from ..training import checkpoints, runs
from ..training.board import Board
from ..training.callbacks import Checked
from ..training.rehearsal import rehearse
from .held import begin


def prepare(cli: Any) -> None:
    """Check data, checkpoint and callbacks; claim the run's folder and log there.

    Args:
        cli: The command line, with everything built.

    Raises:
        UserError: When something is wrong. Nothing has been written then.
    """
    _check_processes(cli.trainer)
    with blaming(f"data ({type(cli.datamodule).__name__})"):
        cli.datamodule.prepare_data()
        cli.datamodule.setup(str(cli.subcommand))
    if cli.subcommand == "fit":
        rehearse(cli.model, cli.datamodule)
    path = cli.settings.ckpt_path
    folder = _check_checkpoint(cli, Path(path)) if path is not None else None
    for callback in cli.trainer.callbacks:
        if isinstance(callback, Checked):
            callback.check(cli.trainer, cli.model, str(cli.subcommand))
    if cli.tries:
        return
    cli.folder = _claim(cli, folder)
    # the whole path: a run resumed under another one would forget its best checkpoint
    *_, experiment, version = cli.folder.resolve().parts
    board = Board(cli.folder.resolve().parent.parent, experiment, version, default_hp_metric=False)
    cli.trainer.loggers = [board, *cli.trainer.loggers]  # the first one says where checkpoints and pictures go
    if getattr(cli.trainer.strategy.launcher, "_start_method", None):  # this process only waits for others
        begin()


def _check_processes(trainer: Any) -> None:
    if TorchElasticEnvironment.detect() and (started := int(os.environ["WORLD_SIZE"])) != trainer.world_size:
        raise UserError(
            f"trainer.devices: torchrun has started {started} processes, and {trainer.world_size} is asked for: give "
            "--trainer.devices the number a machine, --trainer.num_nodes that of machines, and --trainer.strategy ddp"
        )


def _claim(cli: Any, folder: Path | None) -> Path:
    """The run's folder: the first process claims it, and tells those that torchrun or a cluster has started beside it.

    Processes that a strategy launches are told by the environment.
    """
    trainer, experiment = cli.trainer, Path(cli.settings.runs) / cli.settings.experiment
    writes, cluster = cli.subcommand == "fit", getattr(trainer.strategy, "cluster_environment", None)
    if runs.VARIABLE in os.environ or not (cluster and cluster.creates_processes_externally):
        return runs.claim(experiment, folder, writes)
    trainer.strategy.setup_environment()
    answer: Path | UserError | None = None
    if trainer.is_global_zero:
        try:
            answer = runs.claim(experiment, folder, writes)
        except UserError as error:  # the others would wait for ever
            answer = error
    answer = trainer.strategy.broadcast(answer)
    if isinstance(answer, UserError):
        raise answer
    assert answer is not None
    return answer


def _check_checkpoint(cli: Any, path: Path) -> Path | None:
    """The folder of the run that the checkpoint belongs to, once it is known to suit the model."""
    content = storage.read(path)
    if cli.subcommand == "fit" and "loops" not in content:
        raise UserError(f"{path}: holds a detector, and no training to continue: give last.ckpt of a run")
    checkpoints.check_columns(str(path), content[storage.KEY]["trained_on"], cli.datamodule)
    checkpoints.check(path, content, cli.model)
    if cli.trainer.is_global_zero:
        lines = runs.differences(content[storage.KEY]["model"], cli.model.recipe)
        lines += checkpoints.optimizer_differences(content, cli.model) if cli.subcommand == "fit" else []
        for line in lines:
            print(f"note: {line}", file=sys.stderr)
    return checkpoints.run_folder(path)
