"""Parts scored by processes of this machine, each with a scorer of its own."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from ..errors import UserError
from .parts import Part, Scored, score_part
from .scorer import Scorer

_scorer: Scorer  # of a worker process


def scored(detector: str, parts: list[Part], jobs: int, explain: int | None = None) -> Iterator[Scored]:
    """What became of each part, in the order in which they are done.

    Args:
        detector: What ``Scorer`` opens.
        parts: To be scored.
        jobs: Processes; 1 is this one.
        explain: Reasons beside each score.

    Raises:
        UserError: When a process was killed. What is done stays done.
    """
    if jobs == 1:
        scorer = Scorer(detector)
        yield from (score_part(scorer, part, explain) for part in parts)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(min(jobs, max(1, len(parts))), context, _open, (detector,)) as pool:
        waiting = iter(parts)
        running: set[Future[Scored]] = set()
        try:
            while True:
                for part in waiting:  # no more than are needed: a list of a million tasks would take gigabytes
                    running.add(pool.submit(_score, part, explain))
                    if len(running) >= 2 * jobs:
                        break
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps because memory ran out: run the same command again, which "
                "continues where it stopped, with fewer --jobs"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _open(detector: str) -> None:
    global _scorer
    warnings.simplefilter("ignore")  # what a user ought to know is in the notes
    _scorer = Scorer(detector, threads=1)


def _score(part: Part, explain: int | None) -> Scored:
    return score_part(_scorer, part, explain)
