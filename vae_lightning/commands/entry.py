"""The entry point: runs a command, and says in one line what went wrong."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import traceback
from typing import Any

from ..errors import UserError, one_line
from .held import begun, held_back
from .shipped import with_shipped

ROOM = "the last good checkpoint is intact: free some space, and continue with --ckpt_path last"


def main(args: list[str] | None = None) -> int:
    """Run a command, and give its exit code.

    0, or 2 for what the user got wrong, 1 for an interruption or a failed trial, 143 when SIGTERM has stopped it: what
    a shell makes of a process that the signal has killed.
    """
    args = list(sys.argv[1:] if args is None else args)
    verbose = "--verbose" in args or os.environ.get("JSONARGPARSE_DEBUG", "").lower() not in ("", "0", "false")
    args = ["--help" if arg == "--help=all" else arg for arg in args if arg != "--verbose"]
    with held_back() as held:
        try:
            return _run(with_shipped(args))
        except (
            KeyboardInterrupt,
            SystemExit,
        ) as stop:  # Lightning turns the one into the other, once it has cleaned up
            terminated = type(stop).__name__ == "SIGTERMException"  # Lightning's, which takes seconds to import
            if isinstance(stop, SystemExit) and stop.code != 1 and not terminated:
                raise
            last, code = f"interrupted: {_resume(args)}", 128 + signal.SIGTERM if terminated else 1
            if not held.begun:
                last = "interrupted: nothing had begun"
        except Exception as error:
            message, code = user_message(error), 2
            if message is None and (lost := lost_process(error)):
                message, code = f"{lost}; the last good checkpoint is whole: {_resume(args)}", 1
            if message is None:
                if held.begun:
                    raise
                message = f"{one_line(error)}: --verbose shows where"
            if verbose and _first_here():
                held.begin()
                traceback.print_exc()
            last = f"error: {message}"
        if not held.begun:
            held.drop()
    if _first_here():
        print(last, file=sys.stderr)
    return code


def _run(args: list[str]) -> int:
    """Each command imports what it needs: torch takes seconds, and some can do without."""
    if args[:1] == ["completion"]:
        from . import completion

        return completion.main(args[1:], main)
    if args[:1] == ["score"]:
        from . import score

        return score.main(args[1:])
    if args[:1] == ["serve"]:
        from . import serve

        return serve.main(args[1:])
    from ..training import runs
    from ..training.quiet import be_quiet

    be_quiet()
    threading.excepthook = _of_thread
    try:
        return _run_with_torch(args[:1], args[1:])
    finally:
        threading.excepthook = threading.__excepthook__
        if not begun():
            runs.abandon()
        runs.release()


def _run_with_torch(command: list[str], rest: list[str]) -> int:
    if command == ["export"]:
        from . import export

        return export.main(rest)
    if command == ["predict"]:
        from . import predict_files

        if predict_files.asked_for(rest):
            return predict_files.main(rest)
    if command == ["compare"]:
        from ..studies import compare

        return compare.main(rest)
    if command == ["diagnose"]:
        from . import diagnose

        return diagnose.main(rest)
    if command == ["report"]:
        from . import report

        return report.main(rest)
    from ..training.quiet import be_quiet
    from .messages import check_files
    from .parser import CLI
    from .source import with_checkpoint

    if command == ["benchmark"]:
        from ..studies import benchmark

        return benchmark.main(rest, CLI, be_quiet)
    if command == ["sweep"]:
        from ..studies import sweep  # needs Optuna, an extra

        return sweep.main(rest, CLI, be_quiet)
    check_files(rest)
    with with_checkpoint([*command, *rest]) as resolved:
        CLI(resolved)
    return 0


def _of_thread(what: Any) -> None:
    """TensorBoard's thread that cannot write: the run itself says so at its own next file."""
    if not issubclass(what.exc_type, OSError):
        threading.__excepthook__(what)


def _resume(args: list[str]) -> str:
    how = "" if args[:1] in (["sweep"], ["benchmark"]) else " and --ckpt_path last"
    return f"resume with the same command{how}"


def _first_here() -> bool:
    """Whether this is the only process on its machine, or the first of those that share a run: all say the same."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def user_message(error: BaseException) -> str | None:
    """What the user got wrong, in one line; None for an error of the program's."""
    if isinstance(error, UserError):
        return one_line(error)
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.multiprocessing.ProcessRaisedException):  # of a process of a strategy's
        name, _, message = str(error).strip().splitlines()[-1].partition(": ")
        return message if name.endswith("UserError") else None
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else f"{error.strerror} ({ROOM})"
    return None


def lost_process(error: BaseException) -> str | None:
    """What became of another process of the run, where that is why this one cannot go on."""
    torch = sys.modules.get("torch")
    if torch and isinstance(error, torch.multiprocessing.ProcessExitedException):
        why = error.signal_name or f"exit code {error.exit_code}"
        return f"process {error.error_index} of the run has died ({why})"
    # gloo's errors have no class of their own, and a forked process hands on no more than the text of its own
    if re.search(r"tcp/pair|Connection (closed|reset) by peer|Dist(Backend|Network)Error", f"{type(error)} {error}"):
        return "another process of the run has died"
    return None
