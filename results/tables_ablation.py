"""What each part of configs/table.yaml brings, on the small tables that it was chosen on: results/tables_ablation.csv.

python results/tables_ablation.py data/ADBench    # resumed where it was stopped
"""

from __future__ import annotations

import csv
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_lightning import MLP, fit
from vae_lightning.data import ADBench
from vae_lightning.models import Autoencoder
from vae_lightning.scores import Combined, KNearestNeighbours, Neighbours, ReconstructionError

OUT = Path(__file__).with_name("tables_ablation.csv")
CHOSEN_ON = slice(0, None, 2)  # of all tables, by number
LARGEST = 10_000  # rows: larger tables take minutes, and four of twenty-one would take most of the time
SEEDS = 0, 1
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "columns standardised": {"transform": "none"},
    "columns as normal scores": {"transform": "quantile"},
    "no swapped values": {"swap": 0.0},
    "code of 8": {"latent_dim": 8},
}
STEPS, RATE = 400, 2e-3


def scores(path: Path, seed: int, transform: str = "blend", swap: float = 0.2, latent_dim: int = 64) -> Any:
    """Scores of the test split by several scores of one net, and the labels."""
    shares = {"val_fraction": 0.05, "calibration_fraction": 0.1}
    data = ADBench(str(path), transform=transform, seed=seed, batch_size=64, **shares)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = Autoencoder(
        data.input_shape,
        MLP([128], "SiLU"),
        latent_dim,
        swap=swap,
        scores=[
            Combined([Neighbours(), Neighbours("code")], standardize=False),
            Neighbours(),
            KNearestNeighbours(capacity=32768),
            ReconstructionError(),
            Combined([Neighbours(), ReconstructionError()]),
        ],
        optimizer=partial(torch.optim.AdamW, lr=RATE, weight_decay=1e-4),
        lr_scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=RATE, total_steps=STEPS),
    )
    once = {"val_check_interval": STEPS, "check_val_every_n_epoch": None, "device": "cpu"}
    run = fit(model, data, max_epochs=-1, max_steps=STEPS, seed=seed, verbose=False, **once)  # type: ignore[arg-type]
    batches = list(data.test_dataloader())
    return run.detector(batch.x for batch in batches).each, torch.cat([batch.label for batch in batches])


NAMES = (
    "input and code",
    "input alone",
    "plain distance of the code",
    "reconstruction error",
    "input and reconstruction",
)


def main(folder: Path) -> None:
    tables = sorted(folder.glob("*.npz"), key=lambda path: int(path.stem.partition("_")[0]))[CHOSEN_ON]
    if not OUT.is_file():
        OUT.write_text("change,score,data,seed,auroc,average_precision\n")
    with OUT.open(newline="") as file:
        done = {(row["change"], row["data"], row["seed"]) for row in csv.DictReader(file)}
    for seed in SEEDS:
        for change, arguments in CHANGES.items():
            for path in tables:
                if (change, path.stem, str(seed)) in done or len(ADBench(str(path))._y) > LARGEST:
                    continue
                found, labels = scores(path, seed, **arguments)
                with OUT.open("a", newline="") as file:
                    for name, values in zip(NAMES, found.values(), strict=True):
                        figures = roc_auc_score(labels, values), average_precision_score(labels, values)
                        csv.writer(file).writerow([change, name, path.stem, seed, *(f"{v:.4f}" for v in figures)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
