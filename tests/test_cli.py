"""The commands as a user meets them: what they write, what they say, how they resume, and what an error looks like."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import CONFIGS, SMALL, command, environment, kill

from vae_lightning.__main__ import run as script
from vae_lightning.commands import main, predict_files
from vae_lightning.commands.help import COMMANDS, STUDIES, page

FIT = "fit --config {configs}/beta_vae.yaml"
CHECKED = "predict", "test", "validate"  # with a checkpoint
DIGITS = "fit --config {configs}/digits_beta_vae.yaml"


def test_fit_leaves_a_complete_run(run, fitted, capsys):
    results = json.loads((fitted / "results.json").read_text())
    for split in ("train", "val", "test"):
        for term in ("loss", "mse", "kl"):
            assert results["metrics"][f"{split}/{term}"] > 0
    for metric in ("auroc", "average_precision", "f1", "precision", "recall", "threshold", "auroc/NegativeELBO"):
        assert f"val/{metric}" in results["metrics"]
        assert f"test/{metric}" in results["metrics"]
    assert results["epochs"] == 2
    assert {p.name for p in (fitted / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (fitted / "config.yaml").is_file()
    assert {p.name for p in (fitted / "pictures").iterdir()} >= {"scores_epoch001.png", "latent_epoch001.png"}


def test_tensorboard_shows_scalars_images_histograms_hparams_and_the_projector(fitted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: dict[str, set[str]] = {"scalars": set(), "images": set(), "histograms": set(), "tensors": set()}
    plugins = set()
    for file in fitted.glob("events*"):
        events = EventAccumulator(str(file)).Reload()
        for kind, names in tags.items():
            names.update(events.Tags()[kind])
        plugins.update(events.summary_metadata[tag].plugin_data.plugin_name for tag in events.summary_metadata)
    assert {"train/loss", "train/mse", "train/kl", "train/beta", "val/auroc", "val/f1"} <= tags["scalars"]
    assert {"view/scores", "view/latent"} <= tags["images"]
    assert {"view/scores_normal", "view/scores_anomalous"} <= tags["histograms"]
    assert {"hparams", "custom_scalars", "text"} <= plugins
    assert (fitted / "projector_config.pbtxt").is_file()


def test_a_run_of_so_many_steps_ends_with_pictures(run, tmp_path):
    steps = " --trainer.max_epochs null --trainer.max_steps 6 --trainer.val_check_interval 3"
    assert run(FIT + SMALL + steps + " --trainer.check_val_every_n_epoch null --test_after_fit false") == 0
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    assert {p.name for p in (folder / "pictures").iterdir()} == {"scores_epoch001.png", "latent_epoch001.png"}
    assert (folder / "projector_config.pbtxt").is_file()


def test_test_and_predict_use_the_very_detector_of_the_checkpoint(run, fitted, capsys):
    results = json.loads((fitted / "results.json").read_text())["metrics"]
    before = (fitted / "config.yaml").read_text()
    capsys.readouterr()
    assert run(f"test --ckpt_path {fitted}/checkpoints/best.ckpt --trainer.enable_progress_bar false") == 0
    printed = dict(re.findall(r"^ *(\S+) +(-?[\d.]+)$", capsys.readouterr().out, re.M))
    assert float(printed["auroc"]) == pytest.approx(results["test/auroc"], abs=1e-4)
    assert float(printed["threshold"]) == pytest.approx(results["test/threshold"], abs=1e-4)

    assert run("predict --ckpt_path best --trainer.enable_progress_bar false") == 0
    with (fitted / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    alarms = [float(row["ReconstructionError"]) > results["test/threshold"] + 1e-6 for row in rows]
    decided = [row["anomaly"] == "1" for row in rows]
    assert alarms == decided
    hits = sum(d and row["label"] == "1" for d, row in zip(decided, rows, strict=True))
    assert hits / sum(row["label"] == "1" for row in rows) == pytest.approx(results["test/recall"], abs=1e-6)
    assert (fitted / "config.yaml").read_text() == before, "looking at a run must not change it"


def test_other_scores_can_be_had_from_one_checkpoint(run, fitted, capsys):
    line = f"test --ckpt_path {fitted}/checkpoints/best.ckpt --trainer.enable_progress_bar false"
    assert run(line + " --model.init_args.scores=[NegativeLogLikelihood]") == 0
    out, err = capsys.readouterr()
    printed = dict(re.findall(r"^ *(\S+) +(-?[\d.]+)$", out, re.M))
    results = json.loads((fitted / "results.json").read_text())["metrics"]
    # with the mean squared error as likelihood it is the reconstruction error times the number of features
    assert float(printed["auroc"]) == pytest.approx(results["test/auroc"], abs=1e-4)
    assert float(printed["threshold"]) == pytest.approx(10 * results["test/threshold"], abs=1e-3)
    assert "NegativeLogLikelihood" in err


def test_the_user_is_told_who_won(run, fitted, capsys):
    line = "fit --ckpt_path last --trainer.max_epochs 3 --trainer.enable_progress_bar false"
    assert run(line + " --model.init_args.beta 3 --model.init_args.optimizer.init_args.lr 0.5") == 0
    err = capsys.readouterr().err
    assert re.search(r"model.init_args.beta is 3.0 .* and Linear in the checkpoint: the former wins", err)
    assert re.search(r"optimizer.lr is 0.5 .* and 0.001 in the checkpoint: the checkpoint wins", err)
    content = torch.load(fitted / "checkpoints/last.ckpt", weights_only=True)
    assert content["epoch"] == 2
    assert content["beta"] == 3.0
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 0.001


def test_runs_have_versions_and_an_experiment_folder(run, tmp_path):
    for _ in range(2):
        assert run(FIT + SMALL + " --test_after_fit false --experiment mine --runs elsewhere") == 0
    assert {p.name for p in (tmp_path / "elsewhere/mine").iterdir()} == {"version_0", "version_1"}
    assert "test/auroc" not in json.loads((tmp_path / "elsewhere/mine/version_1/results.json").read_text())["metrics"]


def test_clean_commands_print_no_warning(tmp_path):
    """In a process that has given none yet: each is given once."""
    fit = (FIT + SMALL + " --trainer.enable_model_summary true").format(configs=CONFIGS)
    lines = [fit, *(f"{name} --ckpt_path best --trainer.enable_progress_bar false" for name in CHECKED)]
    lines.append(fit + " --trainer.precision bf16-mixed")
    code = f"from vae_lightning.commands import main; print([main(line.split()) for line in {lines}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout.endswith("[0, 0, 0, 0, 0]\n"), done.stderr
    printed = (done.stdout + done.stderr).splitlines()
    assert [line for line in printed if re.search(r"warn|deprecat|💡|Tip:|\.py:\d+:", line, re.IGNORECASE)] == []


def test_killed_inside_an_epoch_and_resumed_it_ends_with_the_same_bits(tmp_path):
    """A run stopped by SIGKILL and resumed, against one never stopped."""
    line = (FIT + SMALL).format(
        configs=CONFIGS
    ) + " --data.init_args.batch_size 8 --model.init_args.network.dropout 0.1"
    line += " --checkpoint_every_n_steps 7 --trainer.max_epochs 3"
    assert command(tmp_path, [*line.split(), "--experiment", "undisturbed"]).returncode == 0

    last = tmp_path / "lightning_logs/killed/version_0/checkpoints/last.ckpt"
    per_epoch = len(range(0, 376, 8))  # 470 normal samples of the training part, less 47 and 47

    def in_the_second_epoch() -> bool:
        return last.exists() and torch.load(last, weights_only=True)["global_step"] > per_epoch

    kill(tmp_path, [*line.split(), "--experiment", "killed"], in_the_second_epoch)
    stopped_at = torch.load(last, weights_only=True)["global_step"]
    assert stopped_at % per_epoch != 0, "killed inside an epoch"
    assert not (last.parent.parent / "results.json").exists(), "an unfinished run does not call itself finished"

    resumed = command(tmp_path, [*line.split(), "--experiment", "killed", "--ckpt_path", "last"])
    assert resumed.returncode == 0, resumed.stderr
    assert [p.name for p in (tmp_path / "lightning_logs/killed").iterdir()] == ["version_0"]
    undisturbed = torch.load(tmp_path / "lightning_logs/undisturbed/version_0/checkpoints/last.ckpt", weights_only=True)
    continued = torch.load(last, weights_only=True)
    assert continued["global_step"] == undisturbed["global_step"] == 3 * per_epoch
    for key, value in undisturbed["state_dict"].items():
        assert torch.equal(value, continued["state_dict"][key]), key
    results = [
        json.loads((tmp_path / f"lightning_logs/{name}/version_0/results.json").read_text())
        for name in ("undisturbed", "killed")
    ]
    assert results[0]["metrics"] == results[1]["metrics"], (
        "means count what came before the kill, and the same epoch is kept"
    )
    for index, state in undisturbed["optimizer_states"][0]["state"].items():
        assert torch.equal(state["exp_avg_sq"], continued["optimizer_states"][0]["state"][index]["exp_avg_sq"])


def test_killed_between_its_last_epoch_and_its_test_it_lacks_nothing(run, fitted, capsys):
    before = json.loads((fitted / "results.json").read_text())
    (fitted / "results.json").unlink()
    assert run("fit --ckpt_path last --trainer.enable_progress_bar false") == 0
    after = json.loads((fitted / "results.json").read_text())
    assert after["metrics"] == before["metrics"]
    assert after["epochs"] == before["epochs"]
    trained = torch.load(fitted / "checkpoints/last.ckpt", weights_only=True)["record"]["seconds"]
    assert 0 < trained < after["seconds"] + 0.1


def test_two_processes_validate_as_one(run, fitted, tmp_path):
    """On the same weights; 56 normal and 12 anomalous samples do not divide evenly by batches of 5 and two ranks."""
    line = f"validate --ckpt_path {fitted}/checkpoints/best.ckpt --data.init_args.eval_batch_size 5"
    line += " --trainer.accelerator cpu --trainer.enable_progress_bar false"
    single = command(tmp_path, line.split())
    double = command(tmp_path, [*line.split(), "--trainer.devices", "2", "--trainer.strategy", "ddp_fork"])
    assert double.returncode == 0, double.stderr
    values = [dict(re.findall(r"^ *(\S+) +(-?[\d.]+)$", done.stdout, re.M)) for done in (single, double)]
    assert float(values[0]["auroc"]) == pytest.approx(float(values[1]["auroc"]), abs=1e-6)
    for name in ("average_precision", "f1", "precision", "recall", "threshold"):
        assert values[0][name] == values[1][name], name


def test_two_processes_train(tmp_path):
    line = (FIT + SMALL).format(configs=CONFIGS) + " --trainer.devices 2 --trainer.strategy ddp_fork"
    done = command(tmp_path, line.split())
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "lightning_logs/beta_vae"
    assert [p.name for p in folder.iterdir()] == ["version_0"]
    assert json.loads((folder / "version_0/results.json").read_text())["metrics"]["test/auroc"] > 0.5


WRONG = {
    "misspelt option": (FIT + " --trainer.max_epoch 3", ["--trainer.max_epoch", "max_epochs"]),
    "misspelt key": (FIT + " --model.init_args.latnt_dim 3", ["model.init_args.latnt_dim", "latent_dim"]),
    "misspelt key in a file": (FIT + " --config bad.yaml", ["bad.yaml", "latnt_dim", "latent_dim"]),
    "misspelt model": (FIT + " --model VEA", ["--model", "VEA", "VAE"]),
    "misspelt data set": (FIT + " --data MNISTT", ["--data", "MNISTT", "MNIST"]),
    "data set in lower case": (FIT + " --data mnist", ["--data", "mnist", "did you mean MNIST"]),
    "misspelt score": (FIT + " --model.init_args.scores=[Reconstruction]", ["scores", "ReconstructionError"]),
    "misspelt optimiser": (FIT + " --model.init_args.optimizer.class_path=Adm", ["optimizer", "Adm"]),
    "misspelt command": ("fitt", ["there is no command fitt", "predict"]),
    "misspelt configuration": ("fit --config beta_va", ["--config beta_va", "did you mean beta_vae?"]),
    "no command": ("", ["fit", "predict"]),
    "no config": ("fit", ["model", "--config"]),
    "wrong type": (FIT + " --model.init_args.latent_dim x", ["model.init_args.latent_dim", "x", "int"]),
    "wrong type, nested": (FIT + " --model.init_args.beta.init_args.epochs=x", ["beta.init_args.epochs", "x", "float"]),
    "wrong choice": (FIT + " --model.init_args.network.init_args.activation=Relu", ["activation", "Relu", "ReLU"]),
    "negative beta": (FIT + " --model.init_args.beta=-1", ["beta", "-1"]),
    "no such config": ("fit --config none.yaml", ["none.yaml"]),
    "config that is no YAML": ("fit --config broken.yaml", ["broken.yaml", "line 2"]),
    "score that the model cannot have": (
        "fit --config {configs}/autoencoder.yaml --model.init_args.scores=[NegativeELBO]",
        ["NegativeELBO", "Autoencoder", "posterior"],
    ),
    "no normal class": (DIGITS + " --data.init_args.normal_classes=[]", ["normal_classes", "[]", "0 to 9"]),
    "class out of range": (DIGITS + " --data.init_args.normal_classes=[11]", ["normal_classes", "[11]", "0 to 9"]),
    "no files and no network": (
        "fit --config {configs}/mnist_beta_vae.yaml --data.init_args.root=nothing",
        [
            "nothing/MNIST/raw",
            *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
            *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
            *("configs/beta_vae.yaml", "configs/digits_beta_vae.yaml"),
        ],
    ),
    "no such checkpoint": (FIT + " --ckpt_path none.ckpt", ["none.ckpt", "last"]),
    "nothing to resume": (FIT + " --ckpt_path last", ["last", "lightning_logs/beta_vae"]),
    "nothing to test": ("test --config {configs}/beta_vae.yaml", ["--ckpt_path", "test"]),
    "checkpoint that is none": (FIT + " --ckpt_path broken.yaml", ["broken.yaml", "checkpoint"]),
    "no such device": (FIT + " --trainer.accelerator tpu", ["trainer", "accelerator = tpu"]),
    "no such accelerator": (FIT + " --trainer.accelerator gppu", ["gppu", "cpu"]),
    "no such number of devices": (FIT + " --trainer.accelerator cpu --trainer.devices 0", ["trainer", "devices"]),
    "unwritable folder": (FIT + " --runs broken.yaml", ["broken.yaml", "--runs"]),
}


def test_normal_data_alone_are_trained_on_and_the_table_says_what_is_missing(run, tmp_path, capsys):
    assert run(DIGITS + " --data.init_args.normal_classes=[0,1,2,3,4,5,6,7,8,9] --trainer.max_epochs 2") == 0
    out = capsys.readouterr().out
    assert "no anomalies to measure with" in out
    assert "auroc" not in out.split("note", 1)[0]
    metrics = json.loads(next(tmp_path.rglob("results.json")).read_text())["metrics"]
    assert 0 <= metrics["test/false_alarm_rate"] < 0.2
    assert not {name for name in metrics if "auroc" in name or "f1" in name}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_one_line_exit_code_2_and_leaves_nothing(run, tmp_path, capsys, monkeypatch, name):
    line, mentions = WRONG[name]
    (tmp_path / "bad.yaml").write_text("model: {class_path: VAE, init_args: {latnt_dim: 3}}\n")
    (tmp_path / "broken.yaml").write_text("model: [\n")
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", ["http://127.0.0.1:9/"])  # where nobody listens
    before = set(tmp_path.rglob("*"))
    assert run(line) == 2
    (message,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    for mention in mentions:
        assert mention in message
    assert set(tmp_path.rglob("*")) == before


def test_bad_checkpoints(run, fitted, tmp_path, capsys):
    good = fitted / "checkpoints/best.ckpt"
    (tmp_path / "truncated.ckpt").write_bytes(good.read_bytes()[:-2000])
    before = set(tmp_path.rglob("*"))
    for line, mentions in {
        FIT + " --ckpt_path truncated.ckpt": ["truncated.ckpt"],
        f"fit --config {{configs}}/autoencoder.yaml --ckpt_path {good}": ["best.ckpt", "VAE", "Autoencoder"],
        f"{FIT} --ckpt_path {good} --model.init_args.latent_dim=4": ["best.ckpt", "encoder", "[16, 32]", "[8, 32]"],
        "test --ckpt_path truncated.ckpt": [
            "truncated.ckpt",
            "truncated or no checkpoint",
            "give another one",
        ],
    }.items():
        capsys.readouterr()
        assert run(line) == 2
        (message,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
        for mention in mentions:
            assert mention in message
    assert set(tmp_path.rglob("*")) == before


def test_a_loss_that_becomes_nan_stops_the_run_and_keeps_the_last_good_checkpoint(run, tmp_path, capsys):
    line = FIT + SMALL + " --checkpoint_every_n_steps 1 --model.init_args.optimizer.init_args.lr 1e30"
    assert run(line) == 2
    assert re.search(r"error: the training loss became (NaN|infinite) at step 1:", capsys.readouterr().err)
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 1
    assert all(value.isfinite().all() for key, value in content["state_dict"].items() if "thresholds" not in key)
    assert not (folder / "results.json").exists()


@pytest.mark.parametrize("how", ["--verbose", "JSONARGPARSE_DEBUG"])
def test_verbose_shows_the_traceback(run, capsys, monkeypatch, how):
    line = DIGITS + " --data.init_args.normal_classes=[11]"
    if how == "--verbose":
        line += " --verbose"
    else:
        monkeypatch.setenv(how, "true")
    assert run(line) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "fit ", "validate ", "test ", "predict "])
def test_help_in_full(run, capsys, command):
    with pytest.raises(SystemExit) as stop:
        run(command + "--help=all")
    assert stop.value.code == 0
    assert "usage: vae-lightning" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_short_and_names_only_what_there_is(run, capsys, command):
    text = page([command, "--help"])
    assert text is not None
    assert len(text.splitlines()) <= 58
    with pytest.raises(SystemExit):
        run(f"{command} --help=all")
    everything = capsys.readouterr().out + (predict_files.parser().format_help() if command == "predict" else "")
    for option in set(re.findall(r"--[a-z_]+(?:\.[a-z_]+)*", text)) - {"--help"}:
        known = option.partition(".init_args")[0]  # those are the class's
        assert re.search(rf"{re.escape(known)}\b", everything), option


def test_the_overview_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help=all"])
    listed = set(re.findall(r"^    (\w+)", capsys.readouterr().out.partition("Available subcommands:")[2], re.M))
    assert listed == {*COMMANDS, *STUDIES}
    overview = page(["--help"])
    assert overview is not None
    assert all(re.search(rf"^  {name} ", overview, re.M) for name in listed)


def test_the_script_finds_classes_in_the_working_directory(tmp_path, monkeypatch):
    """As ``python -m`` does: a script's own folder is on the path, the working directory is not."""
    score = "from vae_lightning.scores import NegativeELBO\n\n\nclass Mine(NegativeELBO):\n    pass\n"
    (tmp_path / "of_my_own.py").write_text(score)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    line = "vae-lightning fit --config beta_vae --model.init_args.scores [of_my_own.Mine] --trainer.fast_dev_run true"
    monkeypatch.setattr(sys, "argv", [*line.split(), "--trainer.accelerator", "cpu"])
    with pytest.raises(SystemExit) as stop:
        script()
    assert stop.value.code == 0


def test_help_imports_nothing_heavy():
    code = "import sys, vae_lightning.__main__ as m; sys.argv[1:] = ['fit', '--help']; m.run()"
    code += "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == page(["fit", "--help"])


def test_a_leaking_threshold_is_to_be_had_by_name_and_marked(run, fitted, capsys):
    """5 % of normal test samples lie above the 95th percentile of normal test samples, whatever validation says."""
    line = f"test --ckpt_path {fitted}/checkpoints/best.ckpt --trainer.enable_progress_bar false"
    assert run(line + " --model.init_args.threshold LeakingPercentile") == 0
    out = capsys.readouterr().out
    printed = dict(re.findall(r"^ *(\S+) +(-?[\d.]+)$", out, re.M))
    assert "fitted on test samples" in out
    normal, hits = 118, round(float(printed["recall"]) * 2)  # of the 120 test samples two are anomalies
    assert float(printed["precision"]) == pytest.approx(hits / (hits + round(0.05 * normal)), abs=1e-4)


@pytest.mark.parametrize(
    ("config", "wrong", "said"),
    [
        (
            "beta_vae.yaml",
            "--trainer.max_epochs -1 --trainer.max_steps 9 --trainer.callbacks+ FreezeBatchNorm",
            "which has to be set",
        ),
        ("autoencoder.yaml", "--trainer.callbacks+ Evidence", "Evidence needs a VAE, not Autoencoder"),
    ],
)
def test_what_a_callback_refuses_leaves_no_folder(run, tmp_path, capsys, config, wrong, said):
    assert run(f"fit --config {{configs}}/{config}{SMALL} {wrong}") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "lightning_logs").exists()
