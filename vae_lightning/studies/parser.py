"""What the commands share that are no Trainer's: their parser, and the runs that they start."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch import Callback, Trainer

from ..errors import UserError
from ..training import runs


class StudyParser(argparse.ArgumentParser):
    """Says what is wrong in one line.

    Args:
        command: Its name, ``sweep`` for one.
        **kwargs: As for ``argparse.ArgumentParser``.
    """

    def __init__(self, command: str, **kwargs: Any) -> None:
        super().__init__(f"python -m vae_lightning {command}", allow_abbrev=False, **kwargs)
        self.command = command

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.command}: {message}: {self.command} --help lists what there is")

    def parse_overriding(self, args: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """The command's own options; and all others, ``--key value`` or ``--key=value``, as configuration keys."""
        given, rest = self.parse_known_args(args)
        overrides: dict[str, Any] = {}
        words = iter(rest)
        for word in words:
            if not word.startswith("--"):
                raise UserError(f"{self.command}: {word}: expected --key value")
            key, has_value, value = word[2:].partition("=")
            if not has_value and (value := next(words, "--")).startswith("--"):
                raise UserError(f"{self.command}: --{key}: the value is missing")
            overrides[key] = yaml.safe_load(value)
        return given, overrides


def markdown(rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table whose first row is its head; bars within cells are escaped, columns aligned."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def build(cli: Any, arguments: list[str]) -> Any:
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

    return Build([*arguments, "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"])


def fit(cli: Any, arguments: list[str], folder: Path, callbacks: Sequence[Callback] = ()) -> None:
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

    arguments = [*arguments, *(f"--trainer.{key}=false" for key in ("enable_progress_bar", "enable_model_summary"))]
    if (last := folder / "checkpoints/last.ckpt").is_file():
        arguments += ["--ckpt_path", str(last)]
    # resolved: Lightning forgets the best checkpoint of a run that is resumed under another spelling of its folder
    os.environ[runs.VARIABLE] = str(folder.resolve())
    try:
        Fit(arguments)
    finally:
        runs.release()
    if not (folder / runs.RESULTS).is_file():
        raise KeyboardInterrupt
