"""SIGTERM and the processes of a run: one is told, all end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

GRACE = 30.0  # seconds for the others to end


@contextlib.contextmanager
def ended_together(trainer: Any) -> Iterator[None]:
    """Within, SIGTERM to the process that has started the others ends all of them, each at the end of its step.

    Lightning's own handler has the processes exchange a tensor wherever each of them happens to be, perhaps within
    another exchange; and processes that it has forked outlive the one that they were forked from.

    Args:
        trainer: Before its fit.

    Raises:
        SIGTERMException: Once they have ended.
    """
    connector, launcher, parent = trainer._signal_connector, trainer.strategy.launcher, os.getpid()

    def noted(number: int, _: Any) -> None:
        if launcher is not None and not connector.received_sigterm:
            launcher.kill(number)
        connector.received_sigterm = True

    def stop(number: int, _: Any) -> None:
        if os.getpid() == parent:  # the others are forked with this handler, and have Lightning's as well
            launcher.kill(number)
            for process in launcher.procs:
                process.join(GRACE)
            raise SIGTERMException

    before = None
    if hasattr(connector, "_sigterm_notifier_fn"):
        connector._sigterm_notifier_fn = noted
    if isinstance(launcher, _MultiProcessingLauncher) and threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        vars(connector).pop("_sigterm_notifier_fn", None)
        if before is not None and os.getpid() == parent:
            signal.signal(signal.SIGTERM, before)
