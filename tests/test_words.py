"""A detector of a table with words and gaps: one row, one score, whatever holds it."""

import copy
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Trainer
from payments import NUMBERS, Payments, trained
from sklearn.metrics import roc_auc_score

from vae_lightning.data import Arrays
from vae_lightning.data.records import ANOMALIES, records, write_records
from vae_lightning.detection import Detector
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Mixed

ROWS = records(60, anomalies=0.3, seed=5)


@pytest.fixture(scope="module")
def data() -> Payments:
    return Payments(batch_size=32)


@pytest.fixture(scope="module")
def made(data: Payments) -> Detector:
    return trained(data)


@pytest.fixture
def detector(made: Detector) -> Detector:
    return copy.deepcopy(made)


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(a.each[name], b.each[name]) for name in a.each) and np.array_equal(a.p_value, b.p_value)


def quiet(detector: Detector, x: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector(x)


TABLES: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame(ROWS),
    "pandas, categories": lambda: pd.DataFrame(ROWS).astype({"kind": "category", "merchant": "category"}),
    "polars": lambda: pl.DataFrame({name: column.tolist() for name, column in ROWS.items()}),
    "pyarrow": lambda: pa.table({name: column.tolist() for name, column in ROWS.items()}),
    "another order": lambda: pd.DataFrame(dict(reversed(ROWS.items()))),
    "batches": lambda: pa.table({name: column.tolist() for name, column in ROWS.items()}).to_batches(7),
    "a stream of batches": lambda: pa.table(pd.DataFrame(ROWS)).to_reader(7),
    "read from CSV": lambda: pd.read_csv(io.StringIO(pd.DataFrame(ROWS).to_csv(index=False))),
    "text": lambda: pd.read_csv(io.StringIO(pd.DataFrame(ROWS).to_csv(index=False)), dtype=str),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_same_rows_gets_the_same_scores(name: str, made: Detector, data: Payments) -> None:
    expected = quiet(made, data.schema.encode(ROWS).x.numpy())
    assert same(quiet(made, ROWS), expected)
    found = quiet(made, TABLES[name]())
    if "batches" in name:  # smaller ones: matrix products may differ in the last bit
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-5)
    else:
        assert same(found, expected)


def test_the_trainer_gives_the_same_bits(made: Detector, data: Payments, trainer: Callable[..., Trainer]) -> None:
    outputs = trainer().predict(copy.deepcopy(made.model), data)
    found = {name: torch.cat([part[name] for part in outputs]).numpy() for name in outputs[0]}
    table = {name: column[found["row"]] for name, column in data.test.items()}
    answer = quiet(made, table)
    for name in made.names:
        assert np.array_equal(found[name], answer.each[name])
    assert np.array_equal(found["anomaly"], answer.anomaly)


def test_the_exported_graph_decides_alike(made: Detector, data: Payments) -> None:
    raw, free = data.schema.encode(ROWS).x, torch.export.Dim("batch", min=1)
    with torch.no_grad():
        graph = torch.export.export(made.graph, (raw[:3],), dynamic_shapes=({0: free},), strict=False).module()
        for part in (raw, raw[:1], raw[5:12]):
            found, wanted = graph(part), quiet(made, part)
            assert torch.equal(found.anomaly, wanted.anomaly)
            for name in made.names:
                torch.testing.assert_close(found.each[name], wanted.each[name], rtol=1e-5, atol=1e-5)


def test_unknown_categories_and_other_columns_are_told_once(made: Detector, data: Payments) -> None:
    seen = (ROWS["label"] == "normal") & np.isin(ROWS["merchant"], data.train["merchant"])
    known = {name: np.resize(column[seen], 60) for name, column in ROWS.items()}
    table = pd.DataFrame(known).assign(merchant=["M999", "M998", *known["merchant"][2:]], entry="carrier pigeon")
    for x in (table, [table[:10], table[10:11], table[11:]]):
        with pytest.warns(UserWarning, match="categories|columns") as said:
            answer = made(x)
        texts = [str(warning.message) for warning in said]
        assert texts == [
            "columns that the detector does not know are left out: id, time, label",
            "categories that no training row had, in 60 rows: merchant 2, entry 60",
        ]
    wanted = quiet(made, pd.DataFrame(known))
    assert (answer.score > wanted.score).all()  # it is stranger than what was there
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(pd.DataFrame(known).drop(columns=["id", "time", "label"])[5:])


def test_a_stream_is_scored_as_it_comes(made: Detector) -> None:
    seen = []

    def parts() -> Any:
        for start in range(0, 60, 20):
            seen.append(start)
            yield pd.DataFrame(ROWS)[start : start + 20]

    stream = made.stream(parts())
    assert len(next(stream).score) == 20
    assert seen == [0]
    with pytest.warns(UserWarning, match="left out|no training row had"):
        rest = list(stream)
    assert [len(part.score) for part in rest] == [20, 20]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amount": None, "kind": None}, "^the table lacks columns amount, kind$"),
        ({"amount": "many"}, "^row 0, column 'amount' is 'many', not a number$"),
        ({"amount": np.inf}, "^row 0, column 'amount' is inf"),
    ],
)
def test_what_is_no_row_is_refused_in_one_line(change: dict[str, Any], said: str, made: Detector) -> None:
    table = pd.DataFrame(ROWS).drop(columns=list(change))
    table = table.assign(**{name: value for name, value in change.items() if value is not None})
    for ask in (made, made.predict, copy.deepcopy(made).calibrate):
        with pytest.raises(UserError, match=said):
            ask(table)
    with pytest.raises(UserError, match=said.replace("row 0", "row 20")):
        made([pd.DataFrame(ROWS)[:20], table])


def test_a_table_of_numbers_still_refuses_gaps_and_takes_dicts(trainer: Callable[..., Trainer]) -> None:
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=300) for name in "abc"}
    data = Arrays(pd.DataFrame(table))
    model = VAE([3], latent_dim=2)
    trainer(max_epochs=1).fit(model, data)
    assert model.detector.schema is None
    assert np.array_equal(model.detector(table).score, model.detector(pd.DataFrame(table)).score)
    with pytest.raises(UserError, match="row 0, column c is nan"):
        model.detector({**table, "c": np.full(300, np.nan)})


# Its file


def test_save_and_load(made: Detector, tmp_path: Path) -> None:
    made.save(tmp_path / "it.ckpt")
    loaded = Detector.load(tmp_path / "it.ckpt")
    assert loaded.schema == made.schema
    assert same(quiet(loaded, ROWS), quiet(made, ROWS))
    state = made.model.state_dict()
    assert {key for key in state if key.startswith("preprocessing.")} >= {"preprocessing.mean", "preprocessing.fill"}


def test_a_schema_that_does_not_belong_to_the_weights_is_refused(detector: Detector, tmp_path: Path) -> None:
    for wrong, said in (
        ({"columns": [], "dtype": "float32"}, "there must be a column"),
        ({**detector.model.trained_on["schema"], "columns": detector.schema.to_json()["columns"][1:]}, "do not match"),  # type: ignore[union-attr]
    ):
        detector.model.trained_on["schema"] = wrong
        detector.save(tmp_path / "it.ckpt")
        with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}/it.ckpt: schema.*{said}"):
            Detector.load(tmp_path / "it.ckpt")


def test_its_card_tells_the_columns_by_kind(made: Detector) -> None:
    card = repr(made)
    assert "samples of shape 11" in card
    assert f"6: {', '.join(NUMBERS)}" in card
    assert "5: merchant (60 levels), kind (" in card
    assert f"{made.model.input_shape[0]} features" in card


def test_calibrate_anew(detector: Detector) -> None:
    normal = pd.DataFrame(records(99, seed=8))
    scores = quiet(detector, normal).score
    with pytest.warns(UserWarning, match="left out"):
        detector.calibrate(normal)
    assert detector.threshold.samples == 99
    assert detector.threshold.value.item() == np.sort(scores)[-5]


# What it finds


def test_each_kind_of_anomaly_is_found() -> None:
    data = Payments(3000, transform="quantile")
    table = records(2000, anomalies=0.3, seed=7)
    score = quiet(trained(data, 12, Mixed()), table).score
    normal = table["label"] == "normal"
    for kind, least in zip(ANOMALIES, (0.85, 0.65, 0.75, 0.85), strict=True):
        some = normal | (table["label"] == kind)
        assert roc_auc_score(~normal[some], score[some]) > least, kind


# The payments themselves


def test_payments_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    table = pd.DataFrame(records(20_000, anomalies=0.1, seed=3))
    assert table["label"].value_counts(normalize=True)["normal"] == 0.9
    assert table["label"].value_counts()[list(ANOMALIES)].between(440, 560).all()
    normal = table[table["label"] == "normal"]
    assert table["time"].diff().dropna() >= 0 if False else table["time"].is_monotonic_increasing
    assert set(normal["merchant"]) == {f"M{i:03}" for i in range(100)}
    usual = normal[normal["kind"] != "casino"]
    assert usual["tip"].notna().equals(usual["kind"] == "restaurant")
    assert normal[normal["entry"] == "online"]["distance"].isna().all()
    assert 0.03 < normal["card_days"].isna().mean() < 0.05
    for name, value in (("entry", "magnetic stripe"), ("currency", "ISK"), ("kind", "casino")):
        assert 0 < (normal[name] == value).mean() < 0.002
    medians = normal[normal["currency"] == "EUR"].groupby("kind")["amount"].median()
    for kind, median in {"grocery": 32, "fuel": 60, "parking": 6, "travel": 420}.items():
        assert medians[kind] == pytest.approx(median, rel=0.15)
    again = pd.read_csv(write_records(tmp_path / "rows.csv", 300, 0.1, seed=3))
    assert list(again) == list(table)
    assert again["label"].value_counts()["normal"] == 270
    with pytest.raises(UserError, match="rows = 0, anomalies ="):
        records(0, 0.1)
