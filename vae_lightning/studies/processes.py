"""Processes of one machine that share work: started again when they die, and never two at the same piece."""

from __future__ import annotations

import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch

from ..errors import UserError


def run(jobs: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work(*arguments)`` here, or in several processes at once, each of which shall come back when nothing is
    left to do.

    Args:
        jobs: How many processes; 1 is this one.
        work: A module's function.
        arguments: Its own.

    Raises:
        UserError: When processes keep dying.
    """
    if jobs == 1:
        return work(*arguments)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, min(torch.get_num_threads(), cores // jobs))
    # forks of a clean process: a fork of this one would share database connections, threads and CUDA
    context = multiprocessing.get_context("forkserver")
    modules = {argument.__module__ for argument in (work, *arguments) if hasattr(argument, "__module__")}
    context.set_forkserver_preload([__name__, *sorted(modules)])  # imported once for all

    def start() -> Any:
        process = context.Process(target=_worker, args=(threads, work, arguments))
        process.start()
        return process

    spares = 3 * jobs  # a process may run out of memory or be killed; all of them, again and again, may not
    alive: list[Any] = []
    try:
        alive += [start() for _ in range(jobs)]
        while alive:
            multiprocessing.connection.wait([process.sentinel for process in alive])
            ended = [process for process in alive if not process.is_alive()]
            alive = [process for process in alive if process.is_alive()]
            for process in ended:
                if process.exitcode == 0:
                    continue
                if spares == 0:
                    raise UserError(f"--jobs {jobs}: processes keep dying (exit code {process.exitcode}): try fewer")
                spares -= 1
                alive.append(start())
    finally:  # interrupted: each leaves what it has done in order
        for process in alive:
            process.terminate()
        for process in alive:
            process.join()
    return None


def _worker(threads: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """One of several processes, which ends with the one that started it."""

    def follow() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)  # killed, it cannot say so: nobody would wait for what is done here

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(1)  # the process that started this one says so, or starts another if it was not meant
