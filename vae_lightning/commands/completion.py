"""``vae-lightning completion bash``: what a shell needs to complete commands, options and configurations.

The options are those that ``--help`` shows: of the Trainer's five hundred, the ones that one types.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Callable

from ..errors import UserError
from .help import COMMANDS, STUDIES, page
from .shipped import FOLDERS

Run = Callable[[list[str]], int]
SHELLS = "bash", "zsh", "tcsh"
HELP = f"""usage: vae-lightning completion {{{",".join(SHELLS)}}}

Print a script that completes commands, options and configurations:

  eval "$(vae-lightning completion bash)"     # in ~/.bashrc, for every shell"""
FILES = "--config", "--ckpt_path", "--input", "--output", "--detector", "--out", "--runs"


def main(args: list[str], run: Run) -> int:
    """Print the script; the exit code is 0.

    Args:
        args: The shell, or ``--help``.
        run: Runs a command line: its help says which options a command has.

    Raises:
        UserError: When the shell is another one, or shtab is not installed.
    """
    if {"-h", "--help"} & set(args):
        print(HELP)
        return 0
    shell = args[0] if args else ""
    if shell not in SHELLS or len(args) > 1:
        raise UserError(f"completion {' '.join(args)}: give one of {', '.join(SHELLS)}")
    try:
        import shtab
    except ImportError as error:
        raise UserError("completion needs shtab: pip install 'vae_lightning[completion]'") from error
    print(shtab.complete(parser(shtab.FILE, run), shell))
    return 0


def parser(file: object, run: Run) -> argparse.ArgumentParser:
    """All commands with their options, for shtab alone.

    Args:
        file: What an option that takes a file is completed by.
        run: As for ``main``.
    """
    whole = argparse.ArgumentParser("vae-lightning")
    commands = whole.add_subparsers()
    for name, what in {**COMMANDS, **STUDIES}.items():
        command = commands.add_parser(name, help=what)
        text = "" if name == "completion" else _help(name, run)
        for option in sorted(set(re.findall(r"--[a-z_]+(?:\.[a-z_]+)*(?![a-z_.+])", text)) - {"--help"}):
            action = command.add_argument(option)
            if option == "--config":
                sub = "sweeps/" if name == "sweep" else ""
                action.choices = sorted(sub + path.stem for folder in FOLDERS for path in folder.glob(f"{sub}*.yaml"))
            elif option in FILES:
                action.complete = file  # type: ignore[attr-defined]
        if name in ("diagnose", "report", "compare"):
            command.add_argument("run").complete = file  # type: ignore[attr-defined]
        elif name == "completion":
            command.add_argument("shell", choices=SHELLS)
    return whole


def _help(command: str, run: Run) -> str:
    """What ``--help`` of a command says."""
    if (text := page([command, "--help"])) is not None:
        return text
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        run([command, "--help"])  # of a command whose extra is not installed: nothing
    return out.getvalue()
