"""Runs side by side: figures against numpy's and scikit-learn's, what is grouped, and one line for each mistake."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CONFIGS, SMALL, command
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from vae_lightning.colours import COLOURS
from vae_lightning.commands import main
from vae_lightning.studies.curves import png, roc, scalars
from vae_lightning.studies.finished import find, read
from vae_lightning.studies.groups import group
from vae_lightning.studies.settings import defaults, leaves

PLOTLESS = " --pictures.every_n_epochs 100 --pictures.max_points 10"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Finished runs: an autoencoder with one seed, a VAE with three, the VAE with another β."""
    folder = tmp_path_factory.mktemp("compare") / "runs"
    line = f"fit --config {CONFIGS}/{{}}.yaml{SMALL}{PLOTLESS} --runs {folder}"
    for config, options in [
        ("autoencoder", ""),
        ("beta_vae", ""),
        ("beta_vae", " --seed_everything 1 --data.init_args.seed 7"),
        ("beta_vae", " --seed_everything 2 --data.init_args.data_seed 5 --data.init_args.num_workers 0"),
        ("beta_vae", " --model.init_args.beta 4 --trainer.max_epochs 3 --experiment stronger"),
    ]:
        assert main((line.format(config) + options).split()) == 0
    return folder


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def compare(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["compare", *map(str, args)])
        return code, *capsys.readouterr()

    return compare


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_test_scores_are_those_that_results_come_from(runs):
    for run in runs.glob("*/*"):
        with np.load(run / "test_scores.npz") as file:
            columns = dict(file)
        labels = columns.pop("labels")
        assert labels.dtype == np.int8
        metrics = results(run)["metrics"]
        primary = next(iter(columns))
        assert primary == "ReconstructionError"
        assert roc_auc_score(labels, columns[primary]) == pytest.approx(metrics["test/auroc"], abs=1e-6)
        average_precision = average_precision_score(labels, columns[primary])
        assert average_precision == pytest.approx(metrics["test/average_precision"], abs=1e-6)
        for name, column in columns.items():
            assert column.dtype == np.float32
            auroc = metrics.get(f"test/auroc/{name}", metrics["test/auroc"])
            assert roc_auc_score(labels, column) == pytest.approx(auroc, abs=1e-6)
        assert not list(run.glob("*.tmp"))


def test_two_processes_leave_the_same_test_scores(runs, tmp_path):
    run = shutil.copytree(runs / "beta_vae/version_0", tmp_path / "runs/beta_vae/version_0")
    (run / "test_scores.npz").unlink()
    line = f"test --ckpt_path {run}/checkpoints/best.ckpt --trainer.accelerator cpu --trainer.enable_progress_bar false"
    line += " --trainer.devices 2 --trainer.strategy ddp_fork --data.init_args.eval_batch_size 7"
    done = command(Path.cwd(), line.split())
    assert done.returncode == 0, done.stderr
    with np.load(run / "test_scores.npz") as double, np.load(runs / "beta_vae/version_0/test_scores.npz") as single:
        for label in (0, 1):
            values = [np.sort(file["ReconstructionError"][file["labels"] == label]) for file in (single, double)]
            np.testing.assert_allclose(*values, rtol=1e-5)


def test_a_resumed_run_loses_the_scores_of_its_former_end(runs, tmp_path):
    run = shutil.copytree(runs / "stronger/version_0", tmp_path / "runs/stronger/version_0")
    line = f"fit --ckpt_path {run}/checkpoints/last.ckpt --trainer.max_epochs 4 --test_after_fit false"
    assert main(line.split()) == 0
    assert results(run)["epochs"] == 4
    assert not (run / "test_scores.npz").exists()


def test_without_a_logger_a_test_writes_nothing(tmp_path, monkeypatch, trainer):
    from vae_lightning.data import SyntheticMixture
    from vae_lightning.models import Autoencoder
    from vae_lightning.training.callbacks import DetectionMetrics

    monkeypatch.chdir(tmp_path)
    trainer(callbacks=[DetectionMetrics()]).test(Autoencoder([10]), SyntheticMixture(samples=200), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_the_table_holds_mean_and_standard_deviation_over_seeds(compare, runs, tmp_path):
    code, out, err = compare(runs / "*" / "*", "--out", tmp_path / "here")
    assert (code, err) == (0, "")
    assert {p.name for p in (tmp_path / "here").iterdir()} == {
        "comparison.md",
        "comparison.csv",
        "roc.png",
        "curves.png",
    }
    single, seeds, strong = rows(tmp_path / "here/comparison.csv")
    assert [row["n"] for row in (single, seeds, strong)] == ["1", "3", "1"]
    assert seeds["run"] == "beta_vae/version_0, version_1, version_2"
    assert seeds["seeds"] == "0 1 2"
    three = [results(runs / f"beta_vae/version_{i}") for i in range(3)]
    for name in three[0]["metrics"]:
        values = [result["metrics"][name] for result in three]
        assert float(seeds[name]) == pytest.approx(np.mean(values), rel=1e-12)
        assert float(seeds[f"{name} std"]) == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert float(seeds["seconds"]) == pytest.approx(np.mean([result["seconds"] for result in three]))
    assert float(single["test/auroc"]) == results(runs / "autoencoder/version_0")["metrics"]["test/auroc"]
    assert single["test/auroc std"] == "", "one run has no spread"
    assert single["test/kl"] == "", "an autoencoder has no KL"
    assert float(strong["epochs"]) == 3
    auroc = [result["metrics"]["test/auroc"] for result in three]
    cell = f"{np.mean(auroc):.4f} ± {np.std(auroc, ddof=1):.4f}"
    assert cell in out
    assert out.split("\nwritten")[0] in (tmp_path / "here/comparison.md").read_text()


def test_only_settings_that_differ_are_shown(compare, runs, tmp_path):
    assert compare(runs / "beta_vae/version_1", runs / "stronger/version_0")[0] == 0
    normal, strong = rows(tmp_path / "comparison/comparison.csv")
    settings = list(normal)[1 : list(normal).index("seeds")]
    assert settings[:2] == ["trainer.max_epochs", "model.beta"]
    assert set(settings[2:]) == {"model.beta.start", "model.beta.stop", "model.beta.epochs"}
    assert (normal["model.beta"], strong["model.beta"], strong["model.beta.epochs"]) == ("Linear", "4.0", "")
    header = (tmp_path / "comparison/comparison.md").read_text().splitlines()[0]
    for name in ("test/auroc", "test/average_precision", "test/f1", "val/auroc", "test/loss", "test/mse", "val/kl"):
        assert f" {name} " in header
    assert "time / s" in header
    assert header.startswith("| run                | trainer.max_epochs | model.beta | n |"), "Linear says the rest"


def test_a_list_of_objects_differs_in_their_arguments_too():
    config = {
        "model": {"class_path": "a.VAE", "init_args": {"scores": [{"class_path": "s.IW", "init_args": {"k": 5}}]}}
    }
    assert dict(leaves(config)) == {"model": "a.VAE", "model.scores.0": "s.IW", "model.scores.0.k": 5}


def _with(run: Path, folder: Path, **changes: object) -> Path:
    """A copy of a run whose model has other arguments; ``None`` leaves one out."""
    copy = shutil.copytree(run, folder)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["model"]["init_args"] |= changes
    config["model"]["init_args"] = {k: v for k, v in config["model"]["init_args"].items() if v is not None}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    return copy


def test_an_argument_left_out_has_its_default(compare, runs, tmp_path):
    run = runs / "stronger/version_0"
    threshold = {"class_path": "vae_lightning.detection.Percentile", "init_args": {"percentile": 95.0}}
    given = _with(run, tmp_path / "given", latent_dim=20, threshold=threshold)
    bare = _with(run, tmp_path / "bare", latent_dim=None, threshold={**threshold, "init_args": {}})
    none = _with(run, tmp_path / "none", latent_dim=8, threshold=None)
    assert compare(given, bare, none)[0] == 0
    found = {row["run"]: row for row in rows(tmp_path / "comparison/comparison.csv")}
    columns = list(found["given"])
    differing = ["model.latent_dim", "model.threshold", "model.threshold.method", "model.threshold.percentile"]
    assert sorted(columns[1 : columns.index("seeds")]) == differing
    cells = {name: [row[column] for column in differing] for name, row in found.items()}
    assert cells["given"] == cells["bare"] == ["20", "Percentile", "order_statistic", "95.0"], "the defaults"
    assert cells["none"] == ["8", "default", "", ""]


def test_a_default_is_asked_of_no_class_that_would_have_to_be_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strange.py").write_text("raise SystemExit('imported')")
    for path in (
        "strange.VAE",
        "vae_lightning.strange.VAE",
        "vae_lightning.models.Nothing",
        "torch.optim.Adam",
        "VAE",
        3,
    ):
        assert dict(defaults({"model": {"class_path": path, "init_args": {"beta": 4}}})) == {}
    assert "strange" not in sys.modules
    config = {"scores": [{"class_path": "vae_lightning.scores.NegativeELBO", "init_args": {"samples": 3}}]}
    assert dict(defaults(config)) == {"scores.0.seed": 0}


def test_the_same_seeds_again_are_a_row_of_their_own(compare, runs, tmp_path):
    again = shutil.copytree(runs / "beta_vae/version_0", tmp_path / "again/version_0")
    code, _, _ = compare(runs / "beta_vae/*", again)
    assert code == 0
    assert [row["n"] for row in rows(tmp_path / "comparison/comparison.csv")] == ["3", "1"]


def test_a_run_named_twice_counts_once(compare, runs, tmp_path):
    assert compare(runs / "beta_vae/version_0", runs / "beta_vae/*", f"{runs}/beta_vae/../beta_vae/version_0")[0] == 0
    assert [row["n"] for row in rows(tmp_path / "comparison/comparison.csv")] == ["3"]


def test_version_2_comes_before_version_10(tmp_path):
    for n in (10, 2, 1):
        (tmp_path / f"version_{n}").mkdir()
    assert [path.name for path in find([f"{tmp_path}/*"])] == ["version_1", "version_2", "version_10"]


def test_training_curves_are_those_that_were_logged(runs):
    run = runs / "stronger/version_0"
    curves = scalars(run)
    assert list(curves["train/loss"]) == list(curves["val/auroc"]) == [1, 2, 3]
    for name in ("train/loss", "val/objective", "val/auroc"):
        assert curves[name][3] == pytest.approx(results(run)["metrics"][name], rel=1e-6)


def test_pictures_show_every_group_in_its_own_colour(compare, runs, tmp_path):
    assert compare(runs / "*" / "*")[0] == 0
    rng = np.random.default_rng(0)
    labels = np.arange(500) % 2
    groups = {f"shift {shift}": [(labels, rng.normal(size=500) + shift * labels)] * 2 for shift in range(3)}
    (tmp_path / "roc.png").write_bytes(png(roc(groups, {})))
    for path in (tmp_path / "roc.png", tmp_path / "comparison/curves.png"):
        pixels = imread(path)[:, :, :3].reshape(-1, 3)
        for colour in COLOURS[:3]:
            near = np.abs(pixels - to_rgb(colour)).max(1) < 0.1
            assert near.sum() > 50, f"{path.name} lacks {colour}"


def test_roc_curves_enclose_their_area():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    scores = rng.normal(size=400) + labels
    figure = roc({"one": [(labels, scores), None]}, {"one": "AUROC 0.7"})
    line, chance = figure.axes[0].lines
    assert auc(*line.get_data()) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one (AUROC 0.7)", chance.get_label()]


def test_runs_without_scores_or_events_are_compared_and_named(compare, runs, tmp_path):
    bare, other = (shutil.copytree(runs / "beta_vae/version_0", tmp_path / name) for name in ("bare", "other"))
    for file in (bare / "test_scores.npz", *bare.glob("events*")):
        file.unlink()
    with np.load(other / "test_scores.npz") as file:
        columns = dict(file)
    np.savez(other / "test_scores.npz", **{**columns, "labels": 1 - columns["labels"]})
    code, _, err = compare(bare, other)
    assert code == 0
    notes = err.splitlines()
    assert len(notes) == 3
    assert any("bare" in note and "test_scores.npz" in note and "`test`" in note for note in notes)
    assert any("bare" in note and "TensorBoard" in note for note in notes)
    assert any("other" in note and "another test" in note for note in notes)


def _unfinished(run: Path) -> None:
    (run / "results.json").unlink()


def _truncated(run: Path) -> None:
    (run / "results.json").write_text((run / "results.json").read_text()[:40])


def _no_config(run: Path) -> None:
    (run / "config.yaml").unlink()


def _broken_config(run: Path) -> None:
    (run / "config.yaml").write_text("model: [\n")


def _cut_scores(run: Path) -> None:
    path = run / "test_scores.npz"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "mentions"),
    [
        (_unfinished, ["version_0 is not finished", "results.json", "--ckpt_path", "last.ckpt"]),
        (_truncated, ["version_0/results.json", "damaged"]),
        (_no_config, ["version_0 is not a run", "config.yaml", "version_<n>"]),
        (_broken_config, ["version_0/config.yaml", "not valid YAML"]),
        (_cut_scores, ["version_0/test_scores.npz", "damaged", "`test`"]),
    ],
)
def test_a_bad_run_gets_one_line_and_leaves_nothing(compare, runs, tmp_path, damage, mentions):
    bad = shutil.copytree(runs / "beta_vae/version_0", tmp_path / "bad/version_0")
    damage(bad)
    before = set(tmp_path.rglob("*"))
    _refused(compare(runs / "autoencoder/version_0", bad), mentions)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (["{runs}/nothing_*"], ["nothing_*", "no folder matches", "version_<n>"]),
        (["nowhere"], ["nowhere", "no folder matches"]),
        (["{runs}/beta_vae"], ["beta_vae is not a run", "beta_vae/*"]),
        (
            ["{runs}/beta_vae/version_0", "--out", "file/below"],
            ["--out file/below", "cannot be written", "another folder"],
        ),
        ([], ["RUN", "--help"]),
        (["{runs}/beta_vae/version_0", "--outt", "x"], ["--outt", "--help"]),
    ],
)
def test_bad_arguments_get_one_line_and_leave_nothing(compare, runs, tmp_path, args, mentions):
    (tmp_path / "file").write_text("in the way")
    _refused(compare(*(arg.format(runs=runs) for arg in args)), mentions)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_overwrites_nothing(compare, runs, tmp_path):
    assert compare(runs / "beta_vae/*")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "comparison").iterdir()}
    shutil.copytree(runs / "beta_vae/version_0", tmp_path / "bad")
    _unfinished(tmp_path / "bad")
    assert compare(runs / "autoencoder/*", "bad")[0] == 2
    assert {path: path.read_bytes() for path in (tmp_path / "comparison").iterdir()} == before
    del before[tmp_path / "comparison/roc.png"]
    (tmp_path / "comparison/roc.png").unlink()
    (tmp_path / "comparison/roc.png").mkdir()
    _refused(compare(runs / "autoencoder/*"), ["comparison", "cannot be written", "roc.png"])
    assert {path: path.read_bytes() for path in (tmp_path / "comparison").iterdir() if path.is_file()} == before


def test_help(compare, capsys):
    for args in (["compare", "--help"], ["--help"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 0
        assert re.search("compare .*side by side|compare .*--out", capsys.readouterr().out, re.DOTALL)


def test_groups_know_full_class_names(runs):
    run = read(runs / "beta_vae/version_0")
    other = read(runs / "beta_vae/version_1")
    other.settings["model"] = "my.own.VAE"
    first, second = group([run, other])
    assert (first.differences, second.differences) == ({"model": "vae_lightning.VAE"}, {"model": "my.own.VAE"})


def _refused(done: tuple[int, str, str], mentions: list[str]) -> None:
    code, out, err = done
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    for mention in mentions:
        assert mention in line
