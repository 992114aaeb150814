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
        description="Writes preprocessing, network, score, p-value and decision as one graph into one file, and "
        "compares that with the detector before it gets its name. Beside it lies its card, <output>.json.",
    )
    add = parser.add_argument
    add("--ckpt_path", default="best", help="a .ckpt file, a run's folder, or best or last of the newest run (best)")
    add("--output", required=True, help="the file, detector.onnx for one")
    add("--format", choices=list(FORMATS), help="onnx, or pt2 for torch.export.load (by the file's name)")
    add("--canary", type=int, default=4, help="raw calibration samples kept in the file to check it where it runs (4)")
    add("--runs", default="lightning_logs", help="folder of all runs (lightning_logs)")
    return parser
