"""A file or a folder through a detector, into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.delimited import MISSING
from ..data.readers import Source, open_table
from ..errors import UserError
from ..schema import Column, Schema
from .inputs import ImageInput, Input, Keep, TableInput
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
    prepares = detector.model.preprocessing
    given: Input
    if len(prepares.raw_shape(detector.model.input_shape)) > 1:
        if append_columns or key is not None:
            raise UserError(f"{source}: images have no columns: leave out append_columns and key")
        given = ImageInput(source, detector.decoder)
    else:
        table, about = _table(detector, source, output, delimiter), detector.model.trained_on
        key = about["id"] if key is None and about.get("id") in table.names else key
        keep: Keep | None = None if not append_columns else "as they are" if output.suffix == ".csv" else "as numbers"
        schema = detector.schema or _numbers(detector, table, key)
        given = TableInput(table, schema, key, keep, prepares.takes_missing, about.get("beside") or ())

    def run(raw: Any) -> Answer:
        found = detector.run(raw)
        return {**found.each, "p_value": found.p_value, "anomaly": found.anomaly}

    made = score_input(given, run, detector.names, output, alpha, fdr, progress)
    if not made.anomalies and (reason := detector.unreachable(made.rows, alpha, fdr)):
        made.notes.append(reason)
    return made


def _table(detector: Detector, path: Path, output: Path, delimiter: str | None) -> Source:
    """The input, read as the training table was."""
    if path.resolve() == output.resolve():
        raise UserError(f"{output}: is the input: give another name")
    if path.is_dir() and path.resolve() == output.resolve().parent:
        raise UserError(f"{output}: lies among the parts of {path}: give another folder")
    about = detector.model.trained_on
    return open_table(path, delimiter or about.get("delimiter"), about.get("missing") or MISSING)


def _numbers(detector: Detector, table: Source, key: str | None) -> Schema:
    """Of a detector that was trained on an array: its columns by their names, or by their order if they have none."""
    prepares = detector.model.preprocessing
    names = detector.columns or [name for name in table.names if name not in (key, table.label)]
    (width,) = prepares.raw_shape(detector.model.input_shape)
    if len(names) != width:
        what = f"has {len(names)} columns, and the detector takes {width}, whose names it does not know"
        raise UserError(f"{table.name}: {what}: leave the others out, or name the one that tells rows apart as the key")
    return Schema(tuple(map(Column, names)), "float64" if torch.float64 in prepares.dtypes else "float32")
