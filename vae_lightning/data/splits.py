"""Who may see which sample, and when: pure functions of the data, the shares and the seed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import ANOMALY, NORMAL
from ..errors import UserError
from .loader import Chain, Split, binarized


class Part(NamedTuple):
    """One of the two parts in which a data set comes: its training part or its test part.

    Attributes:
        x: (N, *raw_shape), raw: what the data module's ``preprocessing`` takes; a tensor, or ``Rows`` of a file.
        target: Whole numbers (N,), the class of each sample. One that is no class is in no split.
        row: int64 (N,), where each sample stands in its source, ascending. None: 0 … N − 1.
    """

    x: Tensor
    target: Tensor
    row: Tensor | None = None


class Sources(NamedTuple):
    """Training and test part of a data set, and of the one that supplies the anomalies; often they are the same."""

    train: Part
    test: Part
    other_train: Part
    other_test: Part


class Shares(NamedTuple):
    """How much of what goes where, see ``AnomalyDataModule``."""

    val_fraction: float
    calibration_fraction: float | None
    val_anomalies: float
    test_anomalies: float
    contamination: float


def make_splits(
    sources: Sources, normal: list[int], anomalous: list[int], shares: Shares, seed: int, binarize: bool
) -> dict[str, Split | Chain]:
    """The splits by their names, and the normal samples of validation: ``val_normals``.

    Raises:
        UserError: When there are too few samples for them.
    """
    train, test, other_train, other_test = sources
    same = other_train is train
    generator, draws = (torch.Generator().manual_seed(seed) for _ in range(2))
    # in this order: each draws from the generator
    rows, strange = _pick(train, normal, generator), _pick(other_train, anomalous, generator)
    injected, tested = _pick(other_test, anomalous, generator), _pick(test, normal, generator)
    n_val, n_calibration = held_out(len(rows), shares.val_fraction, shares.calibration_fraction)
    n_strange = min(len(strange), max(1, round(shares.val_anomalies * n_val)))
    n_leaked = _leaked(len(rows) - n_val - n_calibration, len(strange) - n_strange, shares.contamination)
    injected = injected[: max(1, round(shares.test_anomalies * len(injected)))]
    val, calibration, fitted = rows.tensor_split([n_val, n_val + n_calibration])

    def fixed(split: Split) -> Split:
        """What is drawn anew each epoch in training is drawn once and for all here."""
        return _drawn(split, draws) if binarize else split

    normals = _split(train, fitted, NORMAL)
    leaked = _split(other_train, strange[n_strange : n_strange + n_leaked], ANOMALY, same)
    # drawn in this order, and calibration last: its share then leaves the other draws as they are
    val_normals, val_strange = fixed(_split(train, val, NORMAL)), strange[:n_strange]
    val_split = _in_order(val_normals, fixed(_split(other_train, val_strange, ANOMALY, same)), same)
    test_normals = fixed(_split(test, tested, NORMAL))
    test_split = _in_order(test_normals, fixed(_split(other_test, injected, ANOMALY, same)), same)
    own_calibration = fixed(_split(train, calibration, NORMAL))
    return {
        # contamination is trained on as if it were normal: the label tells the truth, and no model reads it
        "train": _joined(normals, leaked, same),
        "val": val_split,
        "val_normals": val_normals,
        "calibration": own_calibration if n_calibration else val_normals,
        "test": test_split,
    }


def held_out(normals: int, val_fraction: float, calibration_fraction: float | None) -> tuple[int, int]:
    """How many of the training part's normal samples validate and calibrate; at least two are left to train on.

    Raises:
        UserError: When there are too few.
    """
    n_val = max(1, round(val_fraction * normals))
    n_calibration = n_val if calibration_fraction is None else round(calibration_fraction * normals)
    if calibration_fraction:
        n_calibration = max(1, n_calibration)
    if normals < (needed := n_val + n_calibration + 2):
        raise UserError(
            f"the training part's {normals} normal samples are too few, {needed} are needed: {n_val} to validate on, "
            f"{n_calibration} to calibrate on, and 2 or more to train on"
        )
    return n_val, n_calibration


def stratified(target: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of a training and of a test part, both ascending: ``fraction`` of each class is for the test."""
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(target), dtype=torch.bool)
    for c in target.unique():
        rows = (target == c).nonzero().flatten()
        in_test[rows[torch.randperm(len(rows), generator=generator)][: round(fraction * len(rows))]] = True
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def _pick(part: Part, classes: list[int], generator: torch.Generator) -> Tensor:
    """Rows of ``part`` in ``classes``, shuffled."""
    rows = torch.isin(part.target, torch.tensor(classes, dtype=torch.int64)).nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=generator)]


def _leaked(normals: int, anomalies: int, contamination: float) -> int:
    """How many anomalies are left in training."""
    wanted = round(normals * contamination / (1 - contamination))
    if wanted > anomalies or (contamination > 0 and not anomalies):
        raise UserError(
            f"contamination = {contamination} needs {wanted} anomalies, and the training part has {anomalies} beside "
            "the validation split's: lower it or val_anomalies"
        )
    return wanted


def _split(part: Part, rows: Tensor, label: int, own: bool = True) -> Split:
    rows = rows.sort().values  # neighbours in memory are faster to gather
    # another data set's classes are not this one's
    target = part.target[rows] if own else torch.tensor(-1).expand(len(rows))
    row = None if part.row is None else part.row[rows]
    # ten million rows: what is the same for all of them takes no memory, and a place half of it
    rows = rows.int() if len(part.x) <= torch.iinfo(torch.int32).max else rows
    return Split(part.x, rows, torch.tensor(label).expand(len(rows)), target, row)


def _drawn(split: Split, generator: torch.Generator) -> Split:
    """A copy of black and white pixels."""
    x = binarized(split.x[split.rows], generator)
    return Split(x, torch.arange(len(x)), split.label, split.target, split.row)


def _joined(a: Split, b: Split, same: bool) -> Split | Chain:
    """Both as one split; where they come from the ``same`` data set, without a second gather for each batch."""
    if not len(b):
        return a
    if not same:
        return Chain([a, b])
    # drawn pixels lie in tensors of their own
    x, start = (a.x, 0) if a.x is b.x else (torch.cat([a.x, b.x]), len(a.x))
    columns = (a.rows, b.rows + start), (a.label, b.label), (a.target, b.target), (a.row, b.row)
    return Split(x, *(torch.cat(pair) for pair in columns))


def _in_order(a: Split, b: Split, same: bool) -> Split | Chain:
    """Both as one split, as they lie in their source; of two sources, first the one and then the other."""
    joined = _joined(a, b, same)
    return joined if isinstance(joined, Chain) else joined.select(joined.row.argsort())
