"""A folder of files through a detector: nothing lost, nothing scored twice, and a bad file is no hindrance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from scipy.stats import false_discovery_control

import vae_lightning as vl
from vae_lightning.deployment.lake import score_lake
from vae_lightning.errors import UserError


def trained(seed: int) -> vl.Detector:
    normal = np.random.default_rng(seed).normal(size=(400, 3))
    return vl.fit(vl.VAE([3], vl.MLP([8]), 2), vl.Arrays(normal), max_epochs=1, verbose=False).detector


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's file, beside a folder ``lake`` of two tables."""
    folder = tmp_path_factory.mktemp("made")
    trained(0).save(folder / "detector.ckpt")
    (folder / "lake" / "below").mkdir(parents=True)
    for i, name in enumerate(("a.npy", "below/b.npy")):
        np.save(folder / "lake" / name, np.random.default_rng(i + 1).normal(size=(50, 3)) * (1 + 4 * i))
    return folder


def test_each_file_gets_the_scores_of_the_detector_once(made: Path, tmp_path: Path) -> None:
    detector, out = vl.Detector.load(made / "detector.ckpt"), tmp_path / "out"
    total = score_lake(made / "detector.ckpt", made / "lake", out)
    assert (total.rows, total.before, total.failed) == (100, 0, {})
    for name in ("a.npy", "below/b.npy"):
        expected, found = detector(np.load(made / "lake" / name)), parquet.read_table(out / f"{name}.parquet")
        np.testing.assert_allclose(found["p_value"].to_numpy(), expected.p_value, rtol=1e-6)
        assert found["anomaly"].to_pylist() == expected.anomaly.tolist()
    kept, lost = out / "below/b.npy.parquet", out / "a.npy.parquet"
    written = kept.stat().st_mtime_ns
    lost.unlink()
    assert score_lake(made / "detector.ckpt", made / "lake", out).before == 1
    assert lost.is_file()
    assert kept.stat().st_mtime_ns == written


def test_a_bad_file_is_named_and_the_others_are_kept(made: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "bad.npy").write_bytes(b"no array")
    np.save(lake / "good.npy", np.zeros((5, 3)))
    total = score_lake(made / "detector.ckpt", lake, tmp_path / "out")
    (reason,) = total.failed.values()
    assert "bad.npy" in reason
    assert [path.name for path in (tmp_path / "out").rglob("*.parquet")] == ["good.npy.parquet"]


def test_discoveries_are_those_of_all_files_together(made: Path, tmp_path: Path) -> None:
    score_lake(made / "detector.ckpt", made / "lake", tmp_path / "out", fdr=0.5)
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "out").rglob("*.parquet"))]
    p = np.concatenate([table["p_value"].to_numpy() for table in tables]).astype(np.float64)
    decided = np.concatenate([table["anomaly"].to_pylist() for table in tables])
    assert decided.any()
    assert np.array_equal(decided, false_discovery_control(p) <= 0.5 * (1 + 2**-23))


def test_another_detectors_scores_are_left_alone(made: Path, tmp_path: Path) -> None:
    score_lake(made / "detector.ckpt", made / "lake", tmp_path / "out")
    trained(1).save(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="holds the scores of another detector"):
        score_lake(tmp_path / "other.ckpt", made / "lake", tmp_path / "out")
