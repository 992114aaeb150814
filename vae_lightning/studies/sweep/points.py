"""What a sweep found: a row for each trial, a point for each setting over its seeds, and the best of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import TrialState

from .plan import SEED, Plan
from .trials import Trials, choice


@dataclass
class Row:
    """One slot of a sweep."""

    slot: int
    state: str  # complete, pruned, failed, or running elsewhere
    values: dict[str, Any]  # of the search space; labels instead of objects
    metrics: dict[str, float]
    epochs: int | None
    seconds: float | None  # of all attempts that went on from one another
    attempts: int
    error: str


@dataclass
class Point:
    """One point of the search space: the rows that differ in nothing but the seed."""

    values: dict[str, Any]
    rows: list[Row]

    def all(self, metric: str) -> np.ndarray:
        """The metric of each finished row, (seeds,)."""
        return np.array([row.metrics[metric] for row in self.rows if metric in row.metrics], dtype=float)

    def mean(self, metric: str) -> float:
        """NaN where no row has it."""
        found = self.all(metric)
        return float(found.mean()) if len(found) else float("nan")

    @property
    def complete(self) -> bool:
        """Whether all rows ended well: a mean over fewer seeds is not compared."""
        return all(row.state == "complete" for row in self.rows)


def rows(trials: Trials) -> list[Row]:
    """One row a slot, whatever became of it."""
    found = []
    for slot, attempts in trials.by_slot().items():
        trial = trials.counted(attempts) or (attempts[-1] if attempts else None)
        if trial is None:
            continue
        attrs = trial.user_attrs
        state = {TrialState.FAIL: "failed", TrialState.WAITING: "failed"}.get(trial.state, trial.state.name.lower())
        known = {key: choice(value) for key, value in trials.plan.cell(slot).items()}
        tried = sum("passed" not in attempt.user_attrs for attempt in attempts)
        found.append(
            Row(
                slot=slot,
                state=state,
                values={**known, **trial.params},
                metrics=attrs.get("metrics", {}),
                epochs=attrs.get("epochs"),
                seconds=attrs.get("seconds"),
                attempts=tried,
                error=attrs.get("error", ""),
            )
        )
    return found


def points(found: list[Row]) -> list[Point]:
    """Rows put together that differ in the seed alone, in their order."""
    together: dict[str, Point] = {}
    for row in found:
        values = {key: value for key, value in row.values.items() if key != SEED}
        together.setdefault(json.dumps(values), Point(values, [])).rows.append(row)
    return list(together.values())


def front(values: np.ndarray, directions: list[str]) -> np.ndarray:
    """Which points no other dominates, bool (N,), of objectives (N, k).

    A point dominates another if it is at least as good in each objective and better in one. With one objective these
    are the best points.
    """
    costs = values * np.where(np.array(directions) == "maximize", -1.0, 1.0)
    no_worse = (costs[:, None] <= costs[None]).all(-1)  # [i, j]: i is at least as good as j
    better = (costs[:, None] < costs[None]).any(-1)
    return np.asarray(~(no_worse & better).any(0))


def best(plan: Plan, found: list[Point]) -> list[Point]:
    """The Pareto front by the objectives, validation's; nothing of the test enters."""
    whole = [point for point in found if point.complete]
    if not whole:
        return []
    values = np.array([[point.mean(name) for name in plan.objectives] for point in whole])
    return [point for point, on in zip(whole, front(values, list(plan.objectives.values())), strict=True) if on]
