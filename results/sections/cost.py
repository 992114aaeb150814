"""Time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sections.common import figures, table


def speed() -> Iterator[str]:
    yield from beside_a_loop()
    yield from promises()
    memory, large = figures("peak_memory.json"), figures("table_scale.json")
    above, data = memory["above"], memory["data set"]
    yield f"Peak memory on MNIST: {above:.0f} MB above the bare imports, for {data:.0f} MB of data.\n"
    share = large["predict, share of the bare speed"]
    yield (
        f"A table of {large['rows']:,} rows and {large['columns']} columns, {large['parquet_gb']} GB of Parquet "
        f"(`benchmarks/table_scale.py`): peak memory {large['fit']['peak_rss_gb']:.2f} GiB for an epoch of `fit`, "
        f"{large['predict']['peak_rss_gb']:.2f} GiB for `predict`, which reaches {share:.0%} of the speed of reading "
        "the rows and sending numbers through the network.\n"
    )


def beside_a_loop() -> Iterator[str]:
    times = figures("epoch_time.json")
    yield f"**Speed** (`benchmarks/epoch_time.py`; {times['machine']}): what `fit` takes of a loop written by hand.\n"
    rivals = {"in memory": "tensors in memory, fused Adam", "dataset": "Dataset, ToTensor, DataLoader"}
    parts = ["training", "whole epoch"]
    body = [
        [title, *(f"{times[f'{part}, {name}']['fit takes']:.2f}×" for part in parts)] for name, title in rivals.items()
    ]
    yield from table(["loop", *parts], body)


def promises() -> Iterator[str]:
    """A row for each promise: what is timed, against what, how it came out, and what was to be reached."""
    found = figures("speed.json")
    if found is None:
        return
    machines = "; ".join(dict.fromkeys(row["machine"] for row in found.values()))
    yield f"**Promises of speed** (`benchmarks/speed.py`; {machines}): how many times as long, medians of ratios.\n"
    body = [[row["what"], row["against"], *outcome(row)] for row in found.values()]
    yield from table(["what", "against", "measured", "goal", ""], body)


def outcome(row: dict[str, Any]) -> list[str]:
    """The measured ratio, the goal, and what there is to say of them."""
    value, goal, most = row["value"], row["goal"], row.get("most", True)
    missed = value is not None and (value > goal if most else value < goal)
    shown = "–" if value is None else f"{value:.3f}" if most else f"{value:.1f}× as many"
    return [shown, f"{'≤' if most else '≥'} {goal:g}", "; ".join(filter(None, ["missed" * missed, row.get("notes")]))]
