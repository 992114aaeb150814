"""What 1, 4, 8 and 16 members of an ensemble find: one training of 16 for each data set and seed, of which the first
are asked.

python results/members.py    # from the project's root; stopped, it goes on with the same command

Tables of ADBench in its protocol, and Fashion-MNIST with one class as the normal one. Settings are the same for all,
and nothing was chosen by the figures. `auroc` is the ensemble's on the test part, `alone` the mean over its members of
what each has by itself, `spread` that of how far they disagree.
"""

from __future__ import annotations

import csv
import time
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from vae_lightning import MLP, VAE, AnomalyDataModule, FashionMNIST, MeanSquaredError, fit
from vae_lightning.data import ADBench
from vae_lightning.models import Ensemble
from vae_lightning.models.likelihoods import Bernoulli
from vae_lightning.scores import NegativeELBO, ReconstructionError

TABLES = "7_Cardiotocography", "19_landsat", "23_mammography", "29_Pima", "39_vertebral", "47_yeast"
COUNTS, SEEDS, STEPS = (1, 4, 8, 16), (0, 1, 2), 1500
OUT = Path(__file__).parent / "members.csv"
HEADER = ["data", "seed", "score", "members", "auroc", "alone", "spread", "seconds"]


def table(name: str, seed: int) -> tuple[AnomalyDataModule, VAE]:
    data = ADBench(f"data/ADBench/{name}.npz", seed=seed, batch_size=64)
    return data, VAE(data.input_shape, MLP([64, 32]), 8, MeanSquaredError())


def images(seed: int) -> tuple[AnomalyDataModule, VAE]:
    data = FashionMNIST("data", normal_classes=[6], seed=seed)
    return data, VAE(data.input_shape, MLP([128]), 16, Bernoulli())


def found(name: str, seed: int) -> list[list[object]]:
    """A row for each score and number of members; seeds of members are their own in each repeat."""
    data, member = images(seed) if name == "FashionMNIST 6" else table(name, seed)
    model = Ensemble(data.input_shape, member, max(COUNTS), "own", scores=[ReconstructionError(), NegativeELBO()])
    start = time.perf_counter()
    steps = {"max_epochs": -1, "max_steps": STEPS, "check_val_every_n_epoch": None, "val_check_interval": STEPS}
    fit(model, data, seed=100 * seed, verbose=False, **steps)
    seconds = round(time.perf_counter() - start, 1)
    batches = list(data.test_dataloader())
    label, rows = torch.cat([batch.label for batch in batches]), []
    for score in ("ReconstructionError", "NegativeELBO"):
        with torch.no_grad():
            each = torch.cat([model.scores[score].scaled(model, model.prepared(batch.x)) for batch in batches])
        alone = [roc_auc_score(label, column) for column in each.T]
        for k in COUNTS:
            some = each[:, :k]
            spread = roc_auc_score(label, some.std(1, correction=0)) if k > 1 else float("nan")
            auroc = roc_auc_score(label, some.mean(1))
            figures = [f"{value:.4f}" for value in (auroc, sum(alone[:k]) / k, spread)]
            rows.append([name, seed, score, k, *figures, seconds])
    return rows


def main() -> None:
    torch.set_num_threads(1)
    done = set()
    if OUT.exists():
        with OUT.open(newline="") as file:
            done = {(row["data"], row["seed"]) for row in csv.DictReader(file)}
    else:
        OUT.write_text(",".join(HEADER) + "\n")
    for seed in SEEDS:
        for name in (*TABLES, "FashionMNIST 6"):
            if (name, str(seed)) not in done:
                rows = found(name, seed)
                with OUT.open("a", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows(rows)
                print(*rows[0], *rows[3], flush=True)


if __name__ == "__main__":
    main()
