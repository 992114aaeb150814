"""The results of a benchmark: AUROC by method and class, out of its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import write_csv, write_whole
from ..training import runs
from ..training.callbacks.metrics import SCORES
from . import benchmark_pictures
from .markdown import markdown_table

PROTOCOLS = {"one_class": "one class is normal", "leave_one_class_out": "one class is the anomaly"}
BASELINES = "baselines.json"


@dataclass
class Row:
    """The AUROC of one method on one test split."""

    data: str
    protocol: str
    label: int
    method: str
    seed: int
    auroc: float
    epochs: int | None = None  # of the training
    seconds: float | None = None


def rows(folder: Path) -> list[Row]:
    """All that a benchmark's folder holds, whichever command lines it comes from; a run's first score comes first."""
    found = []
    for path in folder.glob(f"*/*/class_*/seed_*/{runs.RESULTS}"):
        data, protocol, c, seed = path.parts[-5:-1]
        content = json.loads(path.read_text())
        metrics = content["metrics"]
        with np.load(path.parent / SCORES) as scores:
            methods = [name for name in scores.files if name != "labels"]
        for method in methods:
            auroc = metrics.get(f"test/auroc/{method}", metrics["test/auroc"])  # a single score is logged once
            cost = (content["epochs"], content["seconds"])
            found.append(Row(data, protocol, _number(c), method, _number(seed), auroc, *cost))
    for path in folder.glob(f"*/*/class_*/{BASELINES}"):
        data, protocol, c = path.parts[-4:-1]
        for method, aurocs in json.loads(path.read_text()).items():
            found += [Row(data, protocol, _number(c), method, seed, auroc) for seed, auroc in enumerate(aurocs)]
    methods = list(dict.fromkeys(row.method for row in found))
    order = list(PROTOCOLS)
    return sorted(
        found, key=lambda row: (row.data, order.index(row.protocol), row.label, methods.index(row.method), row.seed)
    )


def _number(name: str) -> int:
    """3 of ``class_3``."""
    return int(name.partition("_")[2])


def report(folder: Path) -> list[str]:
    """Write ``results.csv`` and ``results.md`` into the benchmark's folder; the tables, and where they lie."""
    found = rows(folder)
    lines = []
    for data, protocol in dict.fromkeys((row.data, row.protocol) for row in found):
        own = [row for row in found if (row.data, row.protocol) == (data, protocol)]
        lines += [f"{data}, {PROTOCOLS[protocol]}: AUROC on the test split", "", *table(own), ""]
    lines += ["Mean ± standard deviation over seeds; the mean is over the classes, of each seed that has them all."]
    write_whole(folder / "results.md", "\n".join(lines) + "\n")
    head = ["data", "protocol", "class", "method", "seed", "auroc", "epochs", "seconds"]
    write_csv(folder / "results.csv", [head, *(vars(row).values() for row in found)])
    written = [folder / "results.csv", folder / "results.md", *benchmark_pictures.write(folder, found)]
    return [*lines, "", *(f"wrote        {path}" for path in written)]


def table(found: list[Row]) -> list[str]:
    """Methods by classes, in Markdown."""
    classes = sorted({row.label for row in found})
    lines = [["method", *map(str, classes), "mean"]]
    for method in dict.fromkeys(row.method for row in found):
        values = {(row.label, row.seed): row.auroc for row in found if row.method == method}
        seeds = sorted({seed for _, seed in values})
        cells = [[values[c, seed] for seed in seeds if (c, seed) in values] for c in classes]
        whole = [seed for seed in seeds if all((c, seed) in values for c in classes)]
        cells.append([float(np.mean([values[c, seed] for c in classes])) for seed in whole])
        lines.append([method, *map(_spread, cells)])
    return markdown_table(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
