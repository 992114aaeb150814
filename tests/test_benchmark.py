"""Benchmarks: every class and seed once, scikit-learn's figures, the same after any kill; one line for a mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, kill
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from vae_lightning.data import Digits
from vae_lightning.studies import baselines

LINE = "benchmark --config {configs}/digits_beta_vae.yaml --pictures.every_n_epochs 1000 --trainer.accelerator cpu"
FOLDER = Path("lightning_logs/benchmark_digits_beta_vae")
SCORES = ["ReconstructionError", "NegativeELBO"]


def _rows(folder: Path = FOLDER) -> list[dict[str, str]]:
    """The rows of results.csv, without what differs from run to run."""
    with (folder / "results.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_each_class_and_seed_has_its_figures_and_more_are_added(run, capsys):
    line = f"{LINE} --trainer.max_epochs 2"
    assert run(f"{line} --protocol leave_one_class_out one_class --classes 3 --seeds 0") == 0
    first = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("results.json")}
    assert len(first) == 2
    capsys.readouterr()
    assert run(f"{line} --protocol one_class --classes 3 8 --seeds 1 0 --jobs 2") == 0
    shown = capsys.readouterr().out
    assert "6 tasks, 4 left" in shown
    assert {path: path.stat().st_mtime_ns for path in first} == first, "not run again"

    rows = _rows()
    assert {row["seed"] for row in rows if row["method"] in SCORES} == {"0", "1"}
    assert {row["epochs"] for row in rows if row["method"] in SCORES} == {"2"}
    for row in rows:
        if row["method"] not in SCORES:
            continue
        path = FOLDER / row["data"] / row["protocol"] / f"class_{row['class']}" / f"seed_{row['seed']}"
        with np.load(path / "test_scores.npz") as file:
            auroc, anomalies = roc_auc_score(file["labels"], file[row["method"]]), file["labels"].mean()
        assert float(row["auroc"]) == pytest.approx(auroc, abs=1e-5)
        assert (anomalies > 0.8) == (row["protocol"] == "one_class"), "a tenth is normal, or is anomalous"

    one = [row for row in rows if row["protocol"] == "one_class" and row["method"] == "NegativeELBO"]
    by_seed = [np.mean([float(row["auroc"]) for row in one if row["seed"] == seed]) for seed in "01"]
    cell = f"{np.mean(by_seed):.3f} ± {np.std(by_seed, ddof=1):.3f} |"
    after = shown[shown.index("one class is normal") :]
    elbo = next(line for line in after.splitlines() if line.startswith("| NegativeELBO"))
    assert elbo.endswith(cell)
    assert elbo in (FOLDER / "results.md").read_text()


def test_the_baselines_are_what_they_say():
    data = Digits(normal_classes=[8])
    found = baselines.aurocs(data)
    data.preprocessing.fit(batch.x for batch in data.reference_dataloader())
    loaders = (data.loader(split) for split in ("train", "test"))
    (train, _), (test, labels) = (baselines._arrays(loader, data.preprocessing) for loader in loaders)
    assert len(labels) == 360
    assert not (train[:, None] == test[None]).all(2).any(), "no test sample among those of training"
    nearest = np.sort(cdist(test, train), 1)[:, :5].mean(1)
    assert found["5 nearest neighbours"] == [pytest.approx(roc_auc_score(labels, nearest), abs=1e-6)]
    center = train.mean(0)
    directions = np.linalg.svd(train - center, full_matrices=False)[2][:32]
    rest = np.square(test - center).sum(1) - np.square((test - center) @ directions.T).sum(1)
    assert found["PCA reconstruction"] == [pytest.approx(roc_auc_score(labels, rest), abs=1e-3)]
    assert len(set(found["isolation forest"])) == 3, "seeds differ"
    assert min(found["isolation forest"] + found["one-class SVM"]) > 0.9
    assert found == baselines.aurocs(data)


def test_killed_and_started_again_nothing_is_lost_or_doubled(run, tmp_path):
    line = f"{LINE} --classes 0 1 --seeds 0 --trainer.max_epochs 5 --checkpoint_every_n_steps 7"
    line += " --data.init_args.batch_size 4 --no_baselines"
    assert run(f"{line} --name undisturbed") == 0

    def runs(name: str) -> list[Path]:
        return [path.parent for path in FOLDER.rglob("seed_*/" + name)]

    def under_way() -> bool:
        started = {path.parent for path in runs("checkpoints/last.ckpt")}
        return bool(started - set(runs("results.json"))) and bool(runs("results.json"))

    kill(tmp_path, line.format(configs=CONFIGS).split(), under_way)
    finished = {path: path.stat().st_mtime_ns for folder in runs("results.json") for path in folder.rglob("*")}
    (stopped,) = {path.parent for path in runs("checkpoints/last.ckpt")} - set(runs("results.json"))
    step = torch.load(stopped / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < 5 * 30, "inside its training"
    assert run(line) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "not run again"
    assert len(runs("results.json")) == 2
    assert _rows() == _rows(FOLDER.with_name("undisturbed")), "resumed within an epoch, to the bit"


def test_a_run_that_fails_is_told_and_the_others_go_on(run, capsys):
    assert (
        run(f"{LINE} --classes 0 --seeds 0 --trainer.max_epochs 1 --model.init_args.optimizer.init_args.lr 1e30") == 1
    )
    shown = capsys.readouterr().out
    assert "Digits one_class class 0 seed 0  failed: the training loss became" in shown
    assert "seed 0: see" in shown
    complaint = FOLDER / "Digits/one_class/class_0/seed_0/error.txt"
    assert "the training loss became" in complaint.read_text()
    assert {row["method"] for row in _rows()} == set(baselines.BASELINES)


@pytest.mark.parametrize(
    ("line", "mentions"),
    [
        ("benchmark", ["--config"]),
        ("benchmark --config nowhere.yaml", ["nowhere.yaml"]),
        (f"{LINE} --classes 3 10", ["10", "0 to 9"]),
        (f"{LINE} --protocol one_clas", ["one_clas", "leave_one_class_out"]),
        (f"{LINE} --data Digit", ["Digit", "Digits"]),
        (f"{LINE} --jobs 0", ["--jobs 0"]),
        (f"{LINE} --seeds -1", ["--seeds"]),
        (f"{LINE} --name a/b", ["a/b"]),
        (f"{LINE} --seed_everything 3", ["seed_everything"]),
        (f"{LINE} --data.init_args.normal_classes [3]", ["normal_classes"]),
        (f"{LINE} --model.init_args.latent_dims 3", ["latent_dims", "latent_dim"]),
        (f"{LINE} --model.init_args.beta", ["beta", "missing"]),
        ("benchmark --config {configs}/sweeps/synthetic.yaml", ["a sweep", "beta_vae.yaml"]),
    ],
)
def test_bad_input_gets_one_line_exit_code_2_and_leaves_nothing(run, tmp_path, capsys, line, mentions):
    assert run(line) == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert all(word in message for word in mentions), message
    assert list(tmp_path.iterdir()) == []


def test_another_configuration_is_refused(run, capsys):
    line = f"{LINE} --classes 0 --seeds 0 --trainer.max_epochs 1 --no_baselines"
    assert run(line) == 0
    state = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert run(f"{line} --model.init_args.beta 2") == 2
    assert "other settings" in capsys.readouterr().err
    assert run(line.replace("digits_beta_vae", "autoencoder") + f" --name {FOLDER.name} --data Digits") == 2
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == state
    assert json.loads((FOLDER / "benchmark.json").read_text())["settings"]["trainer.max_epochs"] == 1


def test_help(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("benchmark --help")
    assert stop.value.code == 0
    assert "leave_one_class_out" in capsys.readouterr().out
