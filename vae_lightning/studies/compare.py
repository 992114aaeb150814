"""Finished runs side by side: one table, their ROC curves, their training curves.

vae-lightning compare lightning_logs/mnist_autoencoder/* lightning_logs/mnist_beta_vae/*
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from pathlib import Path

import numpy as np

from ..errors import UserError
from .curves import png, roc, training
from .finished import find, read
from .groups import Group, group, telling
from .markdown import markdown_table
from .parser import StudyParser

DETECTION = "auroc", "average_precision", "f1"


def main(args: list[str]) -> int:
    """Compare runs; the exit code is 0.

    Raises:
        UserError: When a path is no finished run, or the folder cannot be written.
    """
    options = parser().parse_args(args)
    groups = group([read(folder) for folder in find(options.runs)])
    lines = {g.label: g.runs for g in groups}
    areas = {g.label: f"AUROC {_cell(s, 4)}" for g in groups if (s := g.statistics("test/auroc"))}
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
        description="Show finished runs side by side: the settings in which they differ, loss terms, AUROC, average "
        "precision, F1, epochs and time, ROC and training curves. Runs that differ only in their seeds "
        "(seed_everything and the data's) are one row: mean ± standard deviation over n seeds.",
    )
    what = "folder of a run, <runs>/<experiment>/version_<n>, or a pattern such as 'lightning_logs/mnist_*/*'"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=what)
    files = "comparison.md, comparison.csv (more columns, all digits), roc.png and curves.png"
    parser.add_argument("--out", default="comparison", help=f"folder for {files} (default: ./comparison)")
    return parser


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
    """The table for people; settings that only come with an object that it names are left to the CSV file."""
    metrics, differing = columns(groups), telling(groups)
    rows = [["run", *differing, "n", *("time / s" if name == "seconds" else name for name in metrics)]]
    digits = {name: _digits(name, groups) for name in metrics}
    for g in groups:
        cells = [g.name, *(g.differences[key] for key in differing), str(len(g.runs))]
        rows.append([*cells, *(_cell(g.statistics(name), digits[name]) for name in metrics)])
    spread = "± is the standard deviation over n seeds; train and val are of the last epoch, test of the kept weights."
    return "\n".join([*markdown_table(rows), "", spread, ""])


def _digits(name: str, groups: list[Group]) -> int:
    """After the point, the same for a whole column."""
    means = [found[0] for g in groups if (found := g.statistics(name))]
    if name == "epochs" and all(mean == round(mean) for mean in means):
        return 0
    return 1 if name in ("seconds", "epochs") else 2 if max(map(abs, means), default=0) >= 10 else 4


def _cell(statistics: tuple[float, float] | None, digits: int) -> str:
    if statistics is None:
        return ""
    mean, std = statistics
    return f"{mean:.{digits}f}" + ("" if np.isnan(std) or (digits == 0 and not std) else f" ± {std:.{digits}f}")


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
