"""Whatever a table holds: out of a file it gets the scores that it gets in memory, or a line that says no.

A few tables are drawn here; ``VAE_LIGHTNING_TABLES=500 pytest tests/test_any_table.py`` draws more of them, and
``VAE_LIGHTNING_REPORT=results/any_table.json`` writes down what became of them.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vae_lightning import fit
from vae_lightning.data import Table
from vae_lightning.data.delimited import MISSING
from vae_lightning.deployment.files import predict_file
from vae_lightning.detection import Detector
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Mixed
from vae_lightning.models.networks import MLP
from vae_lightning.scores import NegativeLogLikelihood, ReconstructionError

TABLES = int(os.environ.get("VAE_LIGHTNING_TABLES", 20))

TEXT = st.text(max_size=8) | st.sampled_from(
    ["", " ", "a,b", 'say "a"', "two\nlines", "\r", "é", "日本", "NA", "?", " x "]
)
SPELLED = st.sampled_from(
    ["1", "01", "2.0", "-0", " 3", "1e5", "1e999", "true", "False", "2026-01-31", "0x1f", "1_000"]
)
MOMENTS = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
KINDS: dict[str, tuple[Any, Any]] = {  # of a column: its type, and what a value can be
    "double": (pa.float64(), st.floats(allow_infinity=False)),
    "infinite": (pa.float64(), st.floats()),
    "float": (pa.float32(), st.floats(width=32, allow_infinity=False)),
    "half": (pa.float16(), st.floats(width=16, allow_infinity=False)),
    "long": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "unsigned": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "small": (pa.int8(), st.integers(-3, 3)),
    "code": (pa.int64(), st.integers(10**12, 10**12 + 5)),
    "truth": (pa.bool_(), st.booleans()),
    "decimal": (pa.decimal128(20, 4), st.decimals(-(10**12), 10**12, places=4)),
    "text": (pa.string(), TEXT),
    "large text": (pa.large_string(), TEXT),
    "spelled": (pa.string(), SPELLED),
    "word": (pa.string(), st.sampled_from(["red", "grün", "blue"])),
    "category": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["red", "grün", "blue"])),
    "date": (pa.date32(), st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1))),
    "moment": (pa.timestamp("us"), MOMENTS),
    "moment in a zone": (pa.timestamp("ns", "Europe/Berlin"), MOMENTS),
    "hour": (pa.time64("us"), st.times()),
    "constant": (pa.float64(), st.just(1.5)),
    "nothing": (pa.null(), st.none()),
    "bytes": (pa.binary(), st.binary(max_size=4)),
    "list": (pa.list_(pa.int64()), st.lists(st.integers(0, 9), max_size=2)),
}
RARE = "infinite", "nothing", "bytes", "list", "unsigned"  # drawn less often: they end most tables
NAMES = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    [
        "a",
        "b",
        "c d",
        "row",
        "p_value",
        "anomaly",
        'q"',
        "x,y",
        "line\nbreak",
        "3",
        "ß",
        " padded ",
        "label",
        "%s",
        "{}",
    ]
)


@st.composite
def columns(draw: Any) -> dict[str, str]:
    """Names and kinds."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    kinds = st.sampled_from([kind for kind in KINDS if kind not in RARE]) | st.sampled_from(list(KINDS))
    return {name: draw(kinds) for name in names}


@st.composite
def rows(draw: Any, kinds: dict[str, str], least: int, most: int) -> pa.Table:
    """A few values of each column, in random order, some of them missing."""
    n = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = {}
    for name, kind in kinds.items():
        dtype, values = KINDS[kind]
        some = draw(st.lists(values, min_size=1, max_size=6))
        gaps = draw(st.sampled_from([0.0, 0.0, 0.2, 1.0 if kind == "nothing" else 0.5]))
        cells = [None if rng.random() < gaps else some[i] for i in rng.integers(0, len(some), n)]
        table[name] = pa.array(_fitting(cells, kind), dtype)
    return pa.table(table)


def _fitting(cells: list[Any], kind: str) -> list[Any]:
    if kind == "half":
        return [None if cell is None else np.float16(cell) for cell in cells]
    return cells


def write_csv(table: pa.Table, path: Path) -> None:
    """As Python's own module does, whose quotes and line ends are not Arrow's."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            writer.writerow(
                ["" if cell is None else cell.isoformat() if hasattr(cell, "isoformat") else cell for cell in row]
            )


def read_csv(path: Path) -> pd.DataFrame:
    """By Python's own module: text throughout, without blanks around it, None where it says that nothing is there."""
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = (row for row in csv.reader(file) if row)
    cells = [[cell.strip(" \t\n\v\f\r") for cell in line] for line in lines]
    cells = [[None if cell in MISSING else cell for cell in line] for line in cells]
    return pd.DataFrame(cells, columns=[name.strip() for name in head], dtype=object)


def trained(path: Path) -> Detector:
    data = Table(str(path), test_fraction=0.1, val_fraction=0.2, calibration_fraction=0.3)
    scores = [NegativeLogLikelihood(), ReconstructionError()]
    model = VAE(data.input_shape, MLP([8]), 2, Mixed(), scores=scores)
    return fit(
        model, data, max_epochs=1, verbose=False, device="cpu", logger=False, enable_checkpointing=False
    ).detector


def compare(detector: Detector, table: Any, path: Path, output: Path, append_columns: bool) -> None:
    """The file's scores are those of the table in memory."""
    made = predict_file(detector, path, output, append_columns=append_columns)
    expected = detector(table)
    found = pq.read_table(output) if output.suffix == ".parquet" else pa.ipc.open_file(output).read_all()
    assert made.rows == len(found) == len(expected.score)
    assert found["row"].to_pylist() == list(range(made.rows))
    for name, values in {**expected.each, "p_value": expected.p_value}.items():
        np.testing.assert_allclose(found[name].to_numpy(), values, rtol=1e-5, err_msg=name)
    assert found["anomaly"].to_pylist() == expected.anomaly.tolist()
    if append_columns and isinstance(table, pl.DataFrame):
        own = pq.read_table(path)
        for name in own.column_names:
            kept, given = found[name], own[name]
            given = given.cast(given.type.value_type) if pa.types.is_dictionary(given.type) else given
            if not pa.types.is_string(given.type):
                assert kept.equals(given) or kept.to_pandas().equals(given.to_pandas()), name


def refused(step: str, error: UserError, became: Counter[str]) -> None:
    assert len(str(error).splitlines()) == 1, repr(str(error))
    became[f"refused, {step}"] += 1


def tried(data: st.DataObject, form: str, became: Counter[str]) -> None:
    """One table, written, trained on and scored; counts what became of it."""
    kinds = data.draw(columns())
    train, new = data.draw(rows(kinds, 1, 60)), data.draw(rows(kinds, 0, 20))
    append_columns, suffix = data.draw(st.booleans()), data.draw(st.sampled_from([".parquet", ".arrow"]))
    became[f"tables, {form}"] += 1
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder, write = Path(name), write_csv if form == "csv" else pq.write_table
        try:
            write(train, folder / f"train.{form}")
            write(new, folder / f"new.{form}")
        except (pa.ArrowException, UnicodeError):  # what the format itself cannot hold
            became[f"no {form}"] += 1
            return
        step = "training"
        try:
            detector = trained(folder / f"train.{form}")
            step = "scoring"
            table = read_csv(folder / "new.csv") if form == "csv" else pl.from_arrow(new)
            compare(detector, table, folder / f"new.{form}", folder / f"scored{suffix}", append_columns)
        except UserError as error:
            refused(f"{step}, {form}", error, became)
        else:
            became[f"scored, {form}"] += 1


def try_many(form: str, became: Counter[str]) -> None:
    @settings(
        max_examples=TABLES // 2,
        deadline=None,
        derandomize=TABLES < 100,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        tried(data, form, became)

    one()


def test_a_file_gets_the_scores_of_the_table_or_a_line_that_says_no() -> None:
    became: Counter[str] = Counter()
    for form in ("csv", "parquet"):
        try_many(form, became)
    if file := os.environ.get("VAE_LIGHTNING_REPORT"):
        Path(file).write_text(json.dumps(dict(sorted(became.items())), indent=2) + "\n")
    assert sum(n for what, n in became.items() if what.startswith("scored")) >= 0.3 * TABLES, "most are refused"
