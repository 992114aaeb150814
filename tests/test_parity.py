"""One sample, one score: every command, the file and the exported graph give the same bits, for every configuration."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, script

from vae_lightning.commands.parser import CLI
from vae_lightning.data import AnomalyDataModule
from vae_lightning.data.records import write_records
from vae_lightning.detection import Detector
from vae_lightning.models import AnomalyModel

QUIET = " --trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false"

Run = Callable[[str], int]

TRAINED = {"optimizer", "lr_scheduler", "beta", "k", "latent_dim", "hidden"}  # how, how long and how large
DIVIDED = {"normal_classes", "anomaly_classes", "val_fraction", "calibration_fraction", "batch_size"}


def without(content: Any, keys: set[str]) -> Any:
    """The same without some keys, but of scores, which ``k`` is a setting of."""
    if not isinstance(content, dict):
        return content
    return {
        key: value if key == "scores" else without(value, keys) for key, value in content.items() if key not in keys
    }


def configurations() -> list[str]:
    """One of those that come to the same scores of the same data."""
    found = {}
    for path in sorted(CONFIGS.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        found[str((without(content["model"], TRAINED), without(content["data"], DIVIDED)))] = path.name
    return list(found.values())


def tiny(name: str, root: Path) -> str:
    """The command line that makes a configuration small: a few steps on a few samples."""
    content = yaml.safe_load((CONFIGS / name).read_text())
    data = content["data"]
    line = f"fit --config {{configs}}/{name}{QUIET} --trainer.max_epochs 1 --trainer.max_steps -1"
    line += " --trainer.limit_train_batches 5 --trainer.num_sanity_val_steps 0"
    line += " --trainer.val_check_interval null --trainer.check_val_every_n_epoch 1 --trainer.callbacks null"
    line += " --test_after_fit false --data.init_args.val_fraction 0.25 --data.init_args.batch_size 8"
    if "MNIST" in data["class_path"]:
        line += f" --data.init_args.root {root}"
    if data["class_path"] == "SyntheticMixture":
        line += " --data.init_args.samples 300"
    if data["class_path"] == "Table":
        line += f" --data.init_args.train {write_records(root / 'rows.csv', 300)} --data.init_args.ignore [label]"
    if data["class_path"] == "SyntheticTextures":
        line += " --data.init_args.size 32 --data.init_args.train 100 --data.init_args.test 5"
        line += " --model.init_args.latent_dim 512"
    if name == "ensemble.yaml":
        line += " --model.init_args.members 3"
    if "anomalies_from" in data.get("init_args", {}):
        line += f" --data.init_args.anomalies_from.init_args.root {root}"
    return line


def fit(line: str) -> AnomalyDataModule:
    """Trains; the data that it was trained on."""
    data: AnomalyDataModule = CLI(line.format(configs=CONFIGS).split()).datamodule
    return data


def columns(folder: Path) -> dict[str, list[str]]:
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def export(detector: Detector, example: torch.Tensor) -> Any:
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    return torch.export.export(detector.graph, (example,), dynamic_shapes=shapes, strict=False).module()


@pytest.mark.parametrize("name", configurations())
def test_all_ways_give_the_same_bits(name: str, run: Run, mnist_files: Path, tmp_path: Path) -> None:
    data = fit(tiny(name, mnist_files))
    folder = tmp_path / "lightning_logs" / name.removesuffix(".yaml") / "version_0"
    checkpoint = folder / "checkpoints" / "best.ckpt"
    assert run(f"test --ckpt_path {checkpoint}{QUIET}") == 0
    assert run(f"predict --ckpt_path {checkpoint}{QUIET}") == 0
    batch = next(iter(data.test_dataloader()))
    assert len(batch.x) == len(data.loader("test").split), (
        "one batch: batches of another size may differ in the last bit"
    )

    detector = Detector.load(folder)
    answer = detector(batch.x.numpy())
    again = AnomalyModel.load_from_checkpoint(checkpoint).detector(batch.x)
    table = columns(folder)
    with np.load(folder / "test_scores.npz") as file:
        tested = dict(file)
    assert np.array_equal(tested.pop("labels"), batch.label.numpy())
    assert list(tested) == detector.names == list(answer.each)
    for score, expected in answer.each.items():
        assert np.isfinite(expected).all()
        assert np.array_equal(tested[score], expected), score
        assert np.array_equal(np.array(table[score], np.float64).astype(np.float32), expected), score
        assert np.array_equal(again.each[score].numpy(), expected), score
    assert np.array_equal(np.array(table["p_value"], np.float64).astype(np.float32), answer.p_value)
    assert [value == "1" for value in table["anomaly"]] == answer.anomaly.tolist() == again.anomaly.tolist()

    # the row says where the sample stands in the test part that it comes from
    own, other = data.load()[1], data.anomalies_from.load()[1] if data.anomalies_from is not None else None
    for i, (row, label) in enumerate(zip(table["row"], table["label"], strict=True)):
        part = own if other is None or table["source"][i] == type(data).__name__ else other
        place = int(row) if part.row is None else part.row.tolist().index(int(row))
        if not data.binarize:
            assert np.array_equal(part.x[place], batch.x[i], equal_nan=part.x.is_floating_point())
        assert int(label) == int(batch.label[i])

    exported(detector, batch.x)


def exported(detector: Detector, x: torch.Tensor) -> None:
    """A graph with a free batch size gives what the detector does; scores that no graph can hold are left out."""
    model = detector.model
    for score in [score for score, made in model.scores.items() if made.export_refusal is not None]:
        del model.scores[score], model.thresholds[score]
    if not model.scores:
        return
    expected, graph = detector(x), export(detector, x[:3])
    for part in (x, x[:1], x[5:12]):
        found, wanted = graph(part), detector(part)
        for score in detector.names:
            scale = expected.each[score].abs().max().item()
            torch.testing.assert_close(found.each[score], wanted.each[score], rtol=1e-6, atol=1e-6 * scale, msg=score)
    found = graph(x)
    assert torch.equal(found.anomaly, expected.anomaly)


FRESH = """
import json, sys, numpy as np
from vae_lightning.detection import Detector
answer = Detector.load(sys.argv[1])(np.load(sys.argv[2]))
np.savez(sys.argv[3], p_value=answer.p_value, anomaly=answer.anomaly, **answer.each)
"""


def test_a_fresh_process_gives_the_same_bits(run: Run, tmp_path: Path) -> None:
    """It has imported nothing but the detector."""
    data = fit(tiny("beta_vae.yaml", tmp_path))
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    assert run(f"test --ckpt_path {folder}/checkpoints/best.ckpt{QUIET}") == 0
    np.save(tmp_path / "raw.npy", next(iter(data.test_dataloader())).x.numpy())
    (tmp_path / "fresh.py").write_text(FRESH)
    done = script(tmp_path, "fresh.py", str(folder), "raw.npy", "answer.npz")
    assert done.returncode == 0, done.stderr
    with np.load(folder / "test_scores.npz") as tested, np.load(tmp_path / "answer.npz") as answer:
        assert len(tested.files) == 3
        for score in tested.files[:-1]:
            assert np.array_equal(tested[score], answer[score]), score


def test_a_run_trained_in_half_precision_is_scored_in_single(run: Run, tmp_path: Path) -> None:
    data = fit(tiny("beta_vae.yaml", tmp_path) + " --trainer.precision bf16-mixed")
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    for command in ("test", "predict"):
        assert run(f"{command} --ckpt_path {folder}/checkpoints/last.ckpt --trainer.precision bf16-mixed{QUIET}") == 0
    expected = Detector.load(folder, "last")(next(iter(data.test_dataloader())).x.numpy())
    with np.load(folder / "test_scores.npz") as tested:
        assert np.array_equal(tested["ReconstructionError"], expected.score)
    found = np.array(columns(folder)["ReconstructionError"], np.float64).astype(np.float32)
    assert np.array_equal(found, expected.score)


def test_results_and_file_agree_on_the_threshold(run: Run, tmp_path: Path) -> None:
    assert run(tiny("beta_vae.yaml", tmp_path).replace("--test_after_fit false", "--test_after_fit true")) == 0
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    assert metrics["test/threshold"] == Detector.load(folder).threshold.value.item()
