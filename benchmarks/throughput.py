"""Rows a second and memory of each way to score payments: from the bare onnxruntime to a cluster and a server.

    python benchmarks/throughput.py --out results/throughput.json

The lake is a folder of Parquet files. `score` is a process of its own, measured from its start to its end, and its peak
resident size is the system's own figure; the largest of its worker processes counts for ``--jobs 2``. Its speed without
its start is what two lakes, one four times the other, take more or less of each other.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
from serve_load import asked
from serving import (
    command,
    environment,
    fastest,
    finished,
    load,
    machine,
    payments,
    rows_per_second,
    served,
    write_detector,
)

from vae_lightning.deployment.manifest import INPUT
from vae_lightning.deployment.scorer import Scorer

# by a small process: what is forked off a large one counts as large itself
MEASURE = """
import resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(code)
"""
FILES, ROWS = 8, 50_000  # of the larger lake; the smaller one has a quarter of the files
WAYS = {
    "score": [],
    "score --jobs 2": ["--jobs", "2"],
    "score --engine ray --jobs 1": ["--engine", "ray", "--jobs", "1"],
    "score --engine ray --jobs 2": ["--engine", "ray", "--jobs", "2"],
}


def in_process(detector: Path) -> dict[str, int]:
    """One core, batches of 1024 rows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(detector), options, ["CPUExecutionProvider"])
    scorer, table = Scorer(detector, threads=1), payments(20 * 1024, 3)
    x = scorer.encode(table)
    batches = [x[start : start + 1024] for start in range(0, len(x), 1024)]
    bare = fastest(lambda: [session.run(None, {INPUT: batch}) for batch in batches])
    return {
        "bare onnxruntime, encoded rows": rows_per_second(len(x), bare),
        "Scorer, encoded rows": rows_per_second(len(x), fastest(lambda: scorer.run(x))),
        "Scorer, a DataFrame": rows_per_second(len(x), fastest(lambda: scorer(table))),
    }


def scored(detector: Path, lake: Path, out: Path, options: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of the command."""
    line = command("score", "--detector", str(detector), "--input", str(lake), "--output", str(out), *options)
    measured = [sys.executable, "-c", MEASURE, *line]
    done = subprocess.run(measured, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed: {done.stderr}")
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def way(detector: Path, folder: Path, name: str, options: list[str]) -> dict[str, Any]:
    """What one way takes of the smaller lake and of the larger one."""
    (few, low), (many, high) = (
        scored(detector, folder / lake, folder / f"{lake} by {name}", options) for lake in ("small", "large")
    )
    more = FILES * ROWS * 3 // 4
    return {
        "seconds small": round(few, 1),
        "seconds large": round(many, 1),
        "rows/s": rows_per_second(FILES * ROWS, many),
        "rows/s without the start": rows_per_second(more, many - few) if many - few > 0.5 else None,
        "peak MB small": round(low),
        "peak MB large": round(high),
    }


def over_http(detector: Path) -> dict[str, Any]:
    """Eight clients, requests of 1000 rows."""
    with served(detector) as (url, _):
        return {
            f"serve, {kind}, 1000 rows a request": asyncio.run(asked(url, 8, 6, 1000, kind))
            for kind in ("JSON", "Parquet")
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, "serve"], default=[*WAYS, "serve"])
    given = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "load before": load(), "rows": {"large": FILES * ROWS}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        detector = write_detector(folder)
        figures["one core, rows/s"] = in_process(detector)
        print(figures, flush=True)
        for i in range(FILES):
            table = payments(ROWS, 10 + i)
            for lake in ("large", "small")[: 2 if i < FILES // 4 else 1]:
                (folder / lake).mkdir(exist_ok=True)
                table.to_parquet(folder / lake / f"{i:02}.parquet")
        figures["row bytes"] = round(sum(f.stat().st_size for f in (folder / "large").iterdir()) / (FILES * ROWS), 1)
        figures["row bytes as CSV"] = round(len(table.to_csv(index=False)) / len(table), 1)
        for name in [name for name in WAYS if name in given.ways]:
            figures[name] = way(detector, folder, name, WAYS[name])
            print(name, figures[name], flush=True)
        if "serve" in given.ways:
            figures |= over_http(detector)
    finished(figures, given.out)


if __name__ == "__main__":
    main()
