"""A file or a folder through a detector, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .export import manifest_of
from .inputs import Keep
from .opening import opened
from .scoring import Answer, Summary, score_input
from .writers import check_output

if TYPE_CHECKING:
    from ..detection import Detector


def predict_file(
    detector: Detector,
    source: str | Path,
    output: str | Path,
    *,
    alpha: float | None = None,
    fdr: float | None = None,
    append_columns: bool = False,
    key: str | None = None,
    delimiter: str | None = None,
    progress: bool = False,
) -> Summary:
    """Score a table or a folder of images of any size into a file of scores, p-values and decisions.

    The output has a row for each sample, in order: its ``row`` in the input, from 0, or its key, or the ``path`` of an
    image; each score; ``p_value``; ``anomaly``, the decision. It appears when it is complete, and not before. Memory
    does not grow with the input.

    Args:
        detector: A :class:`~vae_lightning.detection.detector.Detector`.
        source: A CSV, Parquet, Arrow or NumPy file, a folder of such parts, or a folder of images.
        output: Its name ends in ``.csv``, ``.parquet`` or ``.arrow``.
        alpha: Alarm where p ≤ alpha, in place of the detector's threshold.
        fdr: Bound the share of false alarms among all alarms instead, see
            :func:`~vae_lightning.detection.conformal.benjamini_hochberg`.
        append_columns: Whether the table's own columns follow.
        key: The column that tells rows apart, in place of their numbers; None: the one that the detector's data module
            was told of, where the table has it.
        delimiter: Of CSV; None: the one of the table that the detector was trained on.
        progress: Whether to show on stderr how far it is.

    Returns:
        How many rows and anomalies there are, and notes: columns that are not looked at, unseen categories, a level
        that calibration samples are too few for.

    Raises:
        UserError: In one line, for whatever is wrong with input or output.
    """
    output, source = Path(output), Path(source)
    check_output(output)
    detector.check_calibrated()
    _check_apart(source, output)
    keep: Keep | None = None if not append_columns else "as they are" if output.suffix == ".csv" else "as numbers"
    given = opened(manifest_of(detector), source, key, keep, delimiter)

    def run(raw: Any) -> Answer:
        found = detector.run(raw)
        return {**found.each, "p_value": found.p_value, "anomaly": found.anomaly}

    made = score_input(given, run, detector.names, output, alpha, fdr, progress)
    if not made.anomalies and (reason := detector.unreachable(made.rows, alpha, fdr)):
        made.notes.append(reason)
    return made


def _check_apart(source: Path, output: Path) -> None:
    if source.resolve() == output.resolve():
        raise UserError(f"{output}: is the input: give another name")
    if source.is_dir() and source.resolve() == output.resolve().parent:
        raise UserError(f"{output}: lies among the parts of {source}: give another folder")
