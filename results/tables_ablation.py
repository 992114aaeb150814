"""What configs/table.yaml rests on: the parts that its score could be made of, stored once, and combined afterwards.

python results/tables_ablation.py data/ADBench/*.npz   # stopped, it goes on with the same command

A table's parts lie in lightning_logs/tables_ablation: other combinations of them are a matter of seconds. Of larger
tables 12,000 rows are used, so that all of it takes minutes. A tenth of the training rows is held out, as the recipe
does to calibrate on; everything else is a neighbour. Each line of tables_ablation.csv is one combination on one table
and seed.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_lightning import Autoencoder
from vae_lightning.data import ADBench
from vae_lightning.detection.columns import Columns
from vae_lightning.files import write_csv
from vae_lightning.models.networks import MLP
from vae_lightning.scores.whitening import ledoit_wolf

STORE = Path("lightning_logs/tables_ablation")
FILE = Path(__file__).with_suffix(".csv")
MAX_ROWS, HELD_OUT, STEPS, DRAWS = 12_000, 0.1, 400, 8
SIZES = 1, 2, 5, 10, 20  # neighbours of a mean distance
SPACES = "none", "quantile", "blend"  # see Columns


def neighbours(train: torch.Tensor, test: torch.Tensor, p: float = 2.0) -> dict[str, np.ndarray]:
    """Mean distances to the nearest training rows, and those rows' own mean distances, for each of SIZES.

    Of test rows (M, 5) and of training rows (N, 5), each left out of its own neighbours.
    """
    many = min(max(SIZES), len(train) - 1)
    sizes = [min(k, many) for k in SIZES]

    def nearest(rows: torch.Tensor, first: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        d = torch.cdist(rows, train, p)
        if first is not None:
            d.diagonal(first).fill_(torch.inf)
        found = d.topk(many, largest=False)
        return found.values, found.indices

    own = [nearest(part, 512 * i) for i, part in enumerate(train.split(512))]
    new = [nearest(part) for part in test.split(512)]
    reach = torch.stack([torch.cat([d[:, :k].mean(1) for d, _ in own]) for k in sizes], 1)
    found = {}
    for name, part in {"own": own, "new": new}.items():
        found[name] = torch.cat([torch.stack([d[:, :k].mean(1) for k in sizes], 1) for d, _ in part])
        around = [torch.stack([reach[i[:, :k], j].mean(1) for j, k in enumerate(sizes)], 1) for _, i in part]
        found[f"{name}_around"] = torch.cat(around)
    return {name: x.numpy().astype(np.float32) for name, x in found.items()}


def network(x: torch.Tensor, columns: Columns, seed: int, swap: float = 0.2) -> Autoencoder:
    """table.yaml's, trained as there."""
    torch.manual_seed(seed)
    model = Autoencoder([x.shape[1]], MLP([128], activation="SiLU"), 64, swap=swap, preprocessing=columns)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    step = 0
    while step < STEPS:
        for batch in torch.randperm(len(x)).split(64):
            if step == STEPS:
                break
            optimizer.zero_grad()
            model.objective(x[batch], 1.0)["loss"].mean().backward()
            optimizer.step()
            schedule.step()
            step += 1
    return model.eval()


def put_right(model: Autoencoder, x: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """The squared error at features that were swapped for those of training rows, mean of DRAWS draws (B,)."""
    generator = torch.Generator().manual_seed(0)
    total, count = torch.zeros(len(x)), torch.zeros(len(x))
    for _ in range(DRAWS):
        swapped = torch.rand(x.shape, generator=generator) < 0.2
        other = train[torch.randint(len(train), (len(x),), generator=generator)]
        error = (model.reconstruct(torch.where(swapped, other, x)) - x).square() * swapped
        total, count = total + error.sum(1), count + swapped.sum(1)
    return total / count.clamp_min(1)


def parts(path: Path, seed: int) -> dict[str, np.ndarray]:
    data = ADBench(str(path), MAX_ROWS, seed=seed)
    everything, tested = data.load()
    order = torch.randperm(len(everything.x), generator=torch.Generator().manual_seed(seed))
    kept = order[max(1, round(HELD_OUT * len(order))) :].sort().values
    found = {"y": tested.target.numpy().astype(np.int8)}

    def add(name: str, values: dict[str, np.ndarray]) -> None:
        found.update({f"{name}/{key}": value for key, value in values.items()})

    for transform in SPACES:
        for rows, suffix in ((everything.x[kept], ""), (everything.x, " of all rows")):
            columns = Columns([0] * rows.shape[1], transform=transform)
            columns.fit([rows])
            train, test = columns(rows), columns(tested.x)
            add(f"{transform}{suffix}", neighbours(train, test))
            if suffix:
                continue
            add(f"{transform} L1", neighbours(train, test, 1.0))
            covariance = ledoit_wolf(train, 512)
            v = covariance.directions.float()
            scales = (covariance.variances.rsqrt() - covariance.rest.rsqrt().nan_to_num(0, posinf=0)).float()
            rest = covariance.rest.rsqrt().nan_to_num(0, posinf=0).float()
            white = [(z - covariance.mean.float()) for z in (train, test)]
            white = [(z @ v * scales) @ v.T + rest * z for z in white]
            add(f"{transform} white", neighbours(*white))
            add(
                f"{transform} Mahalanobis",
                {name: z.norm(dim=1).numpy() for name, z in zip(("own", "new"), white, strict=True)},
            )
            if transform == "quantile":
                continue
            model = network(train, columns, seed)
            with torch.no_grad():
                codes = [model.encode(z) for z in (train, test)]
                add(f"{transform} code", neighbours(*codes))
                errors = [(model.reconstruct(z) - z).square().mean(1).numpy() for z in (train, test)]
                add(f"{transform} error", dict(zip(("own", "new"), errors, strict=True)))
                righted = [put_right(model, z, train).numpy() for z in (train, test)]
                add(f"{transform} put right", dict(zip(("own", "new"), righted, strict=True)))
    return found


def store(path: Path, seed: int) -> None:
    target = STORE / f"{path.stem}_{seed}.npz"
    if target.is_file():
        return
    start = time.monotonic()
    STORE.mkdir(parents=True, exist_ok=True)
    found = parts(path, seed)
    part = target.with_suffix(".part.npz")
    np.savez(part, **found)
    part.rename(target)
    print(path.stem, seed, f"{time.monotonic() - start:.0f} s", flush=True)


# The combinations: sums of parts in standard deviations of training rows, each left out of its own neighbours

MEMBERS = ["distance", "relative distance", "error", "distance of the code", "relative distance of the code"]
KNN = "kNN, all training rows"


def unit(values: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    own, new = values
    return np.nan_to_num((new - own.mean()) / max(own.std(), 1e-9))


def members(part: dict[str, np.ndarray], transform: str) -> list[np.ndarray]:
    """MEMBERS of test rows, with 5 neighbours for distances and 10 for relative ones."""
    found = {}
    for space in (transform, f"{transform} code"):
        own, new = part[f"{space}/own"], part[f"{space}/new"]
        floor = 0.01 * own[:, SIZES.index(10)].mean() + 1e-12
        ratios = [
            (values[:, SIZES.index(10)] + floor) / (part[f"{space}/{name}_around"][:, SIZES.index(10)] + floor)
            for name, values in (("own", own), ("new", new))
        ]
        found[space] = [unit((own[:, SIZES.index(5)], new[:, SIZES.index(5)])), unit((ratios[0], ratios[1]))]
    error = unit((part[f"{transform} error/own"], part[f"{transform} error/new"]))
    return [*found[transform], error, *found[f"{transform} code"]]


def combined() -> list[list[object]]:
    """AUROC and average precision of each sum of members, of each table and seed."""
    found: list[list[object]] = []
    for path in sorted(STORE.glob("*_[0-9].npz")):
        table, seed = path.stem.rsplit("_", 1)
        with np.load(path) as file:
            part = {name: file[name] for name in file.files}
        y, scores = part["y"], {KNN: part["none of all rows/new"][:, SIZES.index(5)]}
        for transform in ("none", "blend"):
            values = members(part, transform)
            for size in range(1, len(MEMBERS) + 1):
                for some in itertools.combinations(range(len(MEMBERS)), size):
                    name = " + ".join(MEMBERS[i] for i in some)
                    scores[f"{transform}: {name}"] = np.sum([values[i] for i in some], 0)
        for name, score in scores.items():
            figures = roc_auc_score(y, score), average_precision_score(y, score)
            found.append([table, int(seed), name, *(round(float(x), 5) for x in figures)])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        for path in sorted(given.tables, key=lambda path: path.stat().st_size):
            store(path, seed)
    write_csv(FILE, [["table", "seed", "combination", "auroc", "average_precision"], *combined()])
