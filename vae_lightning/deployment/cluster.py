"""Parts scored by a Ray cluster: Ray Data hands them to a pool of scorers, and whatever dies is started again.

A part is the unit of work, and its output the record that it is done: written beside and renamed, so a part that is
scored twice, because a worker or the driver was killed in between, still has one output with each row once. Nothing
is appended, and no checkpoint of the engine's is relied on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .parts import Part, Scored, score_part
from .scorer import Scorer


class Worker:
    """An actor with a scorer of its own.

    Args:
        detector: What ``Scorer`` opens, on the worker's machine.
        explain: Reasons beside each score.
    """

    def __init__(self, detector: str, explain: int | None = None) -> None:
        self.scorer, self.explain = Scorer(detector, threads=1), explain

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts = [Part(*pair) for pair in zip(batch["source"], batch["output"], strict=True)]
        found = [score_part(self.scorer, part, self.explain) for part in parts]
        plain = "source", "rows", "anomalies"
        columns: dict[str, Any] = {name: [getattr(one, name) for one in found] for name in plain}
        return {
            **columns,
            "notes": ["\n".join(one.notes) for one in found],
            "error": [one.error or "" for one in found],
        }


def scored(
    detector: str, parts: list[Part], jobs: int, address: str | None = None, explain: int | None = None
) -> Iterator[Scored]:
    """What became of each part, in the order in which they are done.

    Args:
        detector: What ``Scorer`` opens; every machine of the cluster sees it, the parts and their outputs under
            these paths.
        parts: To be scored.
        jobs: Scorers at most, each on one core.
        address: Of the cluster; None starts one on this machine.
        explain: Reasons beside each score.

    Raises:
        UserError: Without Ray, or when the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray: pip install 'vae_lightning[ray]'") from None
    if not parts:
        return
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        ray.init(address, num_cpus=None if address else jobs, include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {address}: {' '.join(str(error).split())[:200]}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.verbose_progress = False
        blocks = min(len(parts), 100_000)
        dataset = ray.data.from_items([part._asdict() for part in parts], override_num_blocks=blocks)
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=jobs)
        given: dict[str, Any] = {"fn_constructor_args": (detector, explain), "compute": pool}
        found = dataset.map_batches(Worker, batch_size=1, num_cpus=1, **given)
        for row in found.iter_rows():
            notes = tuple(row["notes"].split("\n")) if row["notes"] else ()
            yield Scored(row["source"], row["rows"], row["anomalies"], notes, row["error"] or None)
    finally:
        ray.shutdown()
