"""``vae-lightning diagnose``: what is wrong with a finished run, in one table."""

from __future__ import annotations

from pathlib import Path

from ..studies.opened import open_run
from ..studies.parser import StudyParser


def main(args: list[str]) -> int:
    """Print the findings; the exit code is 0 whatever they are.

    Raises:
        UserError: When the folder is no finished run.
    """
    options = parser().parse_args(args)
    run = open_run(Path(options.run))
    print(f"{run.run.folder}\n\n{run.diagnose()}")
    return 0


def parser() -> StudyParser:
    """What ``diagnose --help`` shows."""
    parser = StudyParser(
        "diagnose",
        description="Check a finished run for problems: latent units in use and KL of each, whether the decoder uses "
        "the code, log-variances at their bound, a validation loss that still falls, scores no better than ‖x‖ or an "
        "untrained network's, the false-alarm rate, and a second seed if another run differs in nothing else.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, <runs>/<experiment>/version_<n>")
    return parser
