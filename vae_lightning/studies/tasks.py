"""The engine of a study: tasks that processes share, none done twice, and each told how it ended.

A study keeps a ledger, in files or in a database, that hands out tasks; a task is a run or something beside runs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Callback, Trainer

from ..errors import UserError
from ..training import runs
from . import processes

OWNED = ("config", "runs", "experiment", "ckpt_path", "model.init_args.input_shape")  # a study or the data set them
# where and how visibly a run is made says nothing about what it comes to: machines of one study may differ in it
PLACE = ("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.enable_", "data.init_args.root")
SILENT = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
COMPLAINT = "error.txt"  # of a task that has failed, in its folder


class Task(Protocol):
    """A piece of work, as long as this process holds it."""

    @property
    def folder(self) -> Path:
        """What it makes lies there."""

    def do(self, cli: Any) -> str:
        """Do it, or go on with it; its result, in a line."""

    def interrupted(self) -> None:
        """Record that it was stopped: nobody's fault."""

    def failed(self, error: str, final: bool) -> None:
        """Record why it failed; ``final`` if it would fail again."""


Ledger = Callable[..., Generator[Task, None, None]]
"""Tasks that nobody else has, each held until the next is asked for; it ends when nothing is left to do."""


def run(cli: Any, jobs: int, be_quiet: Callable[[], None], ledger: Ledger, *arguments: Any) -> None:
    """Do the tasks of a ledger, here or in several processes.

    Args:
        cli: The command line's class, which a run is made by.
        jobs: How many processes; 1 is this one.
        be_quiet: Silences what a user can do nothing about; called in each process.
        ledger: A module's function, called in each process: a database connection is no other's.
        arguments: Its own.

    Raises:
        UserError: When processes keep dying.
    """
    processes.run(jobs, _work, cli, be_quiet, ledger, *arguments)


def _work(cli: Any, be_quiet: Callable[[], None], ledger: Ledger, *arguments: Any) -> None:
    quiet(be_quiet)
    with contextlib.closing(ledger(*arguments)) as tasks:  # an interruption lets go of the task that is held
        for task in tasks:
            print(f"{task}  {attempt(cli, task)}", flush=True)


def attempt(cli: Any, task: Task) -> str:
    """Do a task, record how it ended, and say so in a line.

    Raises:
        KeyboardInterrupt: When a signal has stopped it.
    """
    complaint = task.folder / COMPLAINT
    try:
        came_to = task.do(cli)
    except (KeyboardInterrupt, SystemExit) as stop:
        task.interrupted()
        raise KeyboardInterrupt from stop  # SIGTERM would exit with 0, as if all were done
    except UserError as error:
        task.failed(str(error), final=True)
        return f"failed: {error}"
    except Exception as error:  # the others go on
        complaint.write_text(traceback.format_exc())
        what = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        task.failed(what, final=False)
        return f"failed: {what} (see {complaint})"
    complaint.unlink(missing_ok=True)  # of an earlier attempt
    return came_to


def quiet(be_quiet: Callable[[], None]) -> None:
    """Many runs in a row say nothing of what each of them would."""
    be_quiet()
    for name in ("lightning.pytorch", "lightning.fabric"):  # which devices there are, once per run
        logging.getLogger(name).setLevel(logging.WARNING)


def as_text(value: Any) -> str:
    """A value as a command line has it."""
    return value if isinstance(value, str) else json.dumps(value)


def options(settings: Mapping[str, Any]) -> list[str]:
    """Configuration keys and values as a command line has them."""
    return [f"--{key}={as_text(value)}" for key, value in settings.items()]


def build(cli: Any, arguments: Sequence[str]) -> Any:
    """The command line with model and data built and nothing run.

    Args:
        cli: The command line's class.
        arguments: Its own.

    Raises:
        UserError: When they are wrong.
    """

    class Build(cli):
        def _run_subcommand(self, subcommand: str) -> None:
            """Everything is built, nothing is run."""

    return Build([*arguments, *SILENT])


def fit(cli: Any, arguments: Sequence[str], folder: Path, callbacks: Sequence[Callback] = ()) -> None:
    """Run ``fit`` in a given folder without a word, from its last checkpoint if there is one.

    Args:
        cli: The command line's class.
        arguments: Its own.
        folder: The run's.
        callbacks: Called before all others.

    Raises:
        UserError: When the run cannot go on.
        KeyboardInterrupt: When a signal has stopped the run before its end.
    """

    class Fit(cli):
        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            trainer: Any = super().instantiate_trainer(**kwargs)
            trainer.callbacks[:0] = callbacks
            return trainer

        def after_fit(self) -> None:
            with contextlib.redirect_stdout(StringIO()):
                super().after_fit()

    last = folder / "checkpoints/last.ckpt"
    resumed = ["--ckpt_path", str(last)] if last.is_file() else []
    # resolved: Lightning forgets the best checkpoint of a run that is resumed under another spelling of its folder
    os.environ[runs.VARIABLE] = str(folder.resolve())
    try:
        Fit([*arguments, *SILENT, *resumed])
    finally:
        runs.release()
    if not (folder / runs.RESULTS).is_file():
        raise KeyboardInterrupt
