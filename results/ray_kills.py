"""What is left of a run on Ray when a worker is killed by SIGKILL; and when the driver is, and the run starts again.

python results/ray_kills.py

A lake of 60 files is scored by ``score --engine ray --jobs 2``. Once ten outputs are there, a process that scores is
killed; in the second experiment the command itself, which is then started again. Outputs are compared with those of the
plain loop, after sorting by id. Figures go to results/ray_kills.json.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

import vae_lightning as vl
from vae_lightning.deployment.export import export

FILES, ROWS = 60, 20_000
COLUMNS = [f"x{i}" for i in range(8)]


def started(folder: Path, out: str, *options: str) -> subprocess.Popen:
    line = ["score", "--detector", "detector.onnx", "--input", "lake", "--output", out, *options]
    line = [sys.executable, "-m", "vae_lightning", *line]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(line, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outputs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def scores(folder: Path) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, outputs(folder))).sort_values("id", ignore_index=True)


def compared(folder: Path, out: str) -> dict[str, object]:
    found, expected = scores(folder / out), scores(folder / "plain")
    same = len(found) == len(expected) and found["id"].equals(expected["id"])
    far = np.abs(found["ReconstructionError"] / expected["ReconstructionError"] - 1).max() if same else None
    return {
        "outputs": len(outputs(folder / out)),
        "rows lost": int((~expected["id"].isin(found["id"])).sum()),
        "rows doubled": int(found["id"].duplicated().sum()),
        "largest relative difference": None if far is None else float(far),
        "decisions that differ": int((found["anomaly"] != expected["anomaly"]).sum()) if same else None,
    }


def killed(folder: Path, out: str, worker: bool) -> dict[str, object]:
    """Kill a worker, or the command, once ten outputs are there; the command is started again if it did not finish."""
    begun, process = time.monotonic(), started(folder, out, "--engine", "ray", "--jobs", "2")
    while len(outputs(folder / out)) < 10:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    target = (
        next(p for p in family if "Worker" in " ".join(p.cmdline()) and "ray::" in " ".join(p.cmdline()))
        if worker
        else process
    )
    name = " ".join(target.cmdline())[:60] if worker else "the command"
    os.kill(target.pid, signal.SIGKILL)
    there = len(outputs(folder / out))
    code = process.wait()
    about = {"killed": name, "outputs when it was killed": there, "exit code": code}
    print(about, flush=True)
    if code:
        _, left = psutil.wait_procs(family, timeout=30)
        about["processes left after 30 s"] = len(left)
        about["half-written files"] = len(list((folder / out).glob(".*.parquet.*")))
        about["exit code of the second start"] = started(folder, out, "--engine", "ray", "--jobs", "2").wait()
    return {**about, "seconds": round(time.monotonic() - begun, 1), **compared(folder, out)}


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train = pd.DataFrame(rng.normal(size=(2000, 8)), columns=COLUMNS).assign(id=np.arange(2000))
        data = vl.data.Table(train, id="id", cache=str(folder / "cache"))
        model = vl.VAE(data.input_shape, vl.MLP([32]), 3)
        export(vl.fit(model, data, max_epochs=2, verbose=False).detector, folder / "detector.onnx")
        (folder / "lake").mkdir()
        for i in range(FILES):
            table = pd.DataFrame(rng.normal(size=(ROWS, 8)) * 1.3, columns=COLUMNS)
            table.assign(id=np.arange(ROWS) + i * ROWS).to_parquet(folder / "lake" / f"{i:02}.parquet")
        assert started(folder, "plain").wait() == 0
        found = {
            "command": "python results/ray_kills.py",
            "files": FILES,
            "rows": FILES * ROWS,
            "a worker killed": killed(folder, "worker", True),
            "the driver killed": killed(folder, "driver", False),
        }
    print(json.dumps(found, indent=2))
    Path("results/ray_kills.json").write_text(json.dumps(found, indent=2) + "\n")
