"""No line that a user can do nothing about: for a whole process, or for the time of a call."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

IDLE_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning's own call
    r".*smaller than the logging interval.*",  # means are logged once an epoch
    r".*Checkpoint directory .* exists and is not empty.*",  # resuming goes on in the same folder
    r".*dirpath has changed.*",
    r".*scheduler is using 'interval': 'epoch'.*",  # as it is documented here
    r".*Precision .* is not supported by the model summary.*",  # its weights are kept in 32 bits all the same
)


CHATTY = "utilities.rank_zero", "trainer.connectors.checkpoint_connector"  # of lightning.pytorch


class Chatter(logging.Filter):
    """Keeps out Lightning's tips, and a line on `weights_only` for each checkpoint that is written."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "💡" not in message and "`weights_only` was not set" not in message


CHATTER = Chatter()


def be_quiet() -> None:
    """From now on, in this process."""
    for name in CHATTY:
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(CHATTER)
    for pattern in IDLE_WARNINGS:
        warnings.filterwarnings("ignore", pattern)


@contextlib.contextmanager
def quietly(*patterns: str) -> Iterator[None]:
    """Within, Lightning tells nothing but warnings; afterwards warnings and loggers are as they were.

    Args:
        *patterns: Of further warnings that are to be left out.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for pattern in (*IDLE_WARNINGS, r".*available but not used.*", *patterns):
            warnings.filterwarnings("ignore", pattern)
        try:
            for logger in loggers:
                logger.setLevel(max(logger.level, logging.WARNING))
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
