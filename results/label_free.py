"""Which form of configs/conv_vae.yaml would be chosen without a single label of an anomaly?

    python results/label_free.py    # from the project's root; stopped, it goes on with the same command

The candidates are those of results/ablation.py: three weights of the KL term, and for each the recipe's score, its
parts in several forms, and the classic scores. Each is asked to tell normal validation images from the same images with
something done to them, which takes no label: a rotation by 90°, 180° or 270° (Golan & El-Yaniv 2018, arXiv
1805.10917), a quarter cut out of another normal image (CutPaste: Li et al. 2021, arXiv 2104.04015), the average of two
normal images, and Gaussian noise. The mean AUROC over the four kinds is the label-free criterion. It was written down
before any of it was run, and nothing in it was changed afterwards.

Each row of label_free.csv is a data set, a class, β and a score, seed 0: AUROC for each kind, and on the test split.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from ablation import CLASSES, SCORES
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vae_lightning import MNIST, Detector, FashionMNIST
from vae_lightning.commands import main
from vae_lightning.data.corrupted import noise
from vae_lightning.files import write_csv

BETAS = 0.0, 0.01, 1.0
CLASSIC = ["ReconstructionError", "SAP", "NAP", "Mahalanobis", "KNearestNeighbours"]
RECIPE = {
    "class_path": "Combined",
    "init_args": {
        "scores": [SCORES["code, difference, errors, blocks"], SCORES["code and errors"]],
        "weights": [1.0, 0.5],
    },
}
NAMES = ["recipe", *SCORES, *CLASSIC]  # in the order of the detector's scores
RUNS = Path("lightning_logs")
OUT = Path(__file__).parent / "label_free.csv"
HEADER = ["data", "class", "beta", "score", "rotation", "cut and paste", "average", "noise", "test"]


def rotation(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image by 90°, 180° or 270°, by chance."""
    turns = torch.randint(1, 4, (len(x),), generator=generator).tolist()
    return torch.stack([image.rot90(k, (1, 2)) for image, k in zip(x, turns, strict=True)])


def cut_and_paste(x: Tensor, generator: torch.Generator) -> Tensor:
    """A square of half the side, out of another image, at a random place."""
    other, side = x[torch.randperm(len(x), generator=generator)], x.shape[-1] // 2
    changed = x.clone()
    for image, source in zip(changed, other, strict=True):
        top, left, from_top, from_left = torch.randint(0, x.shape[-1] - side + 1, (4,), generator=generator).tolist()
        piece = source[:, from_top : from_top + side, from_left : from_left + side]
        image[:, top : top + side, left : left + side] = piece
    return changed


def average(x: Tensor, generator: torch.Generator) -> Tensor:
    """With another image, half and half."""
    return ((x.float() + x[torch.randperm(len(x), generator=generator)].float()) / 2).to(torch.uint8)


KINDS = [rotation, cut_and_paste, average, lambda x, generator: noise(x, 0.3, generator)]


def trained(data: str, digit: int, beta: float) -> Path:
    """The folder of the run, which is made where it is not there."""
    name = f"label_free_{beta:g}"
    line = f"benchmark --config configs/conv_vae.yaml --data {data} --seeds 0 --no_baselines --protocol one_class"
    settings = {"model.init_args.scores": [RECIPE, *SCORES.values(), *CLASSIC], "model.init_args.beta": beta}
    options = [f"--{key}={json.dumps(value)}" for key, value in settings.items()]
    if code := main([*line.split(), "--classes", str(digit), "--name", f"{name}_{data}_{digit}", *options]):
        sys.exit(code)
    return RUNS / f"{name}_{data}_{digit}" / data / "one_class" / f"class_{digit}" / "seed_0"


def aurocs(folder: Path, data: str, digit: int) -> list[list[Any]]:
    """For each score: AUROC by kind, and on the test split."""
    source = {"MNIST": MNIST, "FashionMNIST": FashionMNIST}[data](normal_classes=[digit], val_fraction=0.05)
    x = torch.cat([batch.x for batch in source.validation_normals_dataloader()])
    detector, generator = Detector.load(folder), torch.Generator().manual_seed(0)
    normal, labels = detector(x).each, [0] * len(x) + [1] * len(x)
    changed = [detector(kind(x, generator)).each for kind in KINDS]
    tested = json.loads((folder / "results.json").read_text())["metrics"]
    found = []
    for key, score in zip(detector.names, NAMES, strict=True):
        mine = [roc_auc_score(labels, torch.cat([normal[key], each[key]])) for each in changed]
        found.append([score, *mine, tested[f"test/auroc/{key}"]])
    return found


if __name__ == "__main__":
    rows: list[list[Any]] = []
    if OUT.exists():
        with OUT.open(newline="") as file:
            rows = list(csv.reader(file))[1:]
    there = {tuple(row[:3]) for row in rows}
    for beta in map(float, sys.argv[1:] or BETAS):
        for data in ("MNIST", "FashionMNIST"):
            for digit in CLASSES:
                if (data, str(digit), str(beta)) not in there:
                    found = aurocs(trained(data, digit, beta), data, digit)
                    rows += [[data, str(digit), str(beta), *row] for row in found]
                    write_csv(OUT, [HEADER, *rows])
