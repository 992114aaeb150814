"""A file or a folder through a detector, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..detection.explainer import Explainer
from ..errors import UserError
from . import reasons
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
    explain: int | None = None,
    heatmaps: str | Path | None = None,
    progress: bool = False,
) -> Summary:
    """Score a table or a folder of images of any size into a file of scores, p-values and decisions.

    The output has a row for each sample, in order: its ``row`` in the input, from 0, or its key, or the ``path`` of an
    image; each score; ``p_value``; ``anomaly``, the decision. It appears when it is complete, and not before. Memory
    does not grow with the input.

    Args:
        detector: A ``Detector``.
        source: A CSV, Parquet, Arrow or NumPy file, a folder of such parts, or a folder of images.
        output: Its name ends in ``.csv``, ``.parquet`` or ``.arrow``.
        alpha: Alarm where p ≤ alpha, in place of the detector's threshold.
        fdr: Bound the share of false alarms among all alarms instead, see
            ``benjamini_hochberg``.
        append_columns: Whether the table's own columns follow.
        key: The column that tells rows apart, in place of their numbers; None: the one that the detector's data module
            was told of, where the table has it.
        delimiter: Of CSV; None: the one of the table that the detector was trained on.
        explain: Reasons of the score that decides, three columns each behind ``anomaly``: ``reason_1`` names the
            column that is the most to blame, see ``Explanation``.
        heatmaps: A folder for pictures of where in an image its score comes from, of those that raise an alarm.
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
    reasons.check(explain)
    _check_apart(source, output)
    if heatmaps is not None:
        reasons.check_heatmaps(detector, source, Path(heatmaps))
    keep: Keep | None = None if not append_columns else "as they are" if output.suffix == ".csv" else "as numbers"
    manifest = manifest_of(detector)
    given = opened(manifest, source, key, keep, delimiter)
    explainer = Explainer(detector, tries=0) if explain else None

    def run(raw: Any) -> Answer:
        found = detector.run(raw)
        why = explainer.run(raw).appended(explain) if explainer and explain else {}
        return {**found.each, "p_value": found.p_value, "anomaly": found.anomaly, **why}

    more = reasons.fields(explain, manifest.shape)
    made = score_input(given, run, detector.names, output, alpha, fdr, progress, more)
    if heatmaps is not None:
        drawn = reasons.write_heatmaps(detector, source, output, Path(heatmaps))
        made.notes.append(f"{drawn:,} heat maps of alarms in {heatmaps}")
    if not made.anomalies and (reason := detector.unreachable(made.rows, alpha, fdr)):
        made.notes.append(reason)
    return made


def _check_apart(source: Path, output: Path) -> None:
    if source.resolve() == output.resolve():
        raise UserError(f"{output}: is the input: give another name")
    if source.is_dir() and source.resolve() == output.resolve().parent:
        raise UserError(f"{output}: is among the parts of {source}: give another folder")
