"""What the benchmarks of serving and scoring share: a detector of payments in a file, and rows to score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import vae_lightning as vl
from vae_lightning.data import Table
from vae_lightning.data.records import records
from vae_lightning.deployment.export import export
from vae_lightning.models import Mixed
from vae_lightning.scores import NegativeELBO

ROOT = Path(__file__).parents[1]


def payments(rows: int, seed: int) -> pd.DataFrame:
    """Card payments without their labels: six numbers, five categories, gaps."""
    table = pd.DataFrame(records(rows, anomalies=0.01, seed=seed))
    return table.drop(columns=["label", "time"])


def write_detector(folder: Path) -> Path:
    """A VAE of payments, trained for a moment and exported to ``detector.onnx``; beside it ``detector.ckpt``."""
    warnings.simplefilter("ignore")
    data = Table(payments(20_000, 0), id="id", cache=str(folder / "cache"))
    model = vl.VAE(data.input_shape, vl.MLP([64, 32]), 8, Mixed(), scores=[NegativeELBO()])
    detector = vl.fit(model, data, max_epochs=3, verbose=False, device="cpu").detector
    detector.save(folder / "detector.ckpt")
    export(detector, folder / "detector.onnx")
    return folder / "detector.onnx"


def fastest(function: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of some calls, after one that warms up."""
    function()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        found.append(time.perf_counter() - started)
    return min(found)


def finished(figures: dict[str, Any], out: Path | None) -> None:
    """Print the figures, with the load at their end, and write them to a JSON file if one is given."""
    figures["load after"] = load()
    print(json.dumps(figures, indent=2))
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n")


def machine() -> str:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores, {names[0]}"


def load() -> float:
    """How many processes want a core, over the last minute: others' work makes figures worse."""
    return round(os.getloadavg()[0], 1)


def command(*arguments: str) -> list[str]:
    """A command of the package."""
    return [sys.executable, "-m", "vae_lightning", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@contextmanager
def served(detector: Path, *options: str) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its address and process id."""
    line = command("serve", "--detector", str(detector), "--port", "0", *options)
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.stdout.readline().split()[-1], process.pid
    finally:
        process.terminate()
        process.wait()


def resident(pid: int) -> float:
    """The resident size of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def rows_per_second(rows: int, seconds: float) -> int:
    return int(float(np.format_float_positional(rows / seconds, 3, fractional=False)))
