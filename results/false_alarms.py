"""How often normal test samples raise an alarm, beside what conformal thresholds promise.

python results/false_alarms.py conv_vae='lightning_logs/conv_vae_0_2/*/one_class/class_*/seed_0'

For each run and level α: the number n of calibration samples, the share of m normal test samples with p ≤ α, and where
that share lies for 95 % of calibration and test sets: m times a rate drawn by Beta's law is a beta-binomial number.
Writes the rows to the file that --out names.
"""

import argparse
import glob
from pathlib import Path

import numpy as np
import torch
from scipy.stats import betabinom

from vae_lightning.detection import Detector, conformal
from vae_lightning.files import write_csv

LEVELS = 0.01, 0.05, 0.1


def interval(n: int, alpha: float, m: int) -> tuple[float, float]:
    """Where the share of alarms among m normal samples lies for 95 % of draws, with n calibration samples."""
    k = conformal.alarm_rank(n, alpha)
    law = betabinom(m, k, n + 1 - k)
    return law.ppf(0.025) / m, law.ppf(0.975) / m


def rates(config: str, folder: Path) -> list[list[object]]:
    """Of each level: config, run, α, n, normal test samples, observed rate, and the interval."""
    threshold = Detector.load(folder).threshold
    with np.load(folder / "test_scores.npz") as file:
        scores = file[file.files[0]][file["labels"] == 0]
    p, found = threshold.p_values(torch.from_numpy(scores)), []
    for alpha in LEVELS:
        low, high = interval(threshold.samples, alpha, len(p))
        rate = (p <= alpha).float().mean().item()
        run = "/".join(folder.parts[-4:])
        found.append(
            [config, run, alpha, threshold.samples, len(p), *(round(number, 5) for number in (rate, low, high))]
        )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="CONFIG=PATTERN: its name, and the folders of its runs")
    parser.add_argument("--out", type=Path, default=Path("results/false_alarms.csv"))
    given = parser.parse_args()
    pairs = [argument.split("=", 1) for argument in given.runs]
    folders = [(config, Path(folder)) for config, pattern in pairs for folder in sorted(glob.glob(pattern))]
    folders = [(config, folder) for config, folder in folders if (folder / "results.json").is_file()]  # finished
    rows = [row for config, folder in folders for row in rates(config, folder)]
    write_csv(given.out, [["config", "run", "alpha", "calibration", "normal", "rate", "low", "high"], *rows])
    for alpha in LEVELS:
        mine = np.array([row[5:] for row in rows if row[2] == alpha], dtype=float)
        inside = ((mine[:, 0] >= mine[:, 1]) & (mine[:, 0] <= mine[:, 2])).mean()
        print(
            f"α = {alpha}: {mine[:, 0].mean():.4f} on average over {len(mine)} runs, {inside:.0%} inside their interval"
        )
