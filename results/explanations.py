"""How often an explanation names the one column of a normal row that a fault was planted in.

python results/explanations.py --adbench data/ADBench

Faults: ``shift``, the column is off by four of its standard deviations; ``swap``, it holds another row's value, wrong
only beside the other columns. Of each table, seed, fault and score: the share of rows whose explanation names the
column first and among the first three; first, if columns were ordered by what they add alone; the share of rows that
raise an alarm, and of those the share whose column comes first. Rows are written as they are found, and a second start
goes on with what is missing. Models, scores and the columns' order were chosen on seed 100.
"""

import argparse
import csv
import itertools
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import vae_lightning as vl
from vae_lightning.files import write_csv
from vae_lightning.scores import NAP, SAP, LatentDensity, Mahalanobis, NegativeELBO, ReconstructionError

HEAD = ["table", "columns", "seed", "fault", "score", "method", "rows"]
HEAD += ["first", "among_three", "first_by_contribution", "alarms", "first_of_alarms", "gap", "ms_a_row"]
TABLES = "41_Waveform", "27_PageBlocks", "7_Cardiotocography", "43_WDBC", "31_satimage-2", "37_Stamps", "23_mammography"
SIZE = 300  # rows that faults are planted in, of each table at most


def factors(seed: int, rows: int = 3000, columns: int = 12) -> np.ndarray:
    """Twelve columns of three hidden factors, some linear and some not, with noise of their own."""
    rng = np.random.default_rng(seed)
    z, weights = rng.normal(size=(rows, 3)), rng.normal(size=(3, columns))
    noise = rng.uniform(0.1, 1.0, size=columns) * rng.normal(size=(rows, columns))
    return (3 * np.tanh(z @ weights) + 0.3 * z @ weights + noise) * rng.uniform(0.1, 100, size=columns)


def normal_rows(table: str, folder: Path, seed: int) -> np.ndarray:
    """4000 rows at most, in an order of their own; columns that never change are left out."""
    if table == "factors":
        return factors(seed)
    with np.load(folder / f"{table}.npz") as file:
        rows = file["X"][file["y"] == 0].astype(float)
    return np.random.default_rng(seed).permutation(rows[:, rows.std(0) > 0])[:4000]


def planted(rows: np.ndarray, fault: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows, each with a fault in one column, and the numbers of those columns."""
    rng, every = np.random.default_rng(seed), np.arange(len(rows))
    x, column = rows.copy(), rng.integers(rows.shape[1], size=len(rows))
    if fault == "swap":
        x[every, column] = rows[rng.permutation(len(rows)), column]
    else:
        x[every, column] += 4 * rows.std(0)[column] * rng.choice([-1, 1], size=len(rows))
    return x, column


def measured(table: str, folder: Path, seed: int) -> list[list[object]]:
    """The lines of one table and seed."""
    rows = normal_rows(table, folder, seed)
    test, train = np.split(rows, [min(SIZE, len(rows) // 5)])
    scores = [ReconstructionError(), NegativeELBO(), SAP(), NAP(), Mahalanobis(), LatentDensity(4)]
    likelihood = vl.Gaussian("per_feature")
    model = vl.VAE([rows.shape[1]], vl.MLP([64, 32]), latent_dim=4, likelihood=likelihood, scores=scores)
    detector = vl.fit(model, vl.Arrays(train, test_fraction=0.0), max_epochs=40, seed=seed, verbose=False).detector
    lines: list[list[object]] = []
    for fault, name in itertools.product(("shift", "swap"), detector.names):
        x, column = planted(test, fault, seed)
        start = time.perf_counter()
        found = detector.explain(x, name)
        took = 1000 * (time.perf_counter() - start) / len(x)
        order = found.order()
        first, alarm = order[:, 0] == column, detector.model.thresholds[name](torch.from_numpy(found.score)).numpy()
        loudest, three = found.contributions.argmax(1) == column, (order[:, :3] == column[:, None]).any(1)
        gap = np.median(np.abs(found.gap) / np.abs(found.score - found.base))
        figures = [first.mean(), three.mean(), loudest.mean(), alarm.mean(), first[alarm].mean() if alarm.any() else ""]
        numbers = [round(float(f), 4) if f != "" else "" for f in figures]
        line = [table, rows.shape[1], seed, fault, name, found.method, len(x), *numbers, f"{gap:.1e}", round(took, 2)]
        lines.append(line)
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adbench", type=Path, default=Path("data/ADBench"), help="folder of ADBench's .npz files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/explanations.csv"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = list(csv.reader(given.out.open()))[1:] if given.out.exists() else []
    done = {(line[0], line[2]) for line in lines}
    for table, seed in itertools.product(("factors", *TABLES), given.seeds):
        if (table, str(seed)) not in done:
            lines += measured(table, given.adbench, seed)
            write_csv(given.out, [HEAD, *lines])
    for fault, score in itertools.product(("shift", "swap"), dict.fromkeys(line[4] for line in lines)):
        mine = [line for line in lines if line[3:5] == [fault, score]]
        mean = [np.mean([float(line[i]) for line in mine if line[i] != ""]) for i in (7, 8, 9, 10, 11)]
        told = "first {:.2f}, among three {:.2f}, first by contribution {:.2f}, alarms {:.2f}, of those first {:.2f}"
        print(f"{fault:6} {score:20} {told.format(*mean)}")
