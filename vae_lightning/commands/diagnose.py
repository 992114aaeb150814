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
        description="Looks a finished run over: latent units in use and KL by unit, if the decoder uses the code, "
        "log-variances at their bound, validation still falling, scores against ‖x‖ and an untrained net, false alarms "
        "against their promise, and a second seed if a run beside it differs in that alone.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, <runs>/<experiment>/version_<n>")
    return parser
