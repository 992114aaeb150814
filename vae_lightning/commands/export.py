"""``vae-lightning export``: a detector as one file, for machines without this package."""

from __future__ import annotations

from pathlib import Path

from ..deployment.seal import Format
from ..detection import Detector, storage
from ..errors import UserError
from ..studies.parser import StudyParser

FORMATS: dict[str, Format] = {"onnx": "onnx", "pt2": "pt2"}


def main(args: list[str]) -> int:
    """Export a checkpoint, and say how the check of the file ended; the exit code is 0.

    Raises:
        UserError: When there is no such checkpoint, or the file is not to be trusted; nothing is written then.
    """
    options = parser().parse_args(args)
    output = Path(options.output)
    form = options.format or output.suffix.removeprefix(".")
    if form not in FORMATS:
        raise UserError(f"--output {output}: give --format, {' or '.join(FORMATS)}")
    file = storage.find(options.ckpt_path, runs=options.runs)
    detector = Detector.load(file)
    from ..deployment.export import export

    card = export(detector, output, FORMATS[form], options.canary)
    checked = card["checked"]
    print(f"exported     {output} and {output}.json, from {file}")
    print(f"takes        {card['dtype']} of shape {' × '.join(map(str, ['samples', *card['shape']]))}")
    print(f"gives        {', '.join(['score', 'p_value', 'anomaly', *card['scores'][1:]])}")
    print(
        f"checked      {checked['samples']} samples: no decision differs, scores by {checked['difference']:.1g} at most"
    )
    return 0


def parser() -> StudyParser:
    """What ``export --help`` shows."""
    parser = StudyParser(
        "export",
        description="Write preprocessing, network, score, p-value and decision as one graph to one file, after "
        "checking it against the detector. A description of it goes to <output>.json.",
    )
    add = parser.add_argument
    path = "a .ckpt file, a run's folder, or best or last of the newest run (default: best)"
    add("--ckpt_path", default="best", help=path)
    add("--output", required=True, help="the file, such as detector.onnx")
    add("--format", choices=list(FORMATS), help="onnx, or pt2 for torch.export.load (default: by the file's name)")
    rows = "raw calibration samples stored in the file to check it where it runs (default: 4)"
    add("--canary", type=int, default=4, help=rows)
    add("--runs", default="lightning_logs", help="folder of all runs (default: lightning_logs)")
    return parser
