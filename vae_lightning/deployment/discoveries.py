"""Decisions over all files of a folder at once: a second pass, over their p-values alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .. import arrow, levels
from ..data.readers import open_table
from .writers import writing


def decide(files: Iterable[Path], level: float, calibration: int) -> tuple[int, list[str]]:
    """Decide by Benjamini and Hochberg's procedure over the p-values in all files, and write the decisions into them.

    A p-value is one of n + 1 numbers, so how often each occurs is all there is to remember. A file whose decisions
    change is written anew, whole or not at all: a pass that was stopped is started again.

    Args:
        files: Outputs of ``score``.
        level: The false discovery rate, see ``benjamini_hochberg``.
        calibration: The number n of calibration samples.

    Returns:
        How many are anomalies, and what the user ought to know, each a line.
    """
    files, counts = list(files), Counter[float]()
    for file in files:
        for batch in open_table(file).batches(columns=["p_value"]):
            values, often = np.unique(_p_values(batch), return_counts=True)
            counts.update(dict(zip(values.tolist(), often.tolist(), strict=True)))
    values = np.array(sorted(counts))
    cutoff = levels.fdr_cutoff(values, np.array([counts[value] for value in values]), level) if counts else 0.0
    for file in files:
        _rewrite(file, cutoff)
    found = sum(count for value, count in counts.items() if value <= cutoff)
    m = sum(counts.values())
    needed = int(np.ceil(m / level)) - 1  # 1 / (n + 1) ≤ level / m
    if not found and calibration < needed:
        what = f"fdr = {level} with {m:,} samples"
        return 0, [f"{what}: a single alarm needs {needed:,} calibration samples, there are {calibration:,}"]
    return found, []


def _rewrite(file: Path, cutoff: float) -> None:
    """Write a file anew unless its decisions are p ≤ cutoff already."""
    pa, source = arrow.pyarrow(), open_table(file)
    same = all(
        np.array_equal(_truth(batch), _p_values(batch) <= np.float32(cutoff))
        for batch in source.batches(columns=["p_value", "anomaly"])
    )
    if same:
        return
    i = source.names.index("anomaly")
    schema = source.schema.set(i, pa.field("anomaly", pa.bool_(), False))
    with writing(file, schema) as write:
        for batch in source.batches():
            decided = pa.array(_p_values(batch) <= np.float32(cutoff))
            write(pa.RecordBatch.from_arrays([*batch.columns[:i], decided, *batch.columns[i + 1 :]], schema=schema))


def _p_values(batch: Any) -> np.ndarray:
    return arrow.numbers(arrow.pyarrow().chunked_array([batch.column("p_value")]), "p_value").astype(np.float32)


def _truth(batch: Any) -> np.ndarray:
    return arrow.numbers(arrow.pyarrow().chunked_array([batch.column("anomaly")]), "anomaly") > 0
