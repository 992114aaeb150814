"""``vae-lightning score``: a folder of files through a detector, here or on a cluster."""

from __future__ import annotations

import sys

from ..errors import UserError
from ..studies.parser import StudyParser


def main(args: list[str]) -> int:
    """Score a folder; the exit code is 0, or 1 when some files could not be scored, or it was interrupted.

    Raises:
        UserError: When detector, input or output are not what they should be.
    """
    options = parser().parse_args(args)
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: give at least 1")
    if options.address is not None and options.engine != "ray":
        raise UserError("--address is a Ray cluster's: give --engine ray, too")
    from ..deployment.lake import score_lake

    given = {key: getattr(options, key) for key in ("jobs", "engine", "address", "fdr", "explain")}
    try:
        total = score_lake(options.detector, options.input, options.output, form=options.format, progress=True, **given)
    except KeyboardInterrupt:
        print("interrupted: the same command continues where it stopped", file=sys.stderr)
        return 1
    for note in total.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"files        {total.files:,}, {total.before:,} of them were there before")
    print(f"rows         {total.rows:,}\nanomalies    {total.anomalies:,}\nscores       {options.output}")
    for reason in total.failed.values():
        print(f"error: {reason}", file=sys.stderr)
    if total.failed:
        print(f"error: {len(total.failed)} of {len(total.failed) + total.files} files have no scores", file=sys.stderr)
    return 1 if total.failed else 0


def parser() -> StudyParser:
    """What ``score --help`` shows."""
    parser = StudyParser(
        "score",
        description="Score every file in a folder and its subfolders, one output file for each. If started again, it "
        "skips files that are done. A file that cannot be scored is reported at the end; the others are scored.",
    )
    add = parser.add_argument
    add("--detector", required=True, help="an exported file, a .ckpt file, a run's folder, best or last")
    add("--input", required=True, help="a folder of CSV, Parquet, Arrow or NumPy files, or of folders of images")
    add("--output", required=True, help="a folder for the scores of this detector")
    add("--jobs", type=int, default=1, help="processes, or scorers with --engine ray (default: 1)")
    add("--format", choices=("parquet", "csv", "arrow"), default="parquet", help="of the outputs (default: parquet)")
    add("--fdr", type=float, help="bound the share of false alarms among all alarms in the folder")
    add("--explain", type=int, metavar="K", help="the top K reasons for each score; needs a checkpoint")
    add("--engine", choices=("ray",), help="hand the files to a Ray cluster")
    add("--address", help="of the cluster, such as ray://HOST:10001 (default: start one on this machine)")
    return parser
