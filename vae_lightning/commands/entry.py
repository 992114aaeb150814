"""The entry point: runs a command, and says in one line what went wrong."""

from __future__ import annotations

import os
import signal
import sys
import traceback

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..errors import UserError
from ..studies import benchmark, compare
from ..training import runs
from ..training.quiet import be_quiet
from .messages import check_files
from .parser import CLI
from .shipped import with_shipped
from .source import with_checkpoint


def main(args: list[str] | None = None) -> int:
    """Run a command, and give its exit code.

    0, or 2 for what the user got wrong, 1 for an interruption or a failed trial, 143 when SIGTERM has stopped it: what
    a shell makes of a process that the signal has killed.
    """
    args = list(sys.argv[1:] if args is None else args)
    verbose = "--verbose" in args or os.environ.get("JSONARGPARSE_DEBUG", "").lower() not in ("", "0", "false")
    args = ["--help" if arg == "--help=all" else arg for arg in args if arg != "--verbose"]
    be_quiet()
    try:
        return _run(with_shipped(args))
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the one into the other, once it has cleaned up
        terminated = isinstance(stop, SIGTERMException)
        if isinstance(stop, SystemExit) and stop.code != 1 and not terminated:
            raise
        how = "" if args[:1] in (["sweep"], ["benchmark"]) else " and --ckpt_path last"
        if _first_here():
            print(f"interrupted: resume with the same command{how}", file=sys.stderr)
        return 128 + signal.SIGTERM if terminated else 1
    except Exception as error:
        message = _user_message(error)
        if message is None:
            raise
        if _first_here():
            if verbose:
                traceback.print_exc()
            print(f"error: {message}", file=sys.stderr)
        return 2
    finally:
        runs.release()


def _run(args: list[str]) -> int:
    command, rest = args[:1], args[1:]
    if command == ["compare"]:
        return compare.main(rest)
    if command == ["benchmark"]:
        return benchmark.main(rest, CLI, be_quiet)
    if command == ["sweep"]:
        from ..studies import sweep  # needs Optuna, an extra

        return sweep.main(rest, CLI, be_quiet)
    check_files(args)
    with with_checkpoint(args) as resolved:
        CLI(resolved)
    return 0


def _first_here() -> bool:
    """Whether this is the only process on its machine, or the first of those that share a run: all say the same."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def _user_message(error: BaseException) -> str | None:
    """What the user got wrong, in one line; None for an error of the program's."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, torch.multiprocessing.ProcessRaisedException):  # from a process that a strategy has started
        last = str(error).strip().splitlines()[-1]
        name, _, message = last.partition(": ")
        return message if name.endswith("UserError") else None
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None
