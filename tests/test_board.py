"""What TensorBoard and other loggers are told of a run: curves first, a test as a table, hyperparameters."""

import csv
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from vae_lightning import MLP, VAE, Digits, fit
from vae_lightning.studies.curves import scalars
from vae_lightning.training import runs
from vae_lightning.training.callbacks import Pictures

EPOCHS = 3


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of three epochs with its folder."""
    data = Digits(normal_classes=[0, 3], val_fraction=0.2, batch_size=32)
    model = VAE([1, 8, 8], MLP([16]), latent_dim=3, beta=0.5)
    place = tmp_path_factory.mktemp("runs") / "digits/version_0"
    return fit(model, data, max_epochs=EPOCHS, seed=7, folder=place, verbose=False, callbacks=[Pictures()])


@pytest.fixture(scope="module")
def events(digits):
    return EventAccumulator(str(digits.folder), size_guidance={"tensors": 0}).Reload()


def test_every_chart_is_a_curve_and_the_figures_of_the_test_stand_behind(digits, events):
    found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    points = {tag for tag, curve in found.items() if len(curve) == 1}
    assert points == {f"verdict/test_{name}" for name in ("auroc", "average_precision", "f1", "false_alarm_rate")}
    assert max(found.keys() - points) < min(points), "by their names"
    assert {len(found[tag]) for tag in found.keys() - points} == {EPOCHS}
    for name in points:
        metric = name.replace("verdict/test_", "test/")
        assert found[name][0].value == pytest.approx(digits.metrics[metric])


def test_the_test_is_a_table(digits, events):
    (event,) = events.Tensors("test/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    figures = dict(re.findall(r"\| ([\w/]+) \| ([\d.e+-]+) \|", text))
    assert {f"test/{name}" for name in figures} == {name for name in digits.metrics if name.startswith("test/")}
    assert float(figures["loss"]) == pytest.approx(digits.metrics["test/loss"], rel=1e-3)


def test_the_layout_has_a_chart_for_what_matters(events):
    (event,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    shown = {chart.title: list(chart.multiline.tag) for part in layout.category for chart in part.chart}
    matched = {
        title: {tag for tag in events.Tags()["scalars"] if any(re.match(pattern, tag) for pattern in patterns)}
        for title, patterns in shown.items()
    }
    assert matched == {
        "loss": {"train/loss", "val/loss", "val/objective"},
        "reconstruction": {"train/mse", "val/mse"},
        "KL": {"train/kl", "val/kl"},
        "beta": {"train/beta"},
        "AUROC": {"val/auroc"},
        "F1": {"val/f1"},
        "threshold": {"val/threshold"},
        "false alarms": {"val/false_alarm_rate"},
    }


def test_hyperparameters_are_the_models_the_datas_and_the_seed(events):
    start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    given = metadata.parse_session_start_info_plugin_data(start).hparams
    assert given["data"].string_value == "Digits"
    assert given["data.normal_classes"].string_value == "[0, 3]"
    assert given["seed"].number_value == 7
    assert given["beta"].number_value == 0.5
    assert "data.num_workers" not in given, "defaults tell nothing"
    columns = metadata.parse_experiment_plugin_data(
        events.summary_metadata["_hparams_/experiment"].plugin_data.content
    ).metric_infos
    assert (
        {"val/auroc", "verdict/test_auroc"} <= {column.name.tag for column in columns} <= set(events.Tags()["scalars"])
    )


def test_the_projector_has_a_thumbnail_a_label_and_a_class_for_each_point(digits):
    (folder,) = digits.folder.glob("*/latent")
    z = np.loadtxt(folder / "tensors.tsv", ndmin=2)
    with (folder / "metadata.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(z)
    assert {row["label"] for row in rows if row["class"] in "03"} == {"normal"}
    assert {row["label"] for row in rows if row["class"] not in "03"} == {"anomalous"}
    sprite = np.asarray(Image.open(folder / "sprite.png").convert("L"))
    across = sprite.shape[1] // 8
    data = digits.data.loader("val")
    first = next(iter(data)).x[0, 0].numpy()
    assert across * (sprite.shape[0] // 8) >= len(z)
    assert np.corrcoef(sprite[:8, :8].ravel(), first.ravel())[0, 1] > 0.99


def test_curves_are_read_by_epoch(digits):
    found = scalars(digits.folder)
    assert list(found["train/loss"]) == list(found["val/objective"]) == [1, 2, 3]
    assert list(found["val/objective"].values()) == pytest.approx(digits.history)


def test_the_table_says_which_figures_are_sums_and_what_the_threshold_is_in():
    metrics = {"test/mse": 29.3, "test/threshold": 0.05, "test/auroc/NAP": 0.9, "test/nll_5000": 88.0}
    text = runs.table(metrics, Path("logs/a/version_0"), ["note"], "ReconstructionError (mean over features)")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[1:10] == [
        "test",
        "nats, summed over the features of a sample",
        "mse 29.3000",
        "decisions by ReconstructionError (mean over features)",
        "threshold 0.0500",
        "AUROC of each score",
        "NAP 0.9000",
        "others",
        "nll_5000 88.0000",
    ]
    assert text.endswith("note\nrun          logs/a/version_0\nlook         tensorboard --logdir logs")


def test_a_csv_file_has_every_metric_and_the_hyperparameters(run, tmp_path):
    logger = "--trainer.logger CSVLogger --trainer.logger.init_args.save_dir csv --trainer.logger.init_args.name a"
    line = "fit --config {configs}/beta_vae.yaml --trainer.max_epochs 2 --data.init_args.samples 600 "
    assert run(line + "--trainer.enable_progress_bar false " + logger) == 0
    with (tmp_path / "csv/a/version_0/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]][1] > 0
    assert [row for row in rows if row["test/auroc"]]
    settings = yaml.safe_load((tmp_path / "csv/a/version_0/hparams.yaml").read_text())
    assert (settings["data"], settings["seed"], settings["latent_dim"]) == ("SyntheticMixture", 0, 8)
    assert sorted(p.name for p in (tmp_path / "lightning_logs/beta_vae/version_0/checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]


def test_mlflow_keeps_a_run_in_a_local_database(run, tmp_path):
    logger = "--trainer.logger MLFlowLogger --trainer.logger.init_args.tracking_uri sqlite:///mlflow.db"
    line = "fit --config {configs}/beta_vae.yaml --trainer.max_epochs 2 --data.init_args.samples 600 "
    assert run(line + "--trainer.enable_progress_bar false " + logger) == 0
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        metrics = dict(database.execute("select key, value from latest_metrics").fetchall())
        settings = dict(database.execute("select key, value from params").fetchall())
    assert {"train/loss", "val/auroc", "val/auroc/NegativeELBO", "test/auroc"} <= metrics.keys()
    assert (settings["data"], settings["seed"]) == ("SyntheticMixture", "0")
