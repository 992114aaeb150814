"""``benchmark`` for tables: a configuration over many data sets and seeds, beside older methods on the same splits."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from ..data import ADBench
from ..errors import UserError
from ..files import write_csv, write_whole
from . import table_baselines, tasks
from .markdown import markdown_table
from .ranks import alike, average_ranks, critical_difference, friedman

HEAD = ["data", "method", "seed", "auroc", "average_precision", "seconds"]
IN_MEMORY = ["--trainer.enable_checkpointing=false", "--pictures.every_n_epochs=1000000"]
FIGURES = "figures.json"
OURS = "vae_lightning"  # the score that decides; the others go by their names


def asked_for(data: list[str] | None) -> bool:
    """Whether ``--data`` names files of tables; a UserError if only some of them are."""
    files = [name.endswith(".npz") for name in data or []]
    if any(files) and not all(files):
        raise UserError(f"--data {' '.join(data or [])}: give files of tables, .npz, or data sets, not both")
    return any(files)


@dataclass(frozen=True)
class Entry:
    """A task: one run of the configuration or of an older method on one table; done when its file is there.

    Attributes:
        home: The benchmark's folder.
        path: The table.
        method: An older method's name, or None.
        seed: Of the split and of the method.
        arguments: The command line of a run, but for its seed and place.
    """

    home: Path
    path: Path
    method: str | None
    seed: int
    arguments: list[str]

    @property
    def folder(self) -> Path:
        """``<table>/<method>/seed_<s>``."""
        return self.home / self.path.stem / (self.method or OURS).replace(" ", "_") / f"seed_{self.seed}"

    @property
    def file(self) -> Path:
        """Written last, and whole."""
        return self.folder / FIGURES

    def __str__(self) -> str:
        return f"{self.path.stem} {self.method or OURS} seed {self.seed}"

    def do(self, cli: Any) -> str:
        """Seconds, too short for a checkpoint to save any: what was interrupted starts anew."""
        if self.method:
            found = {
                self.method: table_baselines.figures(self.method, ADBench(str(self.path), seed=self.seed), self.seed)
            }
        else:
            seeds = {"seed_everything": self.seed, "data.init_args.seed": self.seed}
            found = trained(tasks.build(cli, [*self.arguments, *tasks.options(seeds)]))
        write_whole(self.file, json.dumps(found, indent=2))
        first = next(iter(found.values()))
        return f"AUROC {first['auroc']:.4f} in {first['seconds']:.1f} s"

    def interrupted(self) -> None:
        """It goes on from its checkpoint when it is asked for again."""

    def failed(self, error: str, final: bool) -> None:
        if final:
            (self.folder / tasks.COMPLAINT).write_text(f"{error}\n")


def entries(cli: Any, given: argparse.Namespace, overrides: dict[str, Any], folder: Path) -> list[Entry]:
    """All that is to be done, one seed after the other, small tables first; each table is tried out beforehand."""
    paths = sorted((Path(name) for name in given.data), key=lambda path: path.stat().st_size if path.is_file() else 0)
    if len({path.stem for path in paths}) < len(paths):
        raise UserError("--data: two files have the same name: rename one")
    lines = {}
    for path in paths:
        table = ["--data=ADBench", f"--data.init_args.path={path}"]
        lines[path] = ["fit", "--config", str(given.config), *table, *IN_MEMORY, *tasks.options(overrides)]
        ADBench(str(path))
    tasks.build(cli, lines[paths[0]])
    methods = [None, *([] if given.no_baselines else table_baselines.METHODS)]
    return [
        Entry(folder, path, method, seed, lines[path])
        for seed in dict.fromkeys(given.seeds)
        for method in methods
        for path in paths
    ]


def trained(built: Any) -> dict[str, dict[str, float]]:
    """Train a command line's model; the figures of each score on the test split, the one that decides first.

    Seconds are those of training, of fitting the scores, and of scoring the test split.
    """
    model, data, start = built.model, built.datamodule, time.perf_counter()
    built.trainer.fit(model, datamodule=data)
    if built.trainer.interrupted:
        raise KeyboardInterrupt
    batches = list(data.test_dataloader())
    found, labels = model.detector(batch.x for batch in batches), torch.cat([batch.label for batch in batches]).numpy()
    seconds = time.perf_counter() - start
    figures = {}
    for i, (name, scores) in enumerate(found.each.items()):
        values = np.asarray(scores, np.float64)
        auroc, precision = float(roc_auc_score(labels, values)), float(average_precision_score(labels, values))
        figures[name if i else OURS] = {"auroc": auroc, "average_precision": precision, "seconds": seconds}
    return figures


def rows(folder: Path) -> list[list[Any]]:
    """All that a benchmark's folder holds, a list a method, table and seed, in the order of ``HEAD``."""
    found: list[list[Any]] = []
    for path in folder.glob(f"*/*/seed_*/{FIGURES}"):
        table, seed = path.parts[-4], int(path.parts[-2].removeprefix("seed_"))
        for method, figures in json.loads(path.read_text()).items():
            found.append([table, method, seed, *(figures[key] for key in HEAD[3:])])
    return sorted(found, key=lambda row: row[:3])


def report(folder: Path) -> list[str]:
    """Write ``results.csv`` and ``results.md`` into the benchmark's folder; the tables, and where they lie."""
    found = rows(folder)
    lines = summary(found)
    write_whole(folder / "results.md", "\n".join(lines) + "\n")
    write_csv(folder / "results.csv", [HEAD, *found])
    return [*lines, "", *(f"wrote        {folder / f'results.{kind}'}" for kind in ("csv", "md"))]


def summary(found: list[list[Any]]) -> list[str]:
    """Mean figures, ranks with the critical difference, and AUROC by table, in Markdown; methods by rank.

    Means over seeds come first, so that each table counts once. A method that lacks a table is left out of the ranks.
    """
    sets, methods = (list(dict.fromkeys(row[i] for row in found)) for i in (0, 1))
    cells = {
        (s, m): np.mean([r[3:] for r in found if r[:2] == [s, m]] or [[np.nan] * 3], 0) for s in sets for m in methods
    }
    values = np.array([[cells[s, m] for m in methods] for s in sets])  # (N, k, 3)
    whole = [i for i, _ in enumerate(methods) if not np.isnan(values[:, i, 0]).any()]
    ranks = dict(zip(whole, average_ranks(values[:, whole, 0]), strict=True)) if whole else {}
    order = sorted(range(len(methods)), key=lambda i: ranks.get(i, np.inf))
    table = [["method", "AUROC", "average precision", "rank by AUROC", "seconds (median, longest)"]]
    for i in order:
        mean, seconds = np.nanmean(values[:, i], 0), [row[5] for row in found if row[1] == methods[i]]
        rank = f"{ranks[i]:.2f}" if i in ranks else "–"
        times = f"{np.median(seconds):.1f}, {max(seconds):.0f}"
        table.append([methods[i], f"{mean[0]:.3f}", f"{mean[1]:.3f}", rank, times])
    lines = [f"{len(sets)} tables: half of the normal rows train, the others and all anomalies test", ""]
    lines += [
        *markdown_table(table),
        "",
        *_differences([methods[i] for i in whole], list(ranks.values()), values[:, whole, 0]),
        "",
    ]
    by_table = [[s, *(f"{values[j, i, 0]:.3f}" for i in order)] for j, s in enumerate(sets)]
    return [*lines, "AUROC, mean over seeds", "", *markdown_table([["table", *(methods[i] for i in order)], *by_table])]


def _differences(methods: list[str], ranks: list[float], values: np.ndarray) -> list[str]:
    """Demšar's diagram in words: the critical difference, and which methods it does not tell apart."""
    if len(methods) < 3 or len(values) < 2:
        return []
    difference = critical_difference(len(methods), len(values))
    groups = [" = ".join(methods[i] for i in group) for group in alike(np.array(ranks), difference)]
    return [
        f"Friedman p = {friedman(values):.1g}; critical difference of ranks (Nemenyi, α = 0.05): {difference:.2f}. "
        f"No significant difference: {'; '.join(groups) or 'none'}."
    ]
