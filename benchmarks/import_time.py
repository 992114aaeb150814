"""What ``import vae_lightning`` costs, beside what it stands on: fresh processes, in turn.

    python benchmarks/import_time.py --repeats 9 --out results/import_time.json

A ratio is the median of the repeats' ratios; a first round, which fills the file cache, is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

REFERENCE = "import lightning.pytorch, torchmetrics"
LINES = (
    REFERENCE,
    "import vae_lightning",
    "from vae_lightning import Detector",
    "from vae_lightning import VAE, Arrays, fit",
    "from vae_lightning import VAEDetector",
)
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(line: str) -> float:
    """Of one line in a process of its own."""
    done = subprocess.run([sys.executable, "-c", TIMED.format(line)], capture_output=True, text=True, check=True)
    return round(float(done.stdout), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="rounds that count")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()

    found: dict[str, list[float]] = {line: [] for line in LINES}
    for _ in range(args.repeats + 1):
        for line, values in found.items():
            values.append(seconds(line))
    figures: dict[str, object] = {
        "command": f"python benchmarks/import_time.py --repeats {args.repeats}",
        "machine": f"Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("vae_lightning", "torch", "lightning", "torchmetrics")},
    }
    for line, values in found.items():
        values = values[1:]
        ratio = statistics.median(a / b for a, b in zip(values, found[REFERENCE][1:], strict=True))
        print(f"{line:<46} {statistics.median(values):.3f} s, {ratio:.3f} of the reference")
        figures[line] = {"median": statistics.median(values), "of the reference": round(ratio, 3), "seconds": values}
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
