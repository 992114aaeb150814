"""Where a reconstruction error inverts: blurred and faded digits are easier to reconstruct than sharp ones.

python results/inverted.py    # from the project's root; some two minutes of one core

Trains configs/conv_vae.yaml on one class of MNIST. Its detector then scores the normal digits of the test part as they
are, blurred, and with low contrast: the AUROC of each score for telling the changed digits from the others.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vae_lightning import MNIST, NORMAL, Detector
from vae_lightning.commands import main as command

CHANGES = {
    "blurred, σ = 1 pixel": lambda x: gaussian_blur(x, 9, 1.0),
    "blurred, σ = 2 pixels": lambda x: gaussian_blur(x, 9, 2.0),
    "half the contrast": lambda x: 0.5 * x,
    "a quarter of the contrast": lambda x: 0.25 * x,
}


def normal_digits(root: str, digit: int) -> Tensor:
    """uint8 (N, 1, 28, 28), of the test part."""
    batches = list(MNIST(root, normal_classes=[digit]).test_dataloader())
    return torch.cat([batch.x[batch.label == NORMAL] for batch in batches])


def aurocs(detector: Detector, x: Tensor) -> dict[str, dict[str, float]]:
    """By change and score."""
    sharp, label = detector(x).each, [0] * len(x) + [1] * len(x)
    found = {}
    for name, change in CHANGES.items():
        changed = detector(change(x.float()).round().to(torch.uint8)).each
        found[name] = {score: roc_auc_score(label, torch.cat([sharp[score], changed[score]])) for score in sharp}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder of data sets")
    parser.add_argument("--runs", default="lightning_logs", help="folder of all runs")
    parser.add_argument("--digit", type=int, default=8, help="the normal one")
    args = parser.parse_args()
    line = (
        f"fit --config configs/conv_vae.yaml --experiment inverted --runs {args.runs} --data.init_args.root {args.root}"
    )
    if code := command([*line.split(), "--data.init_args.normal_classes", f"[{args.digit}]"]):
        sys.exit(code)
    run = max(Path(args.runs, "inverted").glob("version_*"), key=lambda folder: folder.stat().st_mtime)
    found = aurocs(Detector.load(run), normal_digits(args.root, args.digit))
    with (Path(__file__).parent / "inverted.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["anomalies", *next(iter(found.values()))])
        writer.writerows([change, *(f"{value:.4f}" for value in row.values())] for change, row in found.items())


if __name__ == "__main__":
    main()
