"""A folder of files through a detector: nothing lost, nothing scored twice, and a bad file is no hindrance."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
from conftest import kill
from scipy.stats import false_discovery_control

import vae_lightning as vl
from vae_lightning.deployment import lake
from vae_lightning.deployment.export import export
from vae_lightning.deployment.lake import score_lake
from vae_lightning.errors import UserError

NAMES = ["x0", "x1", "x2"]  # as those of a matrix in a file


def trained(seed: int) -> vl.Detector:
    normal = pd.DataFrame(np.random.default_rng(seed).normal(size=(400, 3)), columns=NAMES)
    return vl.fit(vl.VAE([3], vl.MLP([8]), 2), vl.Arrays(normal), max_epochs=1, verbose=False).detector


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's files, beside a folder ``lake`` of two tables; processes that start with ONNX start faster."""
    folder, detector = tmp_path_factory.mktemp("made"), trained(0)
    detector.save(folder / "detector.ckpt")
    export(detector, folder / "detector.onnx")
    (folder / "lake" / "below").mkdir(parents=True)
    for i, name in enumerate(("a.npy", "below/b.npy")):
        np.save(folder / "lake" / name, np.random.default_rng(i + 1).normal(size=(50, 3)) * (1 + 4 * i))
    return folder


def files(folder: Path, n: int, rows: int) -> dict[str, np.ndarray]:
    """A lake of so many files, and what is in them."""
    folder.mkdir()
    found = {f"{i:03}.npy": np.random.default_rng(i).normal(size=(rows, 3)) * 2 for i in range(n)}
    for name, x in found.items():
        np.save(folder / name, x)
    return found


def check(out: Path, given: dict[str, np.ndarray], detector: vl.Detector) -> None:
    """Each file has one output, with each of its rows once, as the detector scores them, and there is nothing else."""
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {
        lake.MARK,
        lake.LOCK,
        *(f"{name}.parquet" for name in given),
    }
    for name, x in given.items():
        expected, found = detector(x), parquet.read_table(out / f"{name}.parquet")
        assert found["row"].to_pylist() == list(range(len(x)))
        np.testing.assert_allclose(found["ReconstructionError"].to_numpy(), expected.score, rtol=1e-5)
        assert found["anomaly"].to_pylist() == expected.anomaly.tolist()


def test_each_file_gets_the_scores_of_the_detector_once(made: Path, tmp_path: Path) -> None:
    detector, out = vl.Detector.load(made / "detector.ckpt"), tmp_path / "out"
    given = {name: np.load(made / "lake" / name) for name in ("a.npy", "below/b.npy")}
    total = score_lake(made / "detector.ckpt", made / "lake", out)
    assert (total.rows, total.before, total.failed) == (100, 0, {})
    check(out, given, detector)
    kept, lost = out / "below/b.npy.parquet", out / "a.npy.parquet"
    written = kept.stat().st_mtime_ns
    lost.unlink()
    assert score_lake(made / "detector.ckpt", made / "lake", out).before == 1
    assert kept.stat().st_mtime_ns == written
    check(out, given, detector)


@pytest.mark.parametrize("options", [["--jobs", "2"], ["--engine", "ray", "--jobs", "2"]], ids=["processes", "ray"])
def test_several_processes_give_what_one_gives(
    options: list[str], made: Path, tmp_path: Path, run: Callable[[str], int]
) -> None:
    given = files(tmp_path / "lake", 5, 200)
    line = f"score --detector {made}/detector.onnx --input lake --output out"
    assert run(" ".join([line, *options])) == 0
    check(tmp_path / "out", given, vl.Detector.load(made / "detector.ckpt"))


def test_a_run_that_was_killed_goes_on_where_it_was(made: Path, tmp_path: Path, run: Callable[[str], int]) -> None:
    given, out = files(tmp_path / "lake", 200, 2000), tmp_path / "out"
    line = f"score --detector {made}/detector.onnx --input lake --output out"
    kill(tmp_path, line.split(), lambda: len(list(out.glob("*.parquet"))) >= 3)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 3 <= len(before) < 200, "it was killed too late"
    (out / f".007.npy.parquet.{'0' * 32}").write_bytes(b"half a file")  # as is left by one that is killed in writing
    assert run(line) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check(out, given, vl.Detector.load(made / "detector.ckpt"))


def test_a_bad_file_is_named_and_the_others_are_kept(
    made: Path, tmp_path: Path, run: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    given = files(tmp_path / "lake", 3, 20)
    pd.DataFrame({"x0": [1.0], "x2": [2.0]}).to_csv(tmp_path / "lake" / "lacking.csv", index=False)
    (tmp_path / "lake" / "broken.npy").write_bytes(b"no array")
    assert run(f"score --detector {made}/detector.ckpt --input lake --output out") == 1
    *reasons, summary = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sorted(reasons)[0].startswith("error: lake/broken.npy: is truncated or no NumPy file")
    assert sorted(reasons)[1:] == ["error: lake/lacking.csv: lacks column x1"]
    assert summary == "error: 2 of 5 files have no scores"
    check(tmp_path / "out", given, vl.Detector.load(made / "detector.ckpt"))


def test_reasons_stand_beside_scores(made: Path, tmp_path: Path) -> None:
    score_lake(made / "detector.ckpt", made / "lake", tmp_path / "out", explain=2)
    found = pd.read_parquet(tmp_path / "out" / "a.npy.parquet")
    expected = vl.Detector.load(made / "detector.ckpt").explain(np.load(made / "lake" / "a.npy")).appended(2)
    assert list(found)[-6:] == list(expected)
    assert found["reason_1"].tolist() == expected["reason_1"].tolist()
    np.testing.assert_allclose(found["reason_2_contribution"], expected["reason_2_contribution"], rtol=1e-5)
    with pytest.raises(UserError, match="was written with --explain 2"):
        score_lake(made / "detector.ckpt", made / "lake", tmp_path / "out")
    with pytest.raises(UserError, match="explanations need the checkpoint"):
        score_lake(made / "detector.onnx", made / "lake", tmp_path / "new", explain=2)
    with pytest.raises(UserError, match="explain = 0 reasons: give 1 to 100"):
        score_lake(made / "detector.ckpt", made / "lake", tmp_path / "new", explain=0)


def test_discoveries_are_those_of_all_files_together(made: Path, tmp_path: Path) -> None:
    score_lake(made / "detector.ckpt", made / "lake", tmp_path / "out", fdr=0.5)
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "out").rglob("*.parquet"))]
    p = np.concatenate([table["p_value"].to_numpy() for table in tables]).astype(np.float64)
    decided = np.concatenate([table["anomaly"].to_pylist() for table in tables])
    assert decided.any()
    assert np.array_equal(decided, false_discovery_control(p) <= 0.5 * (1 + 2**-23))


def test_what_is_not_this_detectors_is_left_alone(made: Path, tmp_path: Path) -> None:
    score_lake(made / "detector.ckpt", made / "lake", tmp_path / "out")
    trained(1).save(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds the scores of another detector"):
        score_lake(tmp_path / "other.ckpt", made / "lake", tmp_path / "out")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("…")
    with pytest.raises(UserError, match=r"letters: holds files and no _detector.json: give a new folder"):
        score_lake(made / "detector.ckpt", made / "lake", tmp_path / "letters")
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]
    with pytest.raises(UserError, match="its files would be scored the next time"):
        score_lake(made / "detector.ckpt", made / "lake", made / "lake" / "out")


def test_a_word_on_columns_is_said_once_for_all_files(made: Path, tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    for name in ("a", "b"):
        pd.DataFrame(np.zeros((3, 4)), columns=[*NAMES, "note"]).to_csv(tmp_path / "lake" / f"{name}.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total = score_lake(made / "detector.ckpt", tmp_path / "lake", tmp_path / "out", form="csv")
    assert len(total.notes) == 1
    assert "note" in total.notes[0]
