"""Benchmarks of tables: the protocol, rivals by brute force, the ranks of a published example; Neighbours, blends."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import chi2, norm, rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from vae_lightning.data import ADBench
from vae_lightning.detection.columns import Columns
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.scores import Combined, Neighbours
from vae_lightning.studies import table_baselines
from vae_lightning.studies.ranks import alike, average_ranks, critical_difference, friedman
from vae_lightning.studies.tables import summary

FOLDER = Path("lightning_logs/benchmark_table")


def write(name: str, rows: int = 90, seed: int = 0) -> Path:
    """Two columns that go together, and a third; the last ninth does not keep to it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    y = np.arange(rows) >= rows * 8 // 9
    x = np.stack([z, z + 0.1 * rng.normal(size=rows), rng.exponential(size=rows)], 1)
    x[y, 1] += rng.choice([-2, 2], y.sum())
    np.savez(name, X=x, y=y.astype(np.int32))
    return Path(name)


# The protocol


def test_half_of_the_normal_rows_train_and_all_others_test(tmp_path):
    path = write(str(tmp_path / "a.npz"))
    with np.load(path) as file:
        x, y = file["X"], file["y"]
    train, test = ADBench(str(path)).load()
    assert len(train.x) == 40
    assert not train.target.any()
    assert sorted([*train.row.tolist(), *test.row.tolist()]) == list(range(90))
    assert test.target.sum() == 10
    for part in (train, test):
        np.testing.assert_array_equal(part.x, x[part.row])
        np.testing.assert_array_equal(part.target, y[part.row])
    assert not torch.equal(ADBench(str(path), seed=1).load()[0].row, train.row)
    few = ADBench(str(path), max_rows=30).load()
    assert sum(len(part.x) for part in few) == 30


@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        (None, ["no such file"]),
        (b"no archive", ["expected an NPZ file"]),
        ({"X": np.zeros((3, 2))}, ["y"]),
        ({"X": np.zeros((3, 2)), "y": np.array([0, 1, 2])}, ["0 or 1"]),
        ({"X": np.array([[0.0, np.nan], [1, 2]]), "y": np.array([0, 1])}, ["row 0, column 1"]),
        ({"X": np.array([["a"]]), "y": np.array([0])}, ["expected numbers"]),
    ],
)
def test_another_file_is_refused_in_a_line(tmp_path, content, mentions):
    path = tmp_path / "a.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        np.savez(path, **content)
    with pytest.raises(UserError) as error:
        ADBench(str(path))
    assert all(word in str(error.value) for word in [str(path), *mentions])
    assert "\n" not in str(error.value)


# The command


def test_every_method_has_its_figures_on_the_same_split(run):
    files = [write(f"{name}.npz", seed=i) for i, name in enumerate("ab")]
    line = "benchmark --config {configs}/table.yaml --trainer.max_steps 20 --trainer.accelerator cpu"
    line += " --trainer.val_check_interval 20"
    assert run(f"{line} --data a.npz --seeds 0") == 0
    first = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("figures.json")}
    assert len(first) == 1 + len(table_baselines.METHODS)
    assert run(f"{line} --data a.npz b.npz --seeds 0 1 --no_baselines") == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first, "not run again"
    with (FOLDER / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["seed"] for row in rows if row["method"] == "vae_lightning"} == {"0", "1"}
    assert {row["method"] for row in rows} == {"vae_lightning", "NegativeLogLikelihood", *table_baselines.METHODS}
    for row in rows:
        if row["method"] != "kNN":
            continue
        train, test = ADBench(str(files["ab".index(row["data"])]), seed=int(row["seed"])).load()
        mean, std = train.x.mean(0), train.x.std(0, correction=0)
        nearest = np.sort(cdist((test.x - mean) / std, (train.x - mean) / std), 1)[:, :5].mean(1)
        assert float(row["auroc"]) == pytest.approx(roc_auc_score(test.target, nearest), abs=1e-9)
        assert float(row["average_precision"]) == pytest.approx(average_precision_score(test.target, nearest), abs=1e-9)


def test_one_line_for_what_cannot_be_benchmarked(run, capsys):
    write("a.npz")
    for data, mention in {"a.npz MNIST": "not both", "a.npz b.npz": "b.npz", "a.npz ./a.npz": "same name"}.items():
        assert run(f"benchmark --config {{configs}}/table.yaml --data {data}") == 2
        error = capsys.readouterr().err
        assert mention in error
        assert error.count("\n") == 1
    assert not FOLDER.exists()


def test_a_method_is_finite_where_columns_are_constant(tmp_path):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 2)), np.ones((60, 2))], 1)
    np.savez(tmp_path / "a.npz", X=x, y=np.arange(60) >= 50)
    found = table_baselines.figures("PCA", ADBench(str(tmp_path / "a.npz")), 0)
    assert 0 <= found["auroc"] <= 1


# Ranks


def test_ranks_of_a_published_example():
    """Demšar 2006, table 6: four classifiers, fourteen data sets."""
    aucs = """
    .763 .768 .771 .798  .599 .591 .590 .569  .954 .971 .968 .967  .628 .661 .654 .657  .882 .888 .886 .898
    .936 .931 .916 .931  .661 .668 .609 .685  .583 .583 .563 .625  .775 .838 .866 .875  1.000 1.000 1.000 1.000
    .940 .962 .965 .962  .619 .666 .614 .669  .972 .981 .9751 .975  .957 .978 .946 .970
    """
    values = np.array(aucs.split(), float).reshape(14, 4)
    np.testing.assert_allclose(average_ranks(values), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, alpha=0.1) == pytest.approx(1.12, abs=0.005)
    rest = 1 - (4**3 - 4 + 3 * (2**3 - 2)) / (
        14 * (4**3 - 4)
    )  # scipy corrects for ties, of four and three times of two
    assert friedman(values) == pytest.approx(chi2.sf(9.28 / rest, 3), rel=0.01)
    assert alike(np.array([1.0, 3.0, 2.0, 4.5]), 1.2) == [[0, 2], [2, 1]]


def test_each_table_counts_once_in_the_summary():
    found = [["a", m, s, v, v, 1.0] for s in range(3) for m, v in (("x", 0.9), ("y", 0.8), ("z", 0.7))]
    found += [["b", m, 0, v, v, 1.0] for m, v in (("x", 0.5), ("y", 0.6), ("z", 0.4))]
    found += [["a", "w", 0, 1.0, 1.0, 1.0]]
    text = "\n".join(summary(found))
    lines = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:5]] for line in text.split("\n")[2:8]}
    assert lines["x"] == ["0.700", "0.700", "1.50"]
    assert "(Nemenyi, α = 0.05): 2.34. No significant difference: x = y = z." in text
    assert lines["w"] == ["1.000", "1.000", "–"], "a method that lacks a table has no rank"


# Neighbours


class Identity(torch.nn.Module):
    def encode(self, x):
        return 2 * x


@pytest.mark.parametrize(("space", "n"), [("input", 700), ("code", 700), ("input", 4)])
def test_neighbours_by_brute_force(space, n):
    x, new = (torch.from_numpy(np.random.default_rng(i).normal(size=(m, 3))).float() for i, m in enumerate((n, 50)))
    score = Neighbours(space, k=3, local=7)
    score.fit(Identity(), x.split(100), [])
    own = cdist(x, x) * (2 if space == "code" else 1)
    np.fill_diagonal(own, np.inf)

    def parts(distances, k=3, local=7):
        near = np.sort(distances, 1)
        k, local = min(k, n - 1), min(local, n - 1)
        floor = 0.01 * reach.mean()
        around = reach[np.argsort(distances, 1)[:, :local]].mean(1)
        return np.stack([near[:, :k].mean(1), (near[:, :local].mean(1) + floor) / (around + floor)], 1)

    reach = np.sort(own, 1)[:, : min(7, n - 1)].mean(1)
    among = parts(own)
    if n > 7:
        expected = (parts(cdist(new, x) * (2 if space == "code" else 1)) - among.mean(0)) / among.std(0, ddof=1)
        np.testing.assert_allclose(score(Identity(), new), expected.mean(1), rtol=1e-3, atol=1e-3)
    assert score(Identity(), new).isfinite().all()


def test_repeated_rows_are_no_reason_for_infinity():
    x = torch.zeros(50, 2)
    score = Neighbours()
    score.fit(Identity(), [x], [])
    assert score(Identity(), torch.eye(2)).isfinite().all()
    assert torch.equal(score(Identity(), x), torch.zeros(50))


@pytest.mark.parametrize("arguments", [{"space": "output"}, {"k": 0}, {"local": 0}, {"capacity": 10}])
def test_neighbours_refuse_what_cannot_be(arguments):
    with pytest.raises(UserError, match="Neighbours"):
        Neighbours(**arguments)


def test_scores_of_one_unit_are_averaged_as_they_come():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    score = Combined([Neighbours(), Neighbours("code")], weights=[1.0, 3.0], standardize=False)
    score.fit(Identity(), [x], [x[:0]])
    parts = [part(Identity(), x[:9]) for part in score.scores]
    torch.testing.assert_close(score(Identity(), x[:9]), parts[0] + 3 * parts[1])


# Columns that are blended, rows that are swapped


def test_a_blend_is_number_and_normal_score_at_unit_variance():
    rng = np.random.default_rng(0)
    x = np.stack([rng.lognormal(size=2000), rng.integers(0, 3, 2000), np.full(2000, 7.0)], 1)
    columns = Columns([0] * 3, transform="blend")
    columns.fit(torch.from_numpy(x).split(300))
    found = columns(torch.from_numpy(x)).numpy()
    for i in range(2):
        both = (x[:, i] - x[:, i].mean()) / x[:, i].std() + norm.ppf((rankdata(x[:, i]) - 0.5) / len(x))
        np.testing.assert_allclose(found[:, i], both / both.std(), atol=0.05)
        assert found[:, i].std() == pytest.approx(1, abs=1e-3)
    assert not found[:, 2].any()
    other = columns(torch.tensor([[1e6, 1.0, 8.0], [2e6, 1.0, 99.0], [0.0, 1.0, 0.0]], dtype=torch.float64))
    assert other[1, 0] > 1.9 * other[0, 0] > 1e5, "what is out of range stays out of range, and how far"
    np.testing.assert_allclose(other[:, 2], norm.ppf(1 - 0.5 / 2000) * np.array([1, 1, -1]), rtol=1e-5)


@pytest.mark.parametrize("model", [Autoencoder, VAE])
def test_a_share_of_a_rows_values_comes_from_other_rows_in_training_alone(model):
    torch.manual_seed(0)
    built = model([40], latent_dim=2, swap=0.25)
    x = torch.arange(200.0)[:, None] + 1000 * torch.arange(40)
    assert torch.equal(built.eval().corrupted(x), x)
    swapped = built.train().corrupted(x)
    assert (swapped != x).float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(swapped // 1000, x // 1000), "each out of its own column"
    with pytest.raises(UserError, match="swap"):
        model([40], swap=1.0)
