"""What the defaults of ``Mixed`` and ``Columns`` rest on: two made-up tables of mixed columns with known anomalies.

python results/mixed.py            # from the project's root; stopped, it goes on with the same command
python results/mixed.py --report   # the table of means

4,000 normal rows to train on, 2,000 others of which 30 % are anomalies of four kinds, three seeds of rows and weights.
``payments`` is vae_lightning.data.records; ``machines`` is below. One thing is changed at a time from VAE(β = 1), MLP
[64, 32], 8 latent dimensions, 25 epochs, quantile transform, Gaussian with a variance for each column, weights of 1.
``table.yaml`` is that configuration's network and training, with the scores that it could be made of.
Each line of mixed.csv is the AUROC of one score on one kind of anomaly against all normal rows.
"""

from __future__ import annotations

import argparse
import csv
import functools
import statistics
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from vae_lightning import VAE, Autoencoder, MeanSquaredError
from vae_lightning.data.records import ANOMALIES, records
from vae_lightning.detection import Columns
from vae_lightning.models import Mixed
from vae_lightning.models.networks import MLP
from vae_lightning.schema import Column, Schema
from vae_lightning.scores import (
    Combined,
    NegativeELBO,
    NegativeLogLikelihood,
    Neighbours,
    ReconstructionError,
    Score,
    Standardized,
)

FILE = Path(__file__).with_suffix(".csv")
HEAD = "table", "variant", "seed", "score", "anomaly", "auroc", "seconds"
SEEDS, EPOCHS, BATCH_SIZE = range(3), 25, 256


# Machines: 16 sensors that follow three hidden numbers and the program, with all kinds of marginal distributions

PROGRAMS, PRODUCTS, OPERATORS = 5, 40, 12


def machines(rows: int, anomalies: float, seed: int) -> dict[str, np.ndarray]:
    """Readings as columns; the last one, ``label``, is ``normal`` or the kind of anomaly."""
    world, rng = np.random.default_rng(7), np.random.default_rng([7, seed])
    mixing, shift = world.normal(size=(PROGRAMS, 3, 16)), world.normal(size=(PROGRAMS, 16))
    product_of = world.dirichlet(np.full(PRODUCTS, 0.3), PROGRAMS)
    program = rng.choice(PROGRAMS, rows, p=[0.4, 0.25, 0.2, 0.1, 0.05])
    z = rng.normal(size=(rows, 3))
    sensors = np.einsum("nk,nkd->nd", z, mixing[program]) + shift[program] + 0.4 * rng.normal(size=(rows, 16))
    sensors[:, 8:11] += 0.4 * rng.standard_t(2.5, (rows, 3))
    product = np.array([rng.choice(PRODUCTS, p=product_of[p]) for p in program])
    gaps = rng.random((rows, 16)) < np.where(np.arange(16) < 3, 0.05, 0)
    gaps[:, 14:] = (program == 3)[:, None] & (rng.random((rows, 1)) < 0.95)
    label = np.full(rows, "normal", object)
    words = {"product": [f"P{i}" for i in product], "program": [f"program {i}" for i in program]}
    words |= {
        "operator": [f"O{i}" for i in rng.integers(OPERATORS, size=rows)],
        "line": list(np.where(z[:, 0] > 0, "left", "right")),
    }
    table = {name: np.array(column, object) for name, column in words.items()}
    strange = rng.permutation(rows)[: round(anomalies * rows)]
    for row, kind in zip(strange, rng.integers(4, size=len(strange)), strict=True):
        label[row] = ANOMALIES[kind]
        if kind == 0:  # one sensor, beyond what any program gives
            sensors[row, rng.integers(16)] = rng.choice([-1, 1]) * rng.uniform(6, 9)
        elif kind == 1:  # half of the sensors, or the product, of a row of another program
            other = rng.choice(np.flatnonzero(program != program[row]))
            if rng.random() < 0.5:
                sensors[row, rng.permutation(16)[:8]] = sensors[other, rng.permutation(16)[:8]]
            else:
                table["product"][row] = f"P{np.argmax(product_of[program[other]] - 10 * product_of[program[row]])}"
        elif kind == 2:
            table["operator" if rng.random() < 0.5 else "product"][row] = "new"
        else:
            gaps[row, [14, 15]] ^= True
            gaps[row, rng.integers(3, 14)] = True
    found = {f"sensor {i}": sensors[:, i] for i in range(16)}
    for i in range(4, 8):
        found[f"sensor {i}"] = np.exp(1.2 * sensors[:, i])
    for i in range(11, 14):
        found[f"sensor {i}"] = np.round(sensors[:, i])
    for i in range(14, 16):
        found[f"sensor {i}"] = 1000 + 5 * sensors[:, i]
    return {
        **{name: np.where(gaps[:, i], np.nan, x) for i, (name, x) in enumerate(found.items())},
        **table,
        "label": label,
    }


TABLES = {"payments": records, "machines": machines}


class Rows(NamedTuple):
    """A table's rows, encoded by a schema that is counted from the training rows."""

    train: torch.Tensor
    test: torch.Tensor
    label: np.ndarray
    codes: list[int]
    gaps: list[int]


@functools.cache
def rows_of(table: str, seed: int) -> Rows:
    make = TABLES[table]
    train, test = make(4000, 0.0, 2 * seed), make(2000, 0.3, 2 * seed + 1)
    schema = Schema(tuple(column(name, x) for name, x in train.items() if name not in ("id", "time", "label")))
    raw = schema.encode(train).x
    gaps = raw.isnan().any(0).nonzero().flatten().tolist()
    return Rows(raw, schema.encode(test).x, test["label"], [one.codes for one in schema], gaps)


def column(name: str, x: np.ndarray) -> Column:
    if x.dtype != object:
        return Column(name)
    return Column(name, "categorical", tuple(word for word, _ in Counter(x.tolist()).most_common()))


class FromNothing(Mixed):
    """Logits that start from zero, and not from the frequencies of the training rows."""

    def adopt(self, preprocessing: Any) -> None:
        super().adopt(preprocessing)
        self.start.zero_()


PLAIN: dict[str, Any] = {"category_weight": 1.0, "gap_weight": 1.0}
# transform, model, likelihood
VARIANTS: dict[str, tuple[str, Any, Any]] = {
    "base": ("quantile", VAE, lambda: Mixed(**PLAIN)),
    "none": ("none", VAE, lambda: Mixed(**PLAIN)),
    "log": ("log", VAE, lambda: Mixed(**PLAIN)),
    "Student-t 4": ("quantile", VAE, lambda: Mixed(df=4.0, **PLAIN)),
    "none, Student-t 4": ("none", VAE, lambda: Mixed(df=4.0, **PLAIN)),
    "log, Student-t 4": ("log", VAE, lambda: Mixed(df=4.0, **PLAIN)),
    "one variance": ("quantile", VAE, lambda: Mixed(variance="shared", **PLAIN)),
    "predicted variances": ("quantile", VAE, lambda: Mixed(variance="predicted", **PLAIN)),
    "balanced categories": ("quantile", VAE, lambda: Mixed(category_weight="balanced")),
    "category weight 0.3": ("quantile", VAE, lambda: Mixed(category_weight=0.3)),
    "gaps not modelled": ("quantile", VAE, lambda: Mixed(category_weight=1.0, gap_weight=0.0)),
    "logits from zero": ("quantile", VAE, lambda: FromNothing(**PLAIN)),
    "no Mixed": ("quantile", VAE, lambda: MeanSquaredError()),
    "autoencoder": ("quantile", Autoencoder, lambda: Mixed(**PLAIN)),
}


def aurocs(scores: dict[str, np.ndarray], label: np.ndarray) -> list[list[object]]:
    normal, found = label == "normal", []
    for name, score in scores.items():
        finite = np.nan_to_num(score.astype(np.float64), posinf=1e300)
        for kind in ANOMALIES:
            some = normal | (label == kind)
            found.append([name, kind, round(roc_auc_score(~normal[some], finite[some]), 5)])
    return found


def prepared(table: str, seed: int, transform: Any) -> Columns:
    rows = rows_of(table, seed)
    columns = Columns(rows.codes, rows.gaps, transform)
    columns.fit([rows.train])
    return columns


def nets(table: str, variant: str, seed: int) -> list[list[object]]:
    transform, kind, likelihood = VARIANTS[variant]
    rows, columns = rows_of(table, seed), prepared(table, seed, transform)
    torch.manual_seed(seed)
    model = kind([columns.width], MLP([64, 32]), 8, likelihood(), preprocessing=columns)
    x, optimizer = model.prepared(rows.train), torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    for _ in range(EPOCHS):
        for batch in x[torch.randperm(len(x))].split(BATCH_SIZE):
            optimizer.zero_grad()
            model.objective(batch, 1.0)["loss"].mean().backward()
            optimizer.step()
    model.eval()
    scores = [NegativeLogLikelihood(), ReconstructionError(), *([NegativeELBO()] if kind is VAE else [])]
    with torch.no_grad():
        x = model.prepared(rows.test)
        found = {type(score).__name__: score(model, x).numpy() for score in scores}
    return aurocs(found, rows.label)


RECIPES: dict[str, Any] = {
    "table.yaml": lambda: Mixed(variance=0.5),
    "table.yaml, variances learnt": Mixed,
    "table.yaml, no Mixed": MeanSquaredError,
}


def recipe(table: str, variant: str, seed: int) -> list[list[object]]:
    """What configs/table.yaml trains, with either likelihood, and the parts of its score."""
    rows, columns = rows_of(table, seed), prepared(table, seed, "blend")
    torch.manual_seed(seed)
    network = MLP([128], activation="SiLU")
    model = Autoencoder([columns.width], network, 64, RECIPES[variant](), swap=0.2, preprocessing=columns)
    x, step = model.prepared(rows.train), 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=400)
    while step < 400:
        for batch in x[torch.randperm(len(x))].split(64)[: 400 - step]:
            optimizer.zero_grad()
            model.objective(batch, 1.0)["loss"].mean().backward()
            optimizer.step()
            schedule.step()
            step += 1
    model.eval()
    scores: dict[str, Score] = {
        "Neighbours": Neighbours(),
        "Neighbours of the code": Neighbours("code"),
        "ReconstructionError": ReconstructionError(),
        "NegativeLogLikelihood": NegativeLogLikelihood(),
        "Neighbours and code": Combined([Neighbours(), Neighbours("code")], standardize=False),
    }
    for own in (ReconstructionError, NegativeLogLikelihood):
        both = [Neighbours(), Standardized(own())]
        scores[f"Neighbours and {own.__name__}"] = Combined(both, [2.0, 1.0], standardize=False)
    with torch.no_grad():
        test, found = model.prepared(rows.test), {}
        for name, score in scores.items():
            score.fit(model, x.split(1024), [])
            found[name] = score(model, test).numpy()
    return aurocs(found, rows.label)


def neighbours(table: str, variant: str, seed: int) -> list[list[object]]:
    rows, columns = rows_of(table, seed), prepared(table, seed, "quantile")
    a, b = columns(rows.train).numpy(), columns(rows.test).numpy()
    distance = NearestNeighbors(n_neighbors=5).fit(a).kneighbors(b)[0].mean(1)
    forest = -IsolationForest(random_state=seed).fit(a).score_samples(b)
    return aurocs({"kNN": distance, "isolation forest": forest}, rows.label)


def measure() -> None:
    done = set()
    if FILE.exists():
        with FILE.open() as file:
            done = {(row["table"], row["variant"], int(row["seed"])) for row in csv.DictReader(file)}
    for seed in SEEDS:
        for variant in ["classical", *VARIANTS, *RECIPES]:
            for table in TABLES:
                if (table, variant, seed) in done:
                    continue
                start = time.monotonic()
                how = neighbours if variant == "classical" else recipe if variant in RECIPES else nets
                found = how(table, variant, seed)
                seconds = round(time.monotonic() - start, 1)
                with FILE.open("a", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    if not file.tell():
                        writer.writerow(HEAD)
                    writer.writerows([table, variant, seed, *row, seconds] for row in found)


def report() -> None:
    """Means over seeds of the AUROC of each kind, and the spread of their mean."""
    found: dict[tuple[str, str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    with FILE.open() as file:
        for row in csv.DictReader(file):
            found[row["table"], row["variant"], row["score"]][row["anomaly"]][int(row["seed"])] = float(row["auroc"])
    print("| table | variant | score |", " | ".join(ANOMALIES), "| mean | seeds |")
    print("|---|---|---|" + "---|" * (len(ANOMALIES) + 2))
    for key, kinds in sorted(found.items(), key=lambda item: (item[0][0], item[0][2])):
        means = [statistics.mean(kinds[kind].values()) for kind in ANOMALIES]
        each = [statistics.mean(kinds[kind][seed] for kind in ANOMALIES) for seed in kinds[ANOMALIES[0]]]
        spread = f" ± {statistics.stdev(each):.3f}" if len(each) > 1 else ""
        cells = [*key, *(f"{mean:.3f}" for mean in means), f"{statistics.mean(each):.3f}{spread}", len(each)]
        print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true")
    torch.set_num_threads(1)
    report() if parser.parse_args().report else measure()
