"""The table of speed, out of speed.json: a part of what report.py writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent


def lines() -> Iterator[str]:
    """A row for each promise: what is timed, against what, how it came out, and what was to be reached."""
    found = json.loads((HERE / "speed.json").read_text())
    machines = "; ".join(dict.fromkeys(row["machine"] for row in found.values()))
    yield f"**Speed** (`python benchmarks/speed.py`; {machines}): how many times as long, medians of ratios.\n"
    yield "| what | against | measured | goal | |"
    yield "| --- | --- | --- | --- | --- |"
    for row in found.values():
        most = row.get("most", True)
        value = "–" if row["value"] is None else f"{row['value']:.2f}" if most else f"{row['value']:.1f}× as many"
        goal = f"{'≤' if most else '≥'} {row['goal']:g}"
        reached = row["value"] is not None and (row["value"] <= row["goal"] if most else row["value"] >= row["goal"])
        said = "; ".join(filter(None, [None if reached or row["value"] is None else "missed", row.get("notes")]))
        yield f"| {row['what']} | {row['against']} | {value} | {goal} | {said} |"
    yield ""
