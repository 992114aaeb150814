"""An input scored into a file, in memory that does not grow with it: the loop under every command that scores files."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import levels
from ..arrow import pyarrow
from ..errors import UserError
from .inputs import Input
from .progress import shown
from .writers import Write, check_output, refusals, writing

Answer = dict[str, np.ndarray]


class Summary(NamedTuple):
    """What was written.

    Attributes:
        rows: How many samples.
        anomalies: How many of them are.
        notes: What the user ought to know, each a line.
    """

    rows: int
    anomalies: int
    notes: list[str]


def score_input(
    given: Input,
    run: Callable[[Any], Answer],
    scores: list[str],
    output: Path,
    alpha: float | None = None,
    fdr: float | None = None,
    progress: bool = False,
    more: Sequence[Any] = (),
) -> Summary:
    """Write a table with a row for each sample: what tells it apart, each score, ``p_value``, ``anomaly``, the rest.

    Args:
        given: The samples.
        run: Given raw samples, gives by name each score, ``p_value`` (float32) and ``anomaly`` (bool).
        scores: Their names.
        output: See ``writing``.
        alpha: Alarm where p ≤ alpha, in place of the threshold.
        fdr: Decide by Benjamini and Hochberg's procedure at this level over all samples. They are gone through twice:
            the second time in a temporary file beside the output.
        progress: Whether to show it on stderr.
        more: Further columns that ``run`` gives, pyarrow fields; they come behind the decision.

    Raises:
        UserError: When anything is wrong with input or output. There is then no output.
    """
    check_output(output)
    levels.check(alpha, fdr)
    pa = pyarrow()
    first, *rest = given.kept
    decided = [pa.field("p_value", pa.float32(), False), pa.field("anomaly", pa.bool_(), False)]
    schema = pa.schema([first, *(pa.field(name, pa.float32(), False) for name in scores), *decided, *more, *rest])
    if twice := sorted(name for name, count in Counter(schema.names).items() if count > 1):
        raise UserError(f"column {twice[0]!r} is the input's and the output's: rename it, or do not append columns")
    batches = shown(_scored(given, run, schema), given.rows, progress)
    with contextlib.ExitStack() as stack:
        if alpha is not None:
            batches = _decided(batches, alpha)
        elif fdr is not None:
            batches = stack.enter_context(_decided_together(batches, fdr, output, schema, progress))
        rows, anomalies = _written(batches, stack.enter_context(writing(output, schema)))
    return Summary(rows, anomalies, given.notes())


def _scored(given: Input, run: Callable[[Any], Answer], schema: Any) -> Iterator[Any]:
    """Record batches of the output, with the threshold's decisions."""
    pa = pyarrow()
    for block in given.blocks():
        answer = run(block.samples)
        first, *rest = block.kept
        names = schema.names[1 : len(schema) - len(rest)]
        columns = [first, *(pa.array(answer[name]) for name in names), *rest]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _decided(batches: Iterable[Any], level: float) -> Iterator[Any]:
    """The same with the decision p ≤ level."""
    pa = pyarrow()
    for batch in batches:
        anomaly = pa.array(levels.by_alpha(batch.column("p_value").to_numpy(), level))
        names = batch.schema.names
        columns = [anomaly if name == "anomaly" else batch.column(name) for name in names]
        yield pa.RecordBatch.from_arrays(columns, schema=batch.schema)


@contextlib.contextmanager
def _decided_together(
    batches: Iterable[Any], fdr: float, output: Path, schema: Any, progress: bool
) -> Iterator[Iterator[Any]]:
    """The same with decisions over all p-values, which are few: how often each occurs is what is remembered."""
    pa, counts, rows = pyarrow(), Counter[float](), 0
    with contextlib.ExitStack() as stack:
        with refusals(output):
            file = stack.enter_context(_unnamed(output.parent))
            writer = pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        for batch in batches:
            values, often = np.unique(batch.column("p_value").to_numpy(), return_counts=True)
            counts.update(dict(zip(values.tolist(), often.tolist(), strict=True)))
            rows += len(batch)
            with refusals(output):
                writer.write_batch(batch)
        with refusals(output):
            writer.close()
            file.seek(0)
            read = pa.ipc.open_file(file)
        values = np.array(sorted(counts))
        cutoff = levels.fdr_cutoff(values, np.array([counts[value] for value in values]), fdr)
        again = map(read.get_batch, range(read.num_record_batches))
        yield _decided(shown(again, rows, progress, "deciding"), cutoff)


@contextlib.contextmanager
def _unnamed(folder: Path) -> Iterator[Any]:
    """A temporary file, without a name where the system can: a process that is killed leaves nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # what could not be written has been said
            file.close()


def _written(batches: Iterable[Any], write: Write) -> tuple[int, int]:
    """The numbers of rows and of anomalies among them."""
    rows = anomalies = 0
    for batch in batches:
        write(batch)
        rows += len(batch)
        anomalies += batch.column("anomaly").true_count
    return rows, anomalies
