"""``vae-lightning report``: a finished run as one HTML file."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..files import write_whole
from ..studies.opened import open_run
from ..studies.parser import StudyParser
from ..studies.report.content import gather
from ..studies.report.page import render
from ..training.quiet import quietly


def main(args: list[str]) -> int:
    """Write the report; the exit code is 0.

    Raises:
        UserError: When the folder is no finished run, or the file cannot be written.
    """
    options = parser().parse_args(args)
    run = open_run(Path(options.run))
    out = Path(options.out) if options.out else run.run.folder / "report.html"
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder: give a file")
    with quietly():
        page = render(gather(run))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page)
    print(f"written      {out} ({len(page.encode()) / 1024:.0f} kB)")
    return 0


def parser() -> StudyParser:
    """What ``report --help`` shows."""
    parser = StudyParser(
        "report",
        description="Write a finished run as one HTML file that needs no network and no JavaScript: what was trained "
        "on what, curves, ROC and precision-recall with bootstrap intervals, scores and threshold, samples with their "
        "reasons, the latent space, and the self-check of `diagnose`.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, <runs>/<experiment>/version_<n>")
    parser.add_argument("--out", help="the file (default: report.html in the run's folder)")
    return parser
