"""What a threshold on normal test samples makes of the runs of a sweep: precision, recall and F1 flatter.

python results/leaking.py lightning_logs/synthetic --out results/synthetic_leaking.csv

The runs are those of the sweep: the threshold enters neither training nor the choice of the epoch. Only
``test/threshold``, ``precision``, ``recall``, ``f1`` and ``false_alarm_rate`` differ from its results.csv.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from vae_lightning.detection import LeakingPercentile
from vae_lightning.files import write_csv
from vae_lightning.training.callbacks.metrics import decision

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with (given.study / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with np.load(given.study / row["trial"] / "test_scores.npz") as scores:
            found, labels = torch.from_numpy(scores[scores.files[0]]), torch.from_numpy(scores["labels"]).long()
        threshold = LeakingPercentile(95)
        threshold.fit(found[labels == 0])
        row.update({f"test/{name}": str(value.item()) for name, value in decision(found, labels, threshold).items()})
    write_csv(given.out, [list(rows[0]), *(row.values() for row in rows)])
