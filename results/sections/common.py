"""What all sections share: files read, rows grouped, tables written as Markdown."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]  # where the figures lie


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(newline="") as file:
        return list(csv.DictReader(file))


def figures(name: str) -> Any:
    """The content of a JSON file; None as long as it has not been measured."""
    path = HERE / name
    return json.loads(path.read_text()) if path.exists() else None


def spread(values: list[float], digits: int = 4) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def table(head: list[str], body: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in body)
    yield ""


def grouped(name: str, *keys: str) -> dict[str, list[dict[str, str]]]:
    """The rows of a file by their values of ``keys``, ``2, 0.1`` for two; those of one group differ in the seed."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows(name):
        groups.setdefault(", ".join(row[key] for key in keys), []).append(row)
    return groups


def column(found: list[dict[str, str]], metric: str) -> list[float]:
    return [float(row[metric]) for row in found]


def study(name: str, key: str, metrics: list[str], digits: int = 4) -> Iterator[str]:
    """A sweep's metrics for each value of ``key``, over its seeds."""
    groups = grouped(name, key)
    body = [[value, *(spread(column(found, m), digits) for m in metrics)] for value, found in groups.items()]
    yield from table([key.rpartition(".")[2], *metrics], body)


def compared(name: str, metric: str, digits: int = 4) -> list[str]:
    """A metric of each group of ``compare``'s table, as mean ± standard deviation where there is more than one seed."""
    cells = [(float(row[metric]), row.get(f"{metric} std") or "nan") for row in rows(name)]
    return [f"{mean:.{digits}f}" + (f" ± {float(std):.{digits}f}" if std != "nan" else "") for mean, std in cells]


def bars(seeds: int) -> str:
    """What ± is over some seeds, as a sentence."""
    if seeds > 2:
        return f"± is the standard deviation over {seeds} seeds."
    return "± is over two seeds and no spread: it says how far two runs lie apart. A spread needs at least three seeds."


def time(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.0f}"
