"""The results of a sweep: a table, ``results.csv`` and pictures, all out of the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_csv
from ..tasks import as_text
from .pictures import write_pictures
from .plan import SEED, Plan, label, short
from .points import Point, Row, best, points, rows
from .trials import Trials


def write(plan: Plan, trials: Trials) -> str:
    """Write ``results.csv`` and the pictures into the study's folder; the table, and where everything lies."""
    found = rows(trials)
    together = points(found)
    chosen = best(plan, together)
    written = [_write_csv(plan, found, chosen), *write_pictures(plan, together, chosen)]
    failed = [f"trial {row.slot} failed: {row.error}" for row in found if row.state == "failed"]
    return "\n".join(["", *_table(plan, together, chosen), "", *failed, *(f"wrote        {path}" for path in written)])


def _write_csv(plan: Plan, found: list[Row], chosen: list[Point]) -> Path:
    metrics = [*plan.objectives, *plan.show]
    metrics += sorted({name for row in found for name in row.metrics} - set(metrics))
    path = plan.folder / "results.csv"
    lines: list[list[Any]] = [
        ["trial", "state", "best", *plan.search, *metrics, "epochs", "seconds", "attempts", "error"]
    ]
    for row in found:
        on = int(any(row in point.rows for point in chosen))
        values = [_cell(row.values.get(key)) for key in plan.search]
        numbers = [_cell(row.metrics.get(name)) for name in metrics]
        more = [_cell(row.epochs), _cell(row.seconds), row.attempts, row.error]
        lines.append([f"trial_{row.slot:03d}", row.state, on, *values, *numbers, *more])
    write_csv(path, lines)
    return path


def _cell(value: Any) -> str:
    return "" if value is None else as_text(value)


def _table(plan: Plan, found: list[Point], chosen: list[Point]) -> list[str]:
    keys = [key for key in plan.search if key != SEED]
    metrics = [*plan.objectives, *(name for name in plan.show if name not in plan.objectives)]
    lines = [["", "trial", *(short(key, keys) for key in keys), *metrics, "epochs", "seconds"]]
    for point in found:
        states = sorted({row.state for row in point.rows} - {"complete"})
        lines.append(
            [
                "*" if point in chosen else "",
                ",".join(str(row.slot) for row in point.rows) + (f" {'/'.join(states)}" if states else ""),
                *(label(point.values.get(key, ""), 4) for key in keys),
                *(_spread(point.all(name)) for name in metrics),
                ",".join(dict.fromkeys(str(row.epochs) for row in point.rows if row.epochs is not None)),
                f"{sum(row.seconds or 0 for row in point.rows):.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    by = " and ".join(f"{name} ({direction}d)" for name, direction in plan.objectives.items())
    what = "on the Pareto front of" if len(plan.objectives) > 1 else "best by"
    seeds = "; mean ± standard deviation over seeds" if SEED in plan.search else ""
    return [*text, "", f"* {what} {by}; test/… is shown, and chooses nothing{seeds}"]


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")
