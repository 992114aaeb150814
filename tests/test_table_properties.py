"""Any table at all: it is trained on and scored alike from wherever it comes, or refused in one line."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, feather, parquet

from vae_lightning.data import Table
from vae_lightning.data.readers import open_table
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Mixed
from vae_lightning.models.networks import MLP

EXAMPLES = 2000 if os.environ.get("FAULTS") == "nightly" else 500
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NAMES = st.one_of(TEXT, st.sampled_from(["a", "b", "label", "y", "1", "5.5", "id", "time", "naïve", "日本"]))
VALUES: list[Any] = [
    st.floats(allow_nan=False),
    st.floats(-1, 1),
    st.floats(1e300, 1e308),
    st.floats(1e-320, 1e-300),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 3),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    TEXT,
    st.sampled_from(["red", "green", "NA", "1", "1.0", "true", " x", 'a "quote"', "two\nlines", "a,b;c"]),
    st.just("always"),
    st.just(7),
    st.nothing(),
]


@st.composite
def tables(draw: Any) -> pa.Table:
    n = draw(st.integers(0, 40))
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=draw(st.integers(0, 9)) > 0))
    columns = []
    for _ in names:
        values = draw(st.sampled_from(VALUES))
        each = st.none() if values is VALUES[-1] else st.one_of(values, st.none()) if draw(st.booleans()) else values
        columns.append(pa.array(draw(st.lists(each, min_size=n, max_size=n))))
    return pa.Table.from_arrays(columns, names)


def written(table: pa.Table, form: str, folder: str) -> Any:
    path = Path(folder) / f"rows.{form}"
    if form == "frame":
        return table
    {"csv": csv.write_csv, "parquet": parquet.write_table, "feather": feather.write_feather}[form](table, str(path))
    return path


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(tables(), st.sampled_from(["csv", "parquet", "feather", "frame"]))
def test_a_table_is_scored_alike_from_wherever_it_comes_or_refused(table: pa.Table, form: str) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            given = written(table, form, folder)
            data = Table(given, val_fraction=0.2)
            data.setup()
            model = VAE(data.input_shape, MLP([4]), 2, Mixed())
            model.adopt(data)
            model.detector.fit((b.x for b in data.reference_dataloader()), (b.x for b in data.val_dataloader()))
            model.detector.calibrate([b.x for b in data.calibration_dataloader()])
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 (there may be none)
            return
        except pa.ArrowException:
            assert form != "frame"  # the format itself cannot hold it
            return
        batches = list(data.loader("train"))
        rows = torch.cat([batch.row for batch in batches])
        with torch.no_grad():
            expected = torch.cat([model.detector.graph.scores(batch.x)["ReconstructionError"] for batch in batches])
        assert expected.isfinite().all()
        streamed = model.detector(list(open_table(given).batches(7))).score
        np.testing.assert_allclose(streamed[rows], expected, 1e-4, 1e-6)
        if form != "csv":  # which holds text alone
            framed = model.detector(table.to_pandas(ignore_metadata=True)).score
            np.testing.assert_allclose(framed[rows], expected, 1e-4, 1e-6)
