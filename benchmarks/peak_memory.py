"""The most memory that ``fit`` on MNIST takes, above what the imports alone take.

    python benchmarks/peak_memory.py --out results/peak_memory.json

Each is measured as the peak resident size of a process of its own. The data set is 70,000 images of 784 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def peak(*command: str) -> float:
    """Peak resident size of a Python command, in MB."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/mnist_beta_vae.yaml")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        fit = peak("-m", "vae_lightning", "fit", "--config", args.config, "--trainer.max_epochs", "2", "--runs", runs)
    imports = peak("-c", "import vae_lightning.commands, matplotlib.figure, torch.utils.tensorboard")
    data = 70_000 * 784 / 2**20
    figures = {
        "imports": imports,
        "fit": fit,
        "above": fit - imports,
        "data set": data,
        "3 data sets + 200": 3 * data + 200,
    }
    for name, value in figures.items():
        print(f"{name:<18} {value:8.1f} MB")
    if args.out:
        args.out.write_text(json.dumps({name: round(value, 1) for name, value in figures.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
