"""Memory and time of ``fit`` and ``predict`` on a table of ten million rows and fifty columns.

    python benchmarks/table_scale.py --out results/table_scale.json

The table is a folder of Parquet parts, about 1.9 GB, made in the folder for temporary files and removed afterwards; its
encoded rows take another 2 GB. Each command runs in a fresh process, whose peak resident size and wall time are
measured. ``fit`` is one epoch of a small VAE: it goes through the table once to see what its columns hold and once to
encode them, trains on eight million rows in random order, and calibrates. ``predict`` scores all rows into a Parquet
file. It is held against the bare work: the same files read by pyarrow and let go, and as many rows that are numbers
already through the detector's graph in batches of the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vae_lightning import Detector
from vae_lightning.detection.modes import evaluating

ROOT = Path(__file__).parents[1]
COLUMNS, CATEGORIES, PARTS = 50, 8, 10
BATCH, REPEATS = 16_384, 100  # rows at once, as in ``predict``; how often for the forward pass
CONFIG = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "num_sanity_val_steps": 0},
    "model": {
        "class_path": "VAE",
        "init_args": {
            "network": {"class_path": "MLP", "init_args": {"hidden": [64]}},
            "latent_dim": 8,
            "likelihood": "Mixed",
            "scores": ["NegativeELBO"],
        },
    },
    "data": {"class_path": "Table", "init_args": {"train": "table", "label": "strange", "batch_size": 1024}},
}


def make(folder: Path, rows: int) -> None:
    """Write a table of numbers and categories that hang together, with gaps, 2 % of the rows anomalous."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, COLUMNS - CATEGORIES - 1)).astype(np.float32)
    words = np.array([f"level {i}" for i in range(30)])
    for part in range(PARTS):
        with pq.ParquetWriter(folder / f"part-{part:02}.parquet", _batch(rng, weights, words, 1).schema) as writer:
            for n in np.diff(np.linspace(0, rows // PARTS, 11).astype(int)):
                writer.write_batch(_batch(rng, weights, words, int(n)))


def _batch(rng: np.random.Generator, weights: np.ndarray, words: np.ndarray, n: int) -> pa.RecordBatch:
    strange = rng.random(n) < 0.02
    z = rng.standard_normal((n, 4), dtype=np.float32)
    numbers = z @ weights + 0.3 * rng.standard_normal((n, weights.shape[1]), dtype=np.float32)
    numbers[strange] += 1.5 * rng.standard_normal((int(strange.sum()), weights.shape[1]), dtype=np.float32)
    numbers[:, 0][rng.random(n) < 0.05] = np.nan
    columns = {f"number {i}": pa.array(column, from_pandas=True) for i, column in enumerate(numbers.T)}
    for i in range(CATEGORIES):
        level = np.clip(10 + 3 * z[:, i % 4] + rng.standard_normal(n), 0, 29).astype(int)
        columns[f"category {i}"] = pa.array(words[np.where(strange, rng.integers(0, 30, n), level)])
    return pa.record_batch({**columns, "strange": pa.array(strange)})


def measured(folder: Path, *arguments: str) -> dict[str, float]:
    """Peak resident size in GB and wall time in seconds of a command of the package."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "vae_lightning", *arguments], cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return {
        "peak_rss_gb": round(usage.ru_maxrss / 2**20, 2),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def bare(folder: Path) -> dict[str, float]:
    """Seconds for reading all rows, and for the network's share of scoring them."""
    detector = Detector.load(folder / "lightning_logs" / "config" / "version_0")
    rows, reading = 0, 0.0
    for path in sorted((folder / "table").iterdir()):
        started = time.perf_counter()
        for batch in pq.ParquetFile(path).iter_batches(BATCH):
            rows += batch.num_rows
        reading += time.perf_counter() - started
    kept = detector.model.canary  # raw calibration samples
    raw = kept[torch.arange(BATCH) % len(kept)]
    with torch.inference_mode(), evaluating(detector.model):
        detector.graph(raw)
        started = time.perf_counter()
        for _ in range(REPEATS):
            detector.graph(raw)
        forward = (time.perf_counter() - started) / REPEATS / BATCH * rows
    return {"reading_seconds": round(reading, 1), "forward_seconds": round(forward, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where the table is made, and kept; without it, it is removed")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "table").exists():
            make(folder / "table", args.rows)
        (folder / "config.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML
        size = sum(path.stat().st_size for path in (folder / "table").iterdir()) / 1e9
        figures = {"rows": args.rows, "columns": COLUMNS, "parquet_gb": round(size, 2)}
        figures["fit"] = measured(folder, "fit", "--config", "config.yaml")
        files = ["--input", "table", "--output", "scored.parquet"]
        figures["predict"] = measured(folder, "predict", "--ckpt_path", "best", *files)
        figures["bare"] = bare(folder)
        share = sum(figures["bare"].values()) / figures["predict"]["seconds"]
        figures["predict, share of the bare speed"] = round(share, 3)
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
