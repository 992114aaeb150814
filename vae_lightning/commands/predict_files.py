"""``vae-lightning predict --input``: a file or a folder through a detector, without a Trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..studies.parser import StudyParser

OPTIONS = "--input", "--output"
OPTIONAL = "alpha", "fdr", "append_columns", "key", "delimiter", "explain", "heatmaps"


def asked_for(args: list[str]) -> bool:
    """Whether these are predict's arguments for files."""
    return any(arg.partition("=")[0] in OPTIONS for arg in args)


def main(args: list[str]) -> int:
    """Score a file or a folder; the exit code is 0, or 1 when interrupted.

    Raises:
        UserError: When anything is wrong. There is no output then.
    """
    options = parser().parse_args(args)
    from ..deployment.files import predict_file
    from ..deployment.writers import check_output
    from ..detection import Detector, storage

    check_output(Path(options.output))
    path = storage.find(options.ckpt_path, runs=options.runs, experiment=options.experiment)
    detector = Detector.load(path).to(_device(options.device))
    given = {key: getattr(options, key) for key in OPTIONAL}
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
    """What it takes; ``predict --help`` explains it."""
    parser = StudyParser("predict", add_help=False)
    parser.add_argument("--ckpt_path", required=True)
    for name in OPTIONS:
        parser.add_argument(name, required=True)
    for name in ("--alpha", "--fdr"):
        parser.add_argument(name, type=float)
    parser.add_argument("--append_columns", action="store_true")
    parser.add_argument("--key")
    parser.add_argument("--delimiter")
    parser.add_argument("--explain", type=int)
    parser.add_argument("--heatmaps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", default="lightning_logs")
    parser.add_argument("--experiment")
    return parser


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: there is no such device here: give cpu, or cuda for a GPU") from error
