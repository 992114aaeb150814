"""Finished runs side by side: one table, their ROC curves, their training curves.

python -m vae_lightning compare lightning_logs/mnist_autoencoder/* lightning_logs/mnist_beta_vae/*
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml
from sklearn.metrics import roc_auc_score

from ..errors import UserError
from ..training.callbacks.metrics import SCORES
from ..training.runs import RESULTS
from .curves import png, roc, scalars, training
from .markdown import markdown_table
from .parser import StudyParser

# keys that say where a run lies and what is watched, and nothing about what it comes to
BYSTANDERS = re.compile(
    r"(runs|experiment|ckpt_path|weights_only|checkpoint_every_n_steps|pictures\..*|data\..*(num_workers|on_device)"
    r"|trainer\.(logger|enable_\w+|default_root_dir|profiler|num_sanity_val_steps|log_every_n_steps|\w+registry))(\..*)?"
)
SEEDS = re.compile(r"seed_everything|data\..*seed")
DETECTION = "auroc", "average_precision", "f1"


@dataclass
class Run:
    """A finished run, out of its folder.

    Attributes:
        folder: Where it lies.
        settings: Its configuration on one level: ``model.network.hidden: [400]``.
        metrics: What it came to, with ``epochs`` and ``seconds``.
    """

    folder: Path
    settings: dict[str, Any]
    metrics: dict[str, float]

    @cached_property
    def scores(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Test labels (N,) and the scores (N,) that decide; None where there are none of the test in ``metrics``."""
        path = self.folder / SCORES
        if not path.is_file():
            _note(f"{self.folder} has no {SCORES}, hence no ROC curve: `test` with its checkpoint writes it")
            return None
        try:
            with np.load(path) as file:
                labels, scores = file["labels"], file[file.files[0]]
                auroc = float(roc_auc_score(labels, scores))
        except (ValueError, OSError, KeyError, BadZipFile, EOFError) as error:
            raise UserError(f"{path}: damaged ({error}): `test` with the run's checkpoint writes it anew") from error
        if abs(auroc - self.metrics.get("test/auroc", auroc)) > 1e-5:
            _note(f"{path} is of another test than {RESULTS} (AUROC {auroc:.4f}), hence no ROC curve of it")
            return None
        return labels, scores

    @cached_property
    def curves(self) -> dict[str, dict[int, float]]:
        """Every logged scalar of training and validation as {epoch: value}."""
        if not (curves := scalars(self.folder)):
            _note(f"{self.folder} has no TensorBoard events, hence no training curves")
        return curves


@dataclass
class Group:
    """Runs that differ in nothing but their seeds.

    Attributes:
        runs: At least one.
        name: Their folders.
        label: What sets them apart from the other groups.
        differences: The values of the settings in which the groups differ.
    """

    runs: list[Run]
    name: str = ""
    label: str = ""
    differences: dict[str, str] = field(default_factory=dict)

    def statistics(self, metric: str) -> tuple[float, float] | None:
        """Mean, and standard deviation over the runs (of the population that they are drawn from; NaN for one run)."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if not values:
            return None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def main(args: list[str]) -> int:
    """Compare runs; the exit code is 0.

    Raises:
        UserError: When a path is no finished run, or the folder cannot be written.
    """
    options = parser().parse_args(args)
    groups = group([read(folder) for folder in find(options.runs)])
    lines = {g.label: g.runs for g in groups}
    areas = {g.label: f"AUROC {_cell('auroc', s)}" for g in groups if (s := g.statistics("test/auroc"))}
    pictures = {
        "roc.png": roc({label: [run.scores for run in runs] for label, runs in lines.items()}, areas),
        "curves.png": training({label: [run.curves for run in runs] for label, runs in lines.items()}),
    }
    text = markdown(groups)
    embedded = "\n".join(["", "![ROC curves](roc.png)", "", "![Training curves](curves.png)", ""])
    write(
        Path(options.out),
        {
            "comparison.md": (text + embedded).encode(),
            "comparison.csv": table(groups).encode(),
            **{name: png(figure) for name, figure in pictures.items()},
        },
    )
    print(f"{text}\nwritten      {options.out}: comparison.md, comparison.csv, {', '.join(pictures)}")
    return 0


def parser() -> StudyParser:
    """What ``compare --help`` shows."""
    parser = StudyParser(
        "compare",
        description="Puts finished runs side by side: the settings in which they differ, loss terms, AUROC, average "
        "precision, F1, epochs and time, ROC and training curves. Runs that differ in their seeds alone "
        "(seed_everything and the data's) are one row: mean ± standard deviation over n seeds.",
    )
    what = "folder of a run, <runs>/<experiment>/version_<n>, or a pattern such as 'lightning_logs/mnist_*/*'"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=what)
    files = "comparison.md, comparison.csv (more columns, all digits), roc.png and curves.png"
    parser.add_argument("--out", default="comparison", help=f"folder for {files} (default: ./comparison)")
    return parser


def find(patterns: list[str]) -> list[Path]:
    """The folders that paths and patterns mean, each once, version_2 before version_10."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        folders = [Path(pattern)]
        if not folders[0].exists():
            folders = [path for name in glob.glob(pattern, recursive=True) if (path := Path(name)).is_dir()]
        if not folders:
            raise UserError(f"{pattern}: no folder matches: give folders of runs, <runs>/<experiment>/version_<n>")
        for folder in sorted(folders, key=_natural):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def read(folder: Path) -> Run:
    """A finished run's settings and results.

    Raises:
        UserError: When the folder is no run, the run is not finished, or a file is damaged.
    """
    config, results = folder / "config.yaml", folder / RESULTS
    if not config.is_file():
        hint = f"{folder}/*" if any(folder.glob("*/config.yaml")) else "<runs>/<experiment>/version_<n>"
        raise UserError(f"{folder} is no run (it has no config.yaml): give {hint}")
    if not results.is_file():
        raise UserError(
            f"{folder} is not finished (it has no {RESULTS}): leave it out, or resume it: "
            f"fit --ckpt_path {folder}/checkpoints/last.ckpt"
        )
    try:
        content = json.loads(results.read_text())
        metrics = {**content["metrics"], "epochs": content["epochs"], "seconds": content["seconds"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{results}: damaged ({error!r}): leave the run out, or train it anew") from error
    try:
        settings = dict(leaves(yaml.safe_load(config.read_text())))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{config}: no YAML ({' '.join(str(error).split())}): leave the run out") from error
    # an option that is null is one that is not there: later versions may add more of them
    settings = {k: v for k, v in settings.items() if v is not None and not BYSTANDERS.fullmatch(k)}
    return Run(folder, settings, metrics)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """A nested configuration on one level.

    ``model: {class_path: VAE, init_args: {beta: 4}}`` gives ``model: VAE`` and ``model.beta: 4``; of objects in a list,
    each has its place as a name.
    """
    prefix = f"{key}." if key else ""
    if isinstance(value, dict) and "class_path" in value:
        yield key, value["class_path"]
        value = value.get("init_args") or {}
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, prefix + name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from leaves(item, f"{prefix}{i}")
    else:
        yield key, value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def group(runs: list[Run]) -> list[Group]:
    """Put runs together that differ in their seeds alone.

    The same seeds a second time begin a group of their own: there, something else than the configuration has changed,
    and n is to count seeds.
    """
    groups: dict[Any, Group] = {}
    taken: dict[Any, int] = {}
    for run in runs:
        key = frozenset((k, str(v)) for k, v in run.settings.items() if not SEEDS.fullmatch(k))
        seeds = frozenset((k, v) for k, v in run.settings.items() if SEEDS.fullmatch(k))
        taken[key, seeds] = taken.get((key, seeds), 0) + 1
        groups.setdefault((key, taken[key, seeds]), Group([])).runs.append(run)
    return _described(list(groups.values()))


def _described(groups: list[Group]) -> list[Group]:
    """Names, differences and labels, which need all groups to be known."""
    root = os.path.commonpath([run.folder.resolve().parent for g in groups for run in g.runs])
    keys = dict.fromkeys(key for g in groups for key in g.runs[0].settings if not SEEDS.fullmatch(key))
    columns = {key: _column([g.runs[0].settings.get(key, "") for g in groups]) for key in keys}
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    for i, g in enumerate(groups):
        places = [Path(os.path.relpath(run.folder.resolve(), root)) for run in g.runs]
        g.name = ", ".join(
            str(p if not n or p.parent != places[n - 1].parent else p.name) for n, p in enumerate(places)
        )
        g.differences = {key: column[i] for key, column in columns.items()}
    telling = _telling(groups)
    for g in groups:
        values = [(key, value) for key, value in g.differences.items() if key in telling and value]
        g.label = ", ".join(f"{key.rpartition('.')[2]} {value}" if "." in key else value for key, value in values)
    if len({g.label for g in groups}) < len(groups) or not all(0 < len(g.label) < 80 for g in groups):
        for g in groups:
            g.label = g.name
    return groups


def _telling(groups: list[Group]) -> list[str]:
    """The differing settings without those that only come and go with an object: with ``model``, ``model.beta``."""
    rows = [g.differences for g in groups]
    return [
        key
        for key in rows[0]
        if len({row[key] for row in rows if row[key]}) > 1 or not any(key.startswith(f"{other}.") for other in rows[0])
    ]


def _column(values: list[Any]) -> list[str]:
    """Values for the eye, classes without their modules where that is enough to tell them apart."""
    full = [str(value) for value in values]
    short = [re.sub(r"^(?:[A-Za-z_]\w*\.)+([A-Z]\w*)$", r"\1", text) for text in full]
    return short if len(set(short)) == len(set(full)) else full


def columns(groups: list[Group]) -> list[str]:
    """The metrics for the table: detection and loss terms of test and validation; epochs and time."""
    names = dict.fromkeys(name for g in groups for run in g.runs for name in run.metrics)
    others = ("precision", "recall", "threshold", "objective", *DETECTION)
    terms = [
        n for n in names if n.count("/") == 1 and n.startswith(("test/", "val/")) and n.split("/")[1] not in others
    ]
    detection = [f"{split}/{name}" for split in ("test", "val") for name in DETECTION]
    return [n for n in (*detection, *sorted(terms, key=lambda n: n.split("/")[0]), "epochs", "seconds") if n in names]


def markdown(groups: list[Group]) -> str:
    """The table for the eye; settings that only come with an object that it names are left to the CSV file."""
    metrics, differing = columns(groups), _telling(groups)
    rows = [["run", *differing, "n", *("time / s" if name == "seconds" else name for name in metrics)]]
    for g in groups:
        cells = [g.name, *(g.differences[key] for key in differing), str(len(g.runs))]
        rows.append([*cells, *(_cell(name, g.statistics(name)) for name in metrics)])
    spread = "± is the standard deviation over n seeds; train and val are of the last epoch, test of the kept weights."
    return "\n".join([*markdown_table(rows), "", spread, ""])


def _cell(name: str, statistics: tuple[float, float] | None) -> str:
    if statistics is None:
        return ""
    mean, std = statistics
    digits = 1 if name == "seconds" else 0 if name == "epochs" and mean == round(mean) else 2 if abs(mean) >= 10 else 4
    return f"{mean:.{digits}f}" + ("" if np.isnan(std) or (name == "epochs" and not std) else f" ± {std:.{digits}f}")


def table(groups: list[Group]) -> str:
    """The table for programs: every metric, mean and standard deviation in columns of their own, all digits."""
    metrics = dict.fromkeys(name for g in groups for run in g.runs for name in run.metrics)
    differing = list(groups[0].differences)
    pairs = [title for name in metrics for title in (name, f"{name} std")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *differing, "seeds", "n", *pairs])
    for g in groups:
        seeds = " ".join(str(run.settings.get("seed_everything")) for run in g.runs)
        numbers = [number for name in metrics for number in g.statistics(name) or ("", "")]
        plain = ("" if number != number else number for number in numbers)  # no standard deviation of one run
        writer.writerow([g.name, *g.differences.values(), seeds, len(g.runs), *plain])
    return text.getvalue()


def write(out: Path, files: dict[str, bytes]) -> None:
    """All files or none: they are moved into ``out`` once each of them has been written."""
    for name in files:
        if (out / name).is_dir():
            raise UserError(f"--out {out}: cannot be written ({name} is a folder there): give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".") as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            for name in files:
                os.replace(Path(folder) / name, out / name)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}): give another folder") from error


def _note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)
