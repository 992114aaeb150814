"""The training curves of finished runs as one CSV file, a row for each epoch.

python results/curves.py lightning_logs/mnist_vae/version_* > results/mnist_vae.csv
"""

import csv
import sys
from pathlib import Path

import yaml

from vae_lightning.curves import scalars


def main(runs: list[Path]) -> None:
    curves = {run: scalars(run) for run in runs}
    names = sorted({name for curve in curves.values() for name in curve})
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["experiment", "seed", "epoch", *names])
    for run, curve in curves.items():
        seed = yaml.safe_load((run / "config.yaml").read_text())["seed_everything"]
        for epoch in sorted({epoch for values in curve.values() for epoch in values}):
            row = (curve.get(name, {}).get(epoch) for name in names)
            writer.writerow([run.parent.name, seed, epoch, *("" if value is None else f"{value:.6g}" for value in row)])


if __name__ == "__main__":
    main([Path(run) for run in sys.argv[1:]])
