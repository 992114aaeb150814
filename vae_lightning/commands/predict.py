"""``python -m vae_lightning predict``: scores, p-values and decisions of a checkpoint as a table.

Of a file or a folder with ``--input``, by the detector alone; else of the data set's own test split, by the Trainer.
"""

from __future__ import annotations

import sys
from typing import Any

from ..errors import UserError
from ..studies.parser import StudyParser
from .evaluate import before as check_checkpoint
from .source import find_checkpoint

INPUT = "--input"
FDR = "Decide by Benjamini and Hochberg's procedure: bounds the share of false alarms among all alarms, in (0, 1)."
OF_FILES: dict[str, dict[str, Any]] = {  # options of no use without --input
    INPUT: {"help": "A CSV, Parquet, Arrow or NumPy file, a folder of such parts, or a folder of images."},
    "--output": {"help": "The table to write: its name ends in .csv, .parquet or .arrow."},
    "--alpha": {"type": float, "help": "Alarm where p is at most this, in place of the threshold."},
    "--append_columns": {"action": "store_true", "help": "Keep the input's columns, behind the others."},
    "--key": {"help": "The column that tells rows apart (default: the id column of training, or the row's number)."},
    "--device": {"default": "auto", "help": "Where to compute: cpu, cuda, cuda:1; auto takes a GPU if there is one."},
}


def reads_files(args: list[str]) -> bool:
    """Whether a command line is predict's for files."""
    return args[:1] == ["predict"] and any(arg.partition("=")[0] == INPUT for arg in args)


def main(args: list[str]) -> int:
    """Score a file or a folder; the exit code is 0, or 1 when interrupted.

    Raises:
        UserError: When anything is wrong. There is no output then.
    """
    options = parser().parse_args(args)

    from ..deployment.files import predict_file
    from ..detection import Detector

    path = find_checkpoint(options.ckpt_path, options.runs, options.experiment)
    detector = Detector.load(path).to(_device(options.device))
    given = {key: getattr(options, key) for key in ("alpha", "fdr", "append_columns", "key")}
    try:
        made = predict_file(detector, options.input, options.output, progress=True, **given)
    except KeyboardInterrupt:
        print(f"interrupted: {options.output} has not been written", file=sys.stderr)
        return 1
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"rows         {made.rows:,}\nanomalies    {made.anomalies:,}\npredictions  {options.output}")
    return 0


def parser() -> StudyParser:
    """Of predict with ``--input``."""
    made = StudyParser("predict", description="Scores, p-values and decisions of a checkpoint on a file or a folder.")
    made.add_argument("--ckpt_path", required=True, help="A .ckpt file, or last or best of the newest run.")
    for name, how in OF_FILES.items():
        made.add_argument(name, required=name in (INPUT, "--output"), **how)
    made.add_argument("--fdr", type=float, help=FDR)
    made.add_argument("--runs", default="lightning_logs", help="Folder of all runs (default: lightning_logs).")
    made.add_argument("--experiment", help="Of whose runs last or best is taken (default: of all).")
    return made


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device {name}: there is no such device here: give cpu, or cuda where there is a GPU"
        ) from error


# Of the data set's test split


def before(cli: Any) -> None:
    """Refuse what only files have a use for."""
    for option in OF_FILES:
        if cli.settings[option.lstrip("-")] not in (None, False, "auto"):
            raise UserError(f"{option}: give {INPUT} on the command line as well, a file or a folder to score")
    check_checkpoint(cli)


def after(cli: Any) -> None:
    """Say where the table lies."""
    if cli.trainer.is_global_zero and not cli.tries:
        print(f"predictions  {cli.folder / 'predictions.csv'}")
