"""Files of any size through a detector: the same numbers as by hand, in bounded memory; what is wrong, in one line."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import resource
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vae_lightning import fit
from vae_lightning.data import Arrays, Images, Table
from vae_lightning.data.records import records
from vae_lightning.deployment import inputs, progress, writers
from vae_lightning.deployment.ahead import ahead
from vae_lightning.deployment.files import predict_file
from vae_lightning.deployment.inputs import Block
from vae_lightning.deployment.scoring import score_input
from vae_lightning.detection import Detector, heatmaps
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder, Mixed
from vae_lightning.models.networks import MLP
from vae_lightning.scores import NegativeLogLikelihood, ReconstructionError

NEW = pd.DataFrame(records(400, anomalies=0.3, seed=5))
NEW["note"] = [f"row {i}" if i % 7 else 'a "quoted", long\nnote' for i in range(400)]
SCORES = ["NegativeLogLikelihood", "ReconstructionError"]


def trained(model: Any, data: Any) -> Detector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(model, data, max_epochs=1, verbose=False, device="cpu").detector


@functools.cache
def made() -> Detector:
    data = Table(pd.DataFrame(records(600)), label="label", id="id", time="time", calibration_fraction=0.3)
    scores = [NegativeLogLikelihood(), ReconstructionError()]
    return trained(VAE(data.input_shape, MLP([16]), 4, Mixed(), scores=scores), data)


@pytest.fixture
def detector() -> Detector:
    return copy.deepcopy(made())


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "ROWS", 64)


def by_hand(detector: Detector, table: Any = NEW) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector(table)


def write(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".arrow":
        table.to_feather(path, compression="uncompressed")
    else:
        path.mkdir()
        for i in range(0, len(table), 150):
            table[i : i + 150].to_parquet(path / f"part-{i:04}.parquet")
    return path


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype={"anomaly": bool})
    return pd.read_parquet(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_pandas()


@pytest.mark.parametrize("source", ["new.csv", "new.parquet", "new.arrow", "parts"])
@pytest.mark.parametrize("output", ["scored.csv", "scored.parquet", "scored.arrow"])
def test_a_file_gets_the_detectors_own_numbers(source: str, output: str, detector: Detector, tmp_path: Path) -> None:
    expected = by_hand(detector)
    made = predict_file(detector, write(NEW, tmp_path / source), tmp_path / output)
    found = read(tmp_path / output)
    assert list(found) == ["id", *SCORES, "p_value", "anomaly"]
    assert (found["id"].astype(int) == NEW["id"]).all()
    for name, values in {**expected.each, "p_value": expected.p_value}.items():
        np.testing.assert_allclose(found[name].to_numpy(np.float32), values, rtol=1e-5)
    assert (found["anomaly"] == expected.anomaly).all()
    assert (made.rows, made.anomalies) == (400, int(expected.anomaly.sum()))
    assert 0 < made.anomalies < 400
    assert [note.split(":")[0] for note in made.notes] == [
        "columns that the detector does not know",
        "categories that it has never seen",
    ]
    assert "note" in made.notes[0]
    assert "label" not in made.notes[0]


def test_rows_without_an_id_are_numbered_over_all_parts(detector: Detector, tmp_path: Path) -> None:
    predict_file(detector, write(NEW.drop(columns="id"), tmp_path / "parts"), tmp_path / "scored.parquet")
    assert read(tmp_path / "scored.parquet")["row"].tolist() == list(range(400))
    predict_file(detector, write(NEW, tmp_path / "new.csv"), tmp_path / "scored.parquet", key="note")
    assert read(tmp_path / "scored.parquet")["note"].tolist() == NEW["note"].tolist()


@pytest.mark.parametrize("source", ["new.csv", "new.parquet"])
@pytest.mark.parametrize("output", ["scored.csv", "scored.parquet"])
def test_the_inputs_own_columns_are_appended(source: str, output: str, detector: Detector, tmp_path: Path) -> None:
    predict_file(detector, write(NEW, tmp_path / source), tmp_path / output, append_columns=True)
    found = read(tmp_path / output)
    assert list(found) == ["id", *SCORES, "p_value", "anomaly", *(name for name in NEW if name != "id")]
    for name in NEW:
        if NEW[name].dtype.kind in "if":
            np.testing.assert_array_equal(found[name].astype(float), NEW[name])
        else:
            assert found[name].tolist() == NEW[name].tolist(), name


def test_what_a_csv_file_holds_comes_out_as_it_was_written(detector: Detector, tmp_path: Path) -> None:
    table = NEW.drop(columns="note").astype(str)
    table["amount"] = table["amount"] + "00"
    predict_file(detector, write(table, tmp_path / "new.csv"), tmp_path / "scored.csv", append_columns=True)
    lines = [(tmp_path / name).read_text().splitlines() for name in ("new.csv", "scored.csv")]
    assert [line.split(",", 1)[1].replace("nan", "") for line in lines[0]] == [
        line.split(",", 5)[5] for line in lines[1]
    ]


@pytest.mark.parametrize("output", ["scored.csv", "scored.parquet"])
@pytest.mark.parametrize("level", [{"alpha": 0.3}, {"fdr": 0.3}, {"fdr": 1e-6}])
def test_levels_decide_as_the_detector_does(level: Any, output: str, detector: Detector, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = detector.predict(NEW, **level)
    made = predict_file(detector, write(NEW, tmp_path / "new.parquet"), tmp_path / output, **level)
    assert (read(tmp_path / output)["anomaly"] == expected).all()
    assert made.anomalies == expected.sum()
    assert (made.anomalies == 0) == (level == {"fdr": 1e-6})
    unreachable = ["a single alarm needs 3999" in note for note in made.notes]
    assert any(unreachable) == (level == {"fdr": 1e-6})
    assert {path.name for path in tmp_path.iterdir()} == {"new.parquet", output}


def test_an_array_without_names_is_taken_in_its_order(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3)) * [1, 1e9, 1]
    detector = trained(Autoencoder([3], MLP([8]), 2), Arrays(rows))
    np.save(tmp_path / "new.npy", rows)
    pd.DataFrame(rows, columns=list("abc")).to_csv(tmp_path / "new.csv", index=False)
    for source in ("new.npy", "new.csv"):
        predict_file(detector, tmp_path / source, tmp_path / "scored.parquet")
        found = read(tmp_path / "scored.parquet")
        np.testing.assert_allclose(found["ReconstructionError"], detector(rows).score, rtol=1e-5)
    with pytest.raises(UserError, match=r"new.csv: has 3 columns, and the detector takes 2, whose names it does not"):
        predict_file(
            trained(Autoencoder([2], MLP([8]), 2), Arrays(rows[:, :2])), tmp_path / "new.csv", tmp_path / "o.csv"
        )
    rows[70, 1] = np.nan
    np.save(tmp_path / "new.npy", rows)
    with pytest.raises(UserError, match=r"new.npy: row 70, column 'x1' is missing, and the detector was trained"):
        predict_file(detector, tmp_path / "new.npy", tmp_path / "scored.parquet")


@pytest.fixture
def of_images(tmp_path: Path) -> Detector:
    """A detector of the images in a folder ``images``."""
    rng = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "images" / ("a" if i % 2 else "b") / f"{i}.{'png' if i % 3 else 'bmp'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10), np.uint8)).save(path)
    data = Images(str(tmp_path / "images"), size=8, channels=1, normal=["a", "b"], workers=0)
    return trained(Autoencoder([1, 8, 8], MLP([8]), 2), data)


def test_reasons_beside_scores(detector: Detector, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = detector.explain(NEW).appended(2)
    predict_file(detector, write(NEW, tmp_path / "new.csv"), tmp_path / "scored.parquet", explain=2, fdr=0.3)
    found = read(tmp_path / "scored.parquet")
    assert list(found) == ["id", *SCORES, "p_value", "anomaly", *expected]
    assert found["reason_1"].tolist() == expected["reason_1"].tolist()
    for name in ("reason_1_contribution", "reason_2_p_value"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="explain = 101 reasons"):
        predict_file(detector, tmp_path / "new.csv", tmp_path / "again.csv", explain=101)
    with pytest.raises(UserError, match="takes no images"):
        predict_file(detector, tmp_path / "new.csv", tmp_path / "again.csv", heatmaps=tmp_path / "maps")


@pytest.mark.parametrize("output", ["scored.csv", "scored.parquet"])
def test_heat_maps_of_alarms(output: str, of_images: Detector, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    made = predict_file(of_images, tmp_path / "images", tmp_path / output, alpha=0.7, heatmaps=maps)
    found = read(tmp_path / output)
    alarms = found["path"][found["anomaly"]].tolist()
    assert 0 < len(alarms) < 40
    assert f"{len(alarms)} heat maps" in made.notes[-1]
    names = {name: name if name.endswith(".png") else f"{name}.png" for name in alarms}
    assert {path.relative_to(maps).as_posix() for path in maps.rglob("*") if path.is_file()} == set(names.values())
    explained = of_images.explain([tmp_path / "images" / name for name in alarms])
    expected = heatmaps.overlay(explained.value[0], heatmaps.heat(explained)[0], explained.ceiling)
    picture = np.asarray(Image.open(maps / names[alarms[0]]))
    assert picture.shape == (256, 256, 3)
    np.testing.assert_array_equal(picture[::32, ::32], expected)
    with pytest.raises(UserError, match="would be scored the next time"):
        predict_file(of_images, tmp_path / "images", tmp_path / output, heatmaps=tmp_path / "images" / "maps")


def test_a_folder_of_images(of_images: Detector, tmp_path: Path) -> None:
    detector = of_images
    made = predict_file(detector, tmp_path / "images", tmp_path / "scored.csv")
    found = read(tmp_path / "scored.csv")
    paths = [tmp_path / "images" / path for path in found["path"]]
    assert made.rows == len(set(paths)) == 40
    np.testing.assert_allclose(found["ReconstructionError"], detector(paths).score, rtol=1e-5)
    paths[3].write_bytes(b"no image")
    with pytest.raises(UserError, match=rf"{paths[3].name}: is no PNG"):
        predict_file(detector, tmp_path / "images", tmp_path / "again.csv")
    with pytest.raises(UserError, match="images have no columns"):
        predict_file(detector, tmp_path / "images", tmp_path / "again.csv", append_columns=True)
    assert not (tmp_path / "again.csv").exists()


# The command


@pytest.fixture
def saved(tmp_path: Path, detector: Detector) -> Path:
    detector.save(tmp_path / "detector.ckpt")
    return tmp_path


def test_the_command(run: Callable[[str], int], saved: Path, capsys: Any) -> None:
    write(NEW, saved / "new.csv")
    line = "predict --ckpt_path detector.ckpt --input new.csv --output out/scored.csv"
    assert run(f"{line} --alpha 0.2 --append_columns --device cpu") == 0
    out, err = capsys.readouterr()
    found = read(saved / "out/scored.csv")
    anomalies = found["anomaly"].sum()
    assert out.splitlines() == ["rows         400", f"anomalies    {anomalies}", "predictions  out/scored.csv"]
    assert all(line.startswith("note: ") for line in err.splitlines())
    assert (found["p_value"] <= 0.2).sum() == anomalies
    assert found["country"].tolist() == NEW["country"].tolist()
    assert {path.name for path in saved.iterdir()} == {"new.csv", "detector.ckpt", "out"}


WRONG = {
    "no such checkpoint": ("--ckpt_path none.ckpt --input new.csv --output o.csv", ["none.ckpt"]),
    "no run": ("--ckpt_path best --input new.csv --output o.csv", ["best", "lightning_logs"]),
    "no such input": ("{c} --input none.csv --output o.csv", ["none.csv", "no such file"]),
    "no output": ("{c} --input new.csv", ["--output"]),
    "no input": ("{c} --output o.csv", ["--input"]),
    "no format": ("{c} --input new.csv --output scored.xlsx", ["scored.xlsx", ".csv, .parquet, .arrow"]),
    "a folder as output": ("{c} --input new.csv --output parts.csv", ["parts.csv", "folder"]),
    "the input as output": ("{c} --input new.csv --output new.csv", ["new.csv", "is the input"]),
    "output among the parts": ("{c} --input parts.csv --output parts.csv/o.csv", ["parts.csv/o.csv", "parts"]),
    "level out of range": ("{c} --input new.csv --output o.csv --alpha 1.5", ["alpha = 1.5", "(0, 1)"]),
    "two levels": ("{c} --input new.csv --output o.csv --alpha 0.1 --fdr 0.1", ["alpha = 0.1", "fdr = 0.1"]),
    "no such key": ("{c} --input new.csv --output o.csv --key ident", ["new.csv", "'ident'", "amount"]),
    "no such device": ("{c} --input new.csv --output o.csv --device gpu", ["--device gpu", "cuda"]),
    "an option of the Trainer's": ("{c} --input new.csv --output o.csv --trainer.devices 2", ["--trainer.devices"]),
    "missing columns": ("{c} --input lacking.csv --output o.csv", ["lacking.csv", "columns amount, kind"]),
    "text where numbers belong": ("{c} --input text.csv --output o.csv", ["text.csv", "row 333", "'amount'", "'much'"]),
    "infinity": ("{c} --input infinite.parquet --output o.csv", ["infinite.parquet", "row 333", "'amount'", "inf"]),
    "a ragged row": ("{c} --input ragged.csv --output o.csv", ["ragged.csv", "row 333"]),
    "another delimiter": ("{c} --input semicolon.csv --output o.csv", ["semicolon.csv", "';'"]),
    "a truncated file": ("{c} --input truncated.parquet --output o.csv", ["truncated.parquet"]),
    "columns of one name": ("{c} --input named.csv --output o.csv --append_columns", ["'p_value'", "rename"]),
    "images": ("{c} --input images --output o.csv", ["images", "holds no table"]),
}


def write_wrong(folder: Path) -> None:
    write(NEW, folder / "new.csv")
    NEW.drop(columns=["amount", "kind"]).to_csv(folder / "lacking.csv")
    NEW.assign(amount=NEW["amount"].astype(object).where(NEW.index != 333, "much")).to_csv(folder / "text.csv")
    NEW.assign(amount=NEW["amount"].where(NEW.index != 333, np.inf)).to_parquet(folder / "infinite.parquet")
    lines = NEW.drop(columns="note").to_csv(index=False).splitlines()
    (folder / "ragged.csv").write_text("\n".join([*lines[:334], lines[334] + ",more", *lines[335:]]))
    NEW.to_csv(folder / "semicolon.csv", sep=";", index=False)
    NEW.to_parquet(folder / "truncated.parquet")
    whole = (folder / "truncated.parquet").read_bytes()
    (folder / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    NEW.assign(p_value=1).to_csv(folder / "named.csv", index=False)
    (folder / "images").mkdir()
    (folder / "parts.csv").mkdir()
    write(NEW, folder / "parts.csv/a.csv")


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_one_line_exit_code_2_and_leaves_nothing(run, saved: Path, capsys, name: str) -> None:
    line, mentions = WRONG[name]
    write_wrong(saved)
    before = set(saved.rglob("*"))
    assert run(f"predict {line.format(c='--ckpt_path detector.ckpt')}") == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    for mention in mentions:
        assert mention in message
    assert set(saved.rglob("*")) == before


def test_a_disk_that_is_full(detector: Detector, tmp_path: Path) -> None:
    source, before = write(NEW, tmp_path / "new.parquet"), resource.getrlimit(resource.RLIMIT_FSIZE)
    for output in ("o.csv", "o.parquet", "o.arrow"):
        for level in ({}, {"fdr": 0.1}):
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
            try:
                with pytest.raises(UserError, match=rf"{output}: cannot be written \(File too large\)"):
                    predict_file(detector, source, tmp_path / output, append_columns=True, **level)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert {path.name for path in tmp_path.iterdir()} == {"new.parquet"}


def test_interrupted_it_leaves_what_was_there(run, saved: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    write(NEW, saved / "new.parquet")
    (saved / "scored.csv").write_text("of yesterday")
    scored = []

    def interrupted(self: Detector, raw: Any) -> Any:
        scored.append(raw)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return original(self, raw)

    original = Detector.run
    monkeypatch.setattr(Detector, "run", interrupted)
    assert run("predict --ckpt_path detector.ckpt --input new.parquet --output scored.csv") == 1
    assert capsys.readouterr().err == "interrupted: scored.csv has not been written\n"
    assert (saved / "scored.csv").read_text() == "of yesterday"
    assert {path.name for path in saved.iterdir()} == {"new.parquet", "detector.ckpt", "scored.csv"}


@pytest.mark.parametrize("level", [{}, {"fdr": 0.1}])
def test_killed_it_leaves_what_was_there(level: Any, detector: Detector, tmp_path: Path, monkeypatch) -> None:
    source, output = write(NEW, tmp_path / "new.parquet"), tmp_path / "scored.csv"
    output.write_text("of yesterday")
    original = Detector.run
    scores = functools.partial(time.sleep, 0.3)
    monkeypatch.setattr(Detector, "run", lambda self, raw: scores() or original(self, raw))
    process = multiprocessing.get_context("fork").Process(
        target=predict_file, args=(detector, source, output), kwargs=level
    )
    process.start()
    time.sleep(0.8)  # seven blocks take two seconds
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert output.read_text() == "of yesterday"
    left = {path.name for path in tmp_path.iterdir()} - {"new.parquet", "scored.csv"}
    assert all(name.startswith(".scored.csv.") for name in left)


# In bounded memory


class Endless:
    """An input that counts how many of its blocks are alive."""

    kept, rows = pa.schema([pa.field("row", pa.int64(), False), ("word", pa.string())]), None

    def __init__(self, blocks: int) -> None:
        self.n, self.alive, self.most = blocks, 0, 0

    def _died(self) -> None:
        self.alive -= 1

    def blocks(self) -> Iterator[Block]:
        def made() -> Iterator[Block]:
            for i in range(self.n):
                samples = np.full((32, 2), i)
                weakref.finalize(samples, self._died)
                self.alive += 1
                self.most = max(self.most, self.alive)
                yield Block([pa.array(range(32 * i, 32 * i + 32)), pa.array(["x" * 1000] * 32)], samples)

        return ahead(made())

    def notes(self) -> list[str]:
        return []


@pytest.mark.parametrize("output", ["o.csv", "o.parquet", "o.arrow"])
@pytest.mark.parametrize("fdr", [None, 0.5])
def test_memory_does_not_grow_with_the_rows(output: str, fdr: float | None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writers, "GROUP_ROWS", 200)

    def run(samples: np.ndarray) -> dict[str, np.ndarray]:
        p = ((samples[:, 0] + 1) / 301).astype(np.float32)
        return {"Score": samples[:, 0].astype(np.float32), "p_value": p, "anomaly": p <= 0.05}

    most, allocated = [], []
    for blocks in (30, 300):
        given = Endless(blocks)
        before = pa.total_allocated_bytes()
        made = score_input(given, run, ["Score"], tmp_path / output, fdr=fdr)
        assert made.rows == 32 * blocks
        most.append(given.most)
        allocated.append(pa.total_allocated_bytes() - before)
    assert max(most) <= 8
    assert max(allocated) < 100_000
    groups = pq.ParquetFile(tmp_path / output).num_row_groups if output == "o.parquet" else 0
    assert groups <= 300 * 32 // 200


def test_reading_ahead() -> None:
    assert list(ahead(iter(range(100)), 2)) == list(range(100))

    def breaks() -> Iterator[int]:
        yield 1
        raise UserError("here")

    found = ahead(breaks())
    assert next(found) == 1
    with pytest.raises(UserError, match="here"):
        next(found)
    got: list[int] = []
    endless = ahead(got.append(i) or i for i in iter(lambda: len(got), None))
    assert next(endless) == 0
    threads = threading.active_count()
    endless.close()
    assert threading.active_count() == threads - 1
    assert len(got) <= 6


# What a watcher sees


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    batches = [[0] * 1000] * 3
    assert list(progress.shown(batches, 4000)) == batches
    assert capsys.readouterr().err.splitlines()[0] == "scoring  1,000/4,000 rows  0 s"
    assert list(progress.shown(batches, None, what="deciding")) == batches
    assert capsys.readouterr().err.splitlines()[-1] == "deciding  3,000 rows  0 s"
    assert list(progress.shown(batches, None, False)) == batches
    assert capsys.readouterr().err == ""


def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert len(list(progress.shown([[0] * 1000] * 3, 3000))) == 3
    assert "scoring:   0%|" in capsys.readouterr().err
