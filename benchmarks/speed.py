"""What this package costs, beside the least that the same work could: every promise of speed, in one command.

    python benchmarks/speed.py                        # all rows, some ten minutes of a quiet machine with two cores
    python benchmarks/speed.py --rows detector start  # some; the others stay as they are in the file

Each row is a ratio of times from one process (processes of their own where a start is timed), whose ways take turns,
so that a machine that slows down slows all; it is the median of the repeats' ratios, a first round left out. Written
to ``results/speed.json``, which the table in the results' README is made of.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import epoch_time
import estimator_time
import import_time
import numpy as np
import torch
from peak_memory import peak

from vae_lightning import MLP, VAE, Arrays, AutoencoderDetector, MeanSquaredError, SyntheticMixture, VAEDetector, fit
from vae_lightning.commands import main as command
from vae_lightning.models import Ensemble

ROOT = Path(__file__).parents[1]
QUIET = "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false"
Figures = dict[str, Any]


def ratio(a: list[float], b: list[float]) -> float:
    """The median of the repeats' ratios."""
    return round(statistics.median(x / y for x, y in zip(a, b, strict=True)), 3)


def figures(what: str, against: str, goal: float, value: float, **more: Any) -> Figures:
    """A row of the table; a goal is an upper bound unless ``most`` says otherwise."""
    return {"what": what, "against": against, "goal": goal, "value": value, **more}


def rows_of(n: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(n, 5)) @ rng.normal(size=(5, columns))
    return (factors + 0.3 * rng.normal(size=factors.shape)).astype(np.float32)


def epoch() -> dict[str, Figures]:
    """An epoch of MNIST with a 784-400-20 VAE, beside a loop over tensors in memory with fused Adam."""
    with contextlib.redirect_stdout(io.StringIO()):
        seconds = epoch_time.raced("data", 10, False).seconds
    found = {}
    for part, goal in (("training", 1.05), ("whole epoch", 1.08)):
        mine, its = (seconds[part][way][1:] for way in ("fit", "in memory"))
        what = f"`fit`, {'training part of an epoch' if part == 'training' else part}, 784-400-20, batches of 128"
        found[part] = figures(
            what, "a loop by hand, in memory, fused Adam", goal, ratio(mine, its), seconds=[mine, its]
        )
    return found


def bf16() -> dict[str, Figures]:
    """The same in bfloat16, where the processor multiplies it."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        what = "the same, `precision: bf16-mixed`"
        return {"bf16": {**figures(what, "its own fp32", 0.65, 0.0), "value": None, "notes": "not on this processor"}}
    both = []
    for options in ((), ("--trainer.precision", "bf16-mixed")):
        with contextlib.redirect_stdout(io.StringIO()):
            both.append(epoch_time.raced("data", 4, False, *options).seconds["training"])
    # each beside the loop by hand that ran with it: the two are not in turn
    value = ratio(both[1]["fit"][1:], both[1]["in memory"][1:]) / ratio(both[0]["fit"][1:], both[0]["in memory"][1:])
    return {"bf16": figures("the same, `precision: bf16-mixed`", "its own fp32", 0.65, round(value, 3))}


def estimators(batch: int = 32) -> dict[str, Figures]:
    """The estimators beside PyOD's, at PyOD's size of a batch."""
    everything, found = rows_of(estimator_time.TRAIN + 2 * estimator_time.HELD_OUT, estimator_time.COLUMNS), {}
    kinds = (VAEDetector, estimator_time.vae.VAE), (AutoencoderDetector, estimator_time.auto_encoder.AutoEncoder)
    for ours, theirs in kinds:
        ways: dict[str, Callable[[], None]] = {
            "estimator": partial(estimator_time.estimator, ours, everything, 4, batch),
            "pyod": partial(estimator_time.pyod, theirs, everything[: estimator_time.TRAIN], 4, batch),
        }
        clock, processor = estimator_time.race(ways, 5)
        what = f"`{ours.__name__}.fit`, same net, data, epochs, batches of {batch}"
        value, busy = (ratio(part["estimator"], part["pyod"]) for part in (clock, processor))
        found[ours.__name__] = figures(what, f"PyOD's {theirs.__name__}", 0.6, value, processor=busy, seconds=clock)
    return found


def detector() -> dict[str, Figures]:
    """A million rows: all that a Detector does, beside the network and the error alone."""
    x = rows_of(1_000_000, 10)
    model = VAEDetector(max_epochs=1, random_state=0, device="cpu").fit(x[:5000]).detector_.model
    detects, raw = model.detector, torch.from_numpy(x)

    @torch.no_grad()
    def bare() -> None:
        for rows in raw.split(detects.batch_size):
            prepared = (rows - model.preprocessing.mean) / model.preprocessing.std
            code = model.encoder(prepared).chunk(2, 1)[0]
            (prepared - model.decoder(code)[:, 0]).square().mean(1)

    clock, _ = estimator_time.race({"detector": lambda: detects(x), "bare": bare}, 4)
    value = ratio(clock["detector"], clock["bare"])
    what = "Detector on 1,000,000 rows of 10 columns: checks, scores, p-values, decisions"
    return {"detector": figures(what, "bare forward pass and error", 1.15, value, seconds=clock)}


def started(*arguments: str) -> float:
    """Seconds of a command from start to end, in a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - start


def start() -> dict[str, Figures]:
    """Until a command is there, beside the imports that it stands on."""
    config = str(ROOT / "configs" / "beta_vae.yaml")
    ways = {
        "imports": ["-c", import_time.REFERENCE],
        "help": ["-m", "vae_lightning", "--help"],
        "fit": ["-m", "vae_lightning", "fit", "--config", config, "--trainer.fast_dev_run", "1", *QUIET.split()],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(6):
        for name, arguments in ways.items():
            seconds[name].append(started(*arguments))
    counted = {name: values[1:] for name, values in seconds.items()}
    against = f"`{import_time.REFERENCE}`"
    whats = {"help": ("start of `--help`", 1.0), "fit": ("start and end of `fit --trainer.fast_dev_run 1`", 1.15)}
    return {
        f"start, {name}": figures(what, against, goal, ratio(counted[name], counted["imports"]), seconds=counted)
        for name, (what, goal) in whats.items()
    }


def members(k: int = 16) -> dict[str, Figures]:
    """K members trained as one, beside one: how many times the throughput."""
    x = rows_of(12_500, 20)

    def train(model: VAE | Ensemble, batch_size: int, **kwargs: Any) -> None:
        data = Arrays(x, test_fraction=0, batch_size=batch_size)
        fit(model, data, max_epochs=3, verbose=False, device="cpu", **kwargs)

    def one() -> VAE:
        return VAE([20], MLP([64, 32]), 8, MeanSquaredError())

    found = {}
    for size in (32, 128):
        times, seconds = {}, {}
        for name, options in (("training", {"limit_val_batches": 0}), ("whole", {})):
            ways: dict[str, Callable[[], None]] = {
                "one": partial(lambda **given: train(one(), **given), batch_size=size, **options),
                "all": partial(lambda **given: train(Ensemble([20], one(), k), **given), batch_size=size, **options),
            }
            seconds[name], _ = estimator_time.race(ways, 5)
            times[name] = round(k * ratio(seconds[name]["one"], seconds[name]["all"]), 2)
        what = f"{k} members of a 20-64-32-8 VAE as one module, batches of {size}: samples a second"
        notes = f"with validation, {k} sets of scores and calibration in each epoch {times['whole']:.1f}"
        row = figures(what, "one member", 8.0, times["training"], most=False, seconds=seconds, notes=notes)
        found[f"members, {size}"] = row
    return found


def sweep() -> dict[str, Figures]:
    """48 small runs through the command, beside the same by hand in one process."""
    runs, rows = 48, 1500
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.yaml"
        seeds = list(range(runs // 4))
        search = {"model.init_args.beta": [0.5, 1.0, 2.0, 4.0], "seed_everything": seeds}
        overrides = {"data.init_args.samples": rows, "trainer.max_epochs": 5}
        content = {"base": str(ROOT / "configs" / "beta_vae.yaml"), "search": search}
        content |= {"objectives": {"val/auroc": "maximize"}, "overrides": overrides}
        plan.write_text(json.dumps(content))
        ways = {"jobs": ["--jobs", "2"], "batch": ["--batch", "--study", "batch"]}
        swept = {}
        for name, way in ways.items():
            begun = time.perf_counter()
            line = ["sweep", "--config", str(plan), *way, "--runs", folder, *QUIET.split()]
            with contextlib.redirect_stdout(io.StringIO()):
                if command(line):
                    raise SystemExit("the sweep failed")
            swept[name] = time.perf_counter() - begun
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        for beta in search["model.init_args.beta"]:
            for seed in seeds:
                data = SyntheticMixture(samples=rows, anomaly_fraction=0.02, batch_size=128)
                model = VAE([10], MLP([64, 32]), 8, MeanSquaredError(), beta=beta)
                with tempfile.TemporaryDirectory() as folder:
                    options: dict[str, Any] = {"folder": Path(folder) / "run", "verbose": False, "device": "cpu"}
                    fit(model, data, max_epochs=5, seed=seed, **options)
    by_hand = time.perf_counter() - begun
    against, found = "the same runs by `fit` in one process", {}
    for key, name, seconds in (("sweep", "--jobs 2", swept["jobs"]), ("sweep_batch", "--batch", swept["batch"])):
        what = f"`sweep {name}` of {runs} small runs, imports, storage, tables and pictures included"
        both = [round(seconds, 1), round(by_hand, 1)]
        found[key] = figures(what, against, 1.15, round(seconds / by_hand, 3), seconds=both)
    return found


GROWTH = """
import sys, time, numpy as np
from vae_lightning import MLP, VAE, Arrays, fit
n = int(sys.argv[1])
x = np.random.default_rng(0).normal(size=(n, 20)).astype(np.float32)
start = time.perf_counter()
if len(sys.argv) > 2:
    fit(VAE([20], MLP([64, 32]), 8), Arrays(x, test_fraction=0), max_epochs=1, verbose=False, device="cpu")
    print(time.perf_counter() - start, file=open(sys.argv[2], "a"))
"""


def growth() -> dict[str, Figures]:
    """Ten times the samples: time of an epoch, and memory beyond the data."""
    few, many = 50_000, 500_000
    seconds: dict[int, list[float]] = {few: [], many: []}
    above: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            for n, values in seconds.items():
                out = Path(folder) / f"{n}-{len(values)}"
                above[n] = peak("-c", GROWTH, str(n), str(out))
                values.append(float(out.read_text()))
    value, more = ratio(seconds[many][1:], seconds[few][1:]), round(above[many] - above[few])
    data = round((many - few) * 20 * 4 / 2**20)
    notes = f"{more} MB more at the peak, of which the samples are {data} MB"
    what = "`fit` with ten times the samples, an epoch and calibration"
    row = figures(what, "itself", 10.5, value, notes=notes, seconds=list(seconds.values()), more_mb=[more, data])
    return {"growth": row}


ROWS: dict[str, Callable[[], dict[str, Figures]]] = {
    "epoch": epoch,
    "bf16": bf16,
    "estimators": estimators,
    "detector": detector,
    "start": start,
    "members": members,
    "sweep": sweep,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="which; all of them")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "speed.json", help="JSON file for the figures")
    args = parser.parse_args()
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for name in args.rows:
        begun = time.perf_counter()
        before = os.getloadavg()[0]
        for key, row in ROWS[name]().items():
            machine = f"{torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}"
            run = {"machine": f"{machine}, Python {platform.python_version()}", "load": round(before, 1)}
            notes = {"notes": found[key]["notes"]} if "notes" in found.get(key, {}) else {}
            found[key] = {**notes, **row, **run}
            met = {True: "reached", False: "missed", None: "not measured"}[reached(row)]
            print(f"{row['what']}: {row['value']} ({met}: {row['goal']})", file=sys.stderr)
        print(f"  {name} took {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        args.out.write_text(json.dumps(found, indent=2) + "\n")


def reached(row: Figures) -> bool | None:
    """Whether a row's goal is; None where there is nothing to compare."""
    if row["value"] is None:
        return None
    return bool(row["value"] <= row["goal"] if row.get("most", True) else row["value"] >= row["goal"])


if __name__ == "__main__":
    main()
