"""A folder of files scored into a folder, here or on a cluster; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .. import levels
from ..errors import UserError
from ..files import lock, write_whole
from . import discoveries, reasons, workers
from .parts import Form, Part, Scored, is_finished, parts_of
from .progress import shown
from .scorer import Scorer

MARK = "_detector.json"  # whose scores a folder holds; readers of tables pass over names that start like this
LOCK = "_lock"


class Total(NamedTuple):
    """What became of a folder.

    Attributes:
        files: How many outputs there are.
        before: How many of them were there before.
        rows: How many samples have been scored now.
        anomalies: How many of these are; with ``fdr``, of all samples in the folder.
        failed: Why files have no output, a line each, by their paths.
        notes: What the user ought to know, each a line.
    """

    files: int
    before: int
    rows: int
    anomalies: int
    failed: dict[str, str]
    notes: list[str]


def score_lake(
    detector: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    jobs: int = 1,
    engine: str | None = None,
    address: str | None = None,
    fdr: float | None = None,
    form: Form = "parquet",
    explain: int | None = None,
    progress: bool = False,
) -> Total:
    """Score every file below a folder into a file of its own: ``a/b.csv`` into ``a/b.csv.parquet``.

    An output has a row for each sample, in order: its ``row`` or its id, each score, ``p_value``, ``anomaly``. It is
    there when it is complete. A file whose output is there, and not older, is passed over. A file that cannot be scored
    has no output, and is no hindrance to the others. Memory does not grow with files or rows.

    Args:
        detector: What ``Scorer`` opens.
        source: A folder of tables, or of folders of images; or one table.
        output: A folder, for this detector's scores alone.
        jobs: Processes.
        engine: ``ray`` hands the files to the workers of a Ray cluster, which see both folders under the same paths.
        address: Of the cluster; None starts one on this machine.
        fdr: Decide by Benjamini and Hochberg's procedure at this level over all samples in the output folder.
        form: Of the outputs.
        explain: Reasons beside each score, see ``predict_file``; of a checkpoint.
        progress: Whether to show on stderr how far it is.

    Raises:
        UserError: When detector, source or output are not what they should be.
    """
    levels.check(None, fdr)
    reasons.check(explain)
    source, output = Path(source), Path(output)
    scorer = Scorer(detector)
    if explain:
        scorer.check_explains()
    parts = parts_of(source, output, scorer.manifest, form)
    with claimed(output, scorer, {"format": form, "fdr": fdr, "explain": explain}):
        left = [part for part in parts if not is_finished(part)]
        rows = anomalies = 0
        failed: dict[str, str] = {}
        notes: dict[str, None] = {}
        found = ([one] for one in _scored(str(detector), left, jobs, engine, address, explain))
        for (scored,) in shown(found, len(left), progress, unit="files"):
            rows, anomalies = rows + scored.rows, anomalies + scored.anomalies
            notes.update(dict.fromkeys(scored.notes))
            if scored.error is not None:
                failed[scored.source] = scored.error
        done = [Path(part.output) for part in parts if part.source not in failed]
        if fdr is not None:
            anomalies, note = discoveries.decide(done, fdr, scorer.manifest.calibration)
            notes.update(dict.fromkeys(note))
    return Total(len(done), len(parts) - len(left), rows, anomalies, failed, list(notes))


def _scored(
    detector: str, parts: list[Part], jobs: int, engine: str | None, address: str | None, explain: int | None
) -> Iterator[Scored]:
    if engine == "ray":
        from . import cluster

        return cluster.scored(detector, parts, jobs, address, explain)
    return workers.scored(detector, parts, jobs, explain)


@contextlib.contextmanager
def claimed(output: Path, scorer: Scorer, decides: dict[str, Any]) -> Iterator[None]:
    """The output folder for this process alone, marked with whose scores it holds.

    Args:
        output: The folder, made if need be.
        scorer: The detector.
        decides: What decides on anomalies, and in what form outputs are.

    Raises:
        UserError: When another process has it, or it holds anything but this detector's scores decided so.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        marked = (output / MARK).is_file()
        if not marked and any(path.name != LOCK for path in output.iterdir()):
            raise UserError(f"{output}: holds files and no {MARK}: give a new folder")
        with lock(output / LOCK) as mine:
            if not mine:
                raise UserError(f"{output}: another process scores into it: wait, or give another folder")
            mark = {"weights": scorer.manifest.weights, **decides}
            if marked:
                _check_mark(output / MARK, mark)
            about = {"model": scorer.manifest.model, "rule": scorer.manifest.rule}
            write_whole(output / MARK, json.dumps({**mark, **about}, indent=1, ensure_ascii=False) + "\n")
            for leftover in output.rglob(".*"):  # of a process that was killed
                if leftover.is_file() and len(leftover.suffix) == 33:
                    leftover.unlink(missing_ok=True)
            yield
    except OSError as error:
        raise UserError(f"{error.filename or output}: cannot be written ({error.strerror})") from error


def _check_mark(file: Path, mine: dict[str, Any]) -> None:
    try:
        other = json.loads(file.read_text())
        weights, model = other["weights"], other["model"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{file}: does not say whose scores are in the folder: give a new folder") from None
    if weights != mine["weights"]:
        raise UserError(f"{file.parent}: holds the scores of another detector ({model}): give a new folder")
    for key, value in mine.items():
        if other.get(key) != value and (key != "fdr" or value is None):
            given = f"no --{key}" if other.get(key) is None else f"--{key} {other[key]}"
            raise UserError(f"{file.parent}: was written with {given}: give the same again, or a new folder")
