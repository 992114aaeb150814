"""The training curves of finished runs as one CSV file, a row for each epoch.

python results/curves.py lightning_logs/mnist_vae/version_* > results/mnist_vae.csv
"""

import csv
import sys
from itertools import pairwise
from pathlib import Path

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vae_lightning.studies.curves import scalars


def main(runs: list[Path]) -> None:
    curves = {run: scalars(run) for run in runs}
    names = sorted({name for curve in curves.values() for name in curve})
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["experiment", "seed", "epoch", *names, "seconds"])
    for run, curve in curves.items():
        seed = yaml.safe_load((run / "config.yaml").read_text())["seed_everything"]
        taken = seconds(run)
        for epoch in sorted({epoch for values in curve.values() for epoch in values}):
            row = (*(curve.get(name, {}).get(epoch) for name in names), taken.get(epoch))
            writer.writerow([run.parent.name, seed, epoch, *("" if value is None else f"{value:.6g}" for value in row)])


def seconds(run: Path) -> dict[int, float]:
    """By the clock from the end of an epoch to that of the next; a pause between two of them counts."""
    ends = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload().Scalars("train/loss")
    return {n: after.wall_time - before.wall_time for n, (before, after) in enumerate(pairwise(ends), start=2)}


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:]])
