"""Processes of one machine that share work: started anew when they die, and never two at the same piece."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError

Work = Callable[..., None]

OWNED = ("config", "runs", "experiment", "ckpt_path", "model.init_args.input_shape")  # a study or the data set them
# where and how visibly a run is made says nothing about what it comes to: machines of one study may differ in it
PLACE = ("trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.enable_", "data.init_args.root")


def as_text(value: Any) -> str:
    """A value as a command line has it."""
    return value if isinstance(value, str) else json.dumps(value)


def run(jobs: int, be_quiet: Callable[[], None], work: Work, *arguments: Any) -> None:
    """Call ``work(*arguments)`` here, or in several processes at once, each of which shall come back when nothing is
    left to do.

    Args:
        jobs: How many processes; 1 is this one.
        be_quiet: Silences what a user can do nothing about; called in each process.
        work: A module's function.
        arguments: Its own.

    Raises:
        UserError: When processes keep dying.
    """
    if jobs == 1:
        quiet(be_quiet)
        return work(*arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, min(torch.get_num_threads(), cores // jobs))
    # forks of a clean process: a fork of this one would share database connections, threads and CUDA
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, work.__module__, be_quiet.__module__])  # imported once for all
    spares = 3 * jobs  # a process may run out of memory or be killed; all of them, again and again, may not
    start = (be_quiet, threads, work, arguments)
    processes = [context.Process(target=_worker, args=start) for _ in range(jobs)]
    for process in processes:
        process.start()
    try:
        while processes:
            multiprocessing.connection.wait([process.sentinel for process in processes])
            ended = [process for process in processes if not process.is_alive()]
            processes = [process for process in processes if process.is_alive()]
            for process in ended:
                if process.exitcode == 0:
                    continue
                if spares == 0:
                    raise UserError(f"--jobs {jobs}: processes keep dying (exit code {process.exitcode}): try fewer")
                spares -= 1
                processes.append(context.Process(target=_worker, args=start))
                processes[-1].start()
    finally:  # interrupted: each leaves what it has done in order
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    return None


def _worker(be_quiet: Callable[[], None], threads: int, work: Work, arguments: tuple[Any, ...]) -> None:
    """One of several processes, which ends with the one that started it."""

    def follow() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)  # killed, it cannot say so: nobody would wait for what is done here

    threading.Thread(target=follow, daemon=True).start()
    quiet(be_quiet)
    torch.set_num_threads(threads)
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(1)  # the process that started this one says so, or starts another if it was not meant


def quiet(be_quiet: Callable[[], None]) -> None:
    """Many runs in a row say nothing of what each of them would."""
    be_quiet()
    for name in ("lightning.pytorch", "lightning.fabric"):  # which devices there are, once per run
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a file's lock, which the system releases with the process; False if another process has it."""
    with path.open("w") as file:
        yield _acquire(file.fileno(), wait)


def free(path: Path) -> bool:
    """Whether no process has the lock."""
    if not path.exists():
        return True
    with path.open() as file:
        return _acquire(file.fileno(), wait=False)


def _acquire(handle: int, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
