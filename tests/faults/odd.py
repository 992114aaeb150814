"""Odd input, drawn from a seed: command lines, configurations, checkpoints, tables, finished runs, sweeps."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from conftest import CONFIGS

Argv = list[str]

ODD = [
    *("-1", "0", "1", "2", "1.5", "1e-7", "1e30", "nan", "inf", "-inf", "1e400", str(2**32), str(2**64), str(10**12)),
    *("null", "true", "x", "''", "[]", "{}", "[1", "[null]", "[0]", "[-1]", "[1, [2]]", "{a: 1}", "{1: 2}", "*a"),
    *("!!python/name:os.system", "/", "..", "/etc/passwd", "é", "x" * 300, "{class_path: VAE}", "{class_path: 3}"),
    *(
        "os.system",
        "torch.nn.Linear",
        "AnomalyModel",
        "Score",
        "{class_path: os.system, init_args: {command: touch x}}",
    ),
]
OPTIONS: dict[str, list[str]] = {  # and what is odd for each of them alone
    "seed_everything": ["false"],
    "experiment": [".", "a/b", "../x", "/tmp"],
    "runs": ["/proc", "/dev/null/x", "/etc/passwd"],
    "ckpt_path": ["last", "best", "none.ckpt", "/dev/zero", "/proc/self/mem", "."],
    "config": ["/proc/self/mem", "/dev/null", "/bin/ls", "none.yaml", "."],
    "checkpoint_every_n_steps": [],
    "test_after_fit": [],
    "pictures": [],
    "pictures.every_n_epochs": [],
    "pictures.columns": [],
    "pictures.max_points": [],
    "trainer": [],
    "trainer.accumulate_grad_batches": [],
    "trainer.callbacks": ["[EarlyStopping]", "[x]", "EarlyStopping"],
    "trainer.check_val_every_n_epoch": [],
    "trainer.devices": ["1000", "[5]"],
    "trainer.gradient_clip_algorithm": ["value"],
    "trainer.gradient_clip_val": [],
    "trainer.limit_train_batches": [],
    "trainer.limit_val_batches": [],
    "trainer.logger": ["CSVLogger", "false"],
    "trainer.max_epochs": ["-2"],
    "trainer.max_time": ["00:00:00:00", "1"],
    "trainer.overfit_batches": [],
    "trainer.precision": ["64-true", "16-true", "bf16-true", "bf16-mixed", "7"],
    "trainer.profiler": ["simple"],
    "trainer.strategy": ["fsdp", "deepspeed", "ddp_spawn", "dp", "single_device"],
    "trainer.val_check_interval": ["1000000"],
    "model": ["VAE", "Autoencoder"],
    "model.init_args.beta": ["Linear", "Annealing"],
    "model.init_args.latent_dim": [],
    "model.init_args.likelihood": ["Gaussian", "Likelihood", "Bernoulli"],
    "model.init_args.lr_scheduler": ["torch.optim.lr_scheduler.StepLR", "torch.optim.lr_scheduler.LambdaLR"],
    "model.init_args.network": ["Network", "Conv"],
    "model.init_args.network.init_args.activation": ["Relu"],
    "model.init_args.network.init_args.dropout": [],
    "model.init_args.network.init_args.hidden": [],
    "model.init_args.optimizer": ["torch.optim.SparseAdam", "torch.optim.Optimizer", "torch.optim.LBFGS"],
    "model.init_args.optimizer.init_args.betas": ["[2, 2]", "[0.9]"],
    "model.init_args.optimizer.init_args.lr": [],
    "model.init_args.optimizer.init_args.weight_decay": [],
    "model.init_args.scores": ["[ReconstructionError, ReconstructionError]", "[Score]", "ReconstructionError"],
    "model.init_args.threshold": ["Threshold", "Conformal"],
    "model.init_args.threshold.init_args.percentile": ["101"],
    "data": ["AnomalyDataModule", "Digits", "Table", "MNISTT"],
    "data.init_args.anomaly_fraction": [],
    "data.init_args.batch_size": [],
    "data.init_args.calibration_fraction": [],
    "data.init_args.contamination": [],
    "data.init_args.normal_classes": ["[7]"],
    "data.init_args.num_workers": ["1000"],
    "data.init_args.samples": [],
    "data.init_args.seed": [],
    "data.init_args.val_fraction": [],
    "foo": [],
}
FIT = [
    *("fit", "--config", f"{CONFIGS}/beta_vae.yaml", "--data.init_args.samples", "300", "--trainer.max_epochs", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false", "--pictures.every_n_epochs", "100"),
]


def options(draw: random.Random, folder: Path) -> Argv:
    """``fit`` with an odd option or two, mostly as a development run: what is right is then soon over."""
    words = [*FIT, *(["--trainer.fast_dev_run", "true"] if draw.random() < 0.9 else [])]
    for _ in range(draw.choice([1, 1, 2])):
        key = draw.choice(list(OPTIONS))
        words += [f"--{key}", draw.choice([*OPTIONS[key] * 3, *ODD])]
    return words


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container within, with each of its keys."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in inner] + [place for _, item in inner for place in _places(item)]


def _edited(value: Any, draw: random.Random, new: list[Any]) -> Any:
    """One place within changed, left out, or given another name."""
    value = copy.deepcopy(value)
    container, key = draw.choice(_places(value))
    kind = draw.choice(["value", "value", "value", "gone", "name"])
    if kind == "value":
        container[key] = draw.choice(new)
    elif kind == "gone" or isinstance(container, list):
        del container[key]
    else:
        container[draw.choice([f"{key}x", 1, "class_path", "init_args"])] = container.pop(key)
    return value


def _odd_values() -> list[Any]:
    return [yaml.safe_load(text) for text in ODD if text not in ("[1", "*a") and "!!" not in text]


def _damaged(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, a stretch taken out, or doubled."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at, n = draw.randrange(len(found) + 1), draw.choice([1, 1, 4, 50])
        kind = draw.choice(["byte", "gone", "again"])
        if kind == "byte":
            found[at : at + 1] = bytes([draw.choice(b"\0\xff{}[]:,;*&!-\"'\n\t 9aeN")])
        else:
            found[at : at + n] = b"" if kind == "gone" else found[at : at + n] * 2
    return bytes(found)


BOMBS = [
    "a: &a [x, x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)).replace("*a0", "*a"),
    "a: &a [*a]\n",
    "model: &a {b: *a}\n",
    "[" * 1500 + "]" * 1500,
    "- " * 1500 + "x",
    "x: " + "{a: " * 1500 + "1" + "}" * 1500,
]


def configs(draw: random.Random, folder: Path) -> Argv:
    """``fit`` with a configuration in which something is odd."""
    text = (CONFIGS / "beta_vae.yaml").read_text()
    kind = draw.choice(["edit", "edit", "edit", "bytes", "bomb"])
    content = yaml.safe_load(text)
    content["trainer"] = {"max_epochs": 1, "fast_dev_run": True, "accelerator": "cpu", "enable_progress_bar": False}
    content["data"]["init_args"]["samples"] = 300
    if kind == "edit":
        for _ in range(draw.choice([1, 1, 2])):
            content = _edited(content, draw, _odd_values())
    data = yaml.safe_dump(content).encode()
    if kind == "bytes":
        data = _damaged(data, draw)
    (folder / "odd.yaml").write_bytes(draw.choice(BOMBS).encode() if kind == "bomb" else data)
    # whatever was left out, a run is short
    return ["fit", "--config", "odd.yaml", "--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]


def checkpoint(draw: random.Random, content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint in which something is odd that a detector is made of."""
    content = {key: content[key] for key in ("state_dict", "vae_lightning", "epoch", "global_step")}
    odd = [None, -1, 1e30, float("nan"), "x", [], {}, torch.zeros(0), torch.full((3,), torch.nan), 2**70, True]
    kind = draw.choice(["recipe", "weights", "weights", "top"])
    if kind == "recipe":
        about = _edited(
            content["vae_lightning"], draw, [*odd, {"class_path": "os.system", "init_args": {"command": ""}}]
        )
        return {**content, "vae_lightning": about}
    if kind == "top":
        return _edited(content, draw, odd)
    state = dict(content["state_dict"])
    key = draw.choice([key for key, value in state.items() if value.numel()])
    new = [
        torch.full_like(state[key], torch.nan),
        state[key].flatten()[:0],
        state[key][None],
        state[key].double(),
        "x",
        None,
    ]
    state[key] = draw.choice([*new, torch.full_like(state[key], torch.inf), state[key].to(torch.complex64)])
    if draw.random() < 0.3:
        del state[key]
    return {**content, "state_dict": state}


def tables(draw: random.Random, folder: Path) -> Argv:
    """``predict`` of a file in which something is odd."""
    rows = np.random.default_rng(0).normal(size=(20, 10))
    kind = draw.choice(["csv", "csv", "npy", "npz", "parquet"])
    if kind == "csv":
        data = "\n".join([",".join(f"x{i}" for i in range(10)), *(",".join(map(str, row)) for row in rows)]).encode()
    else:
        buffer = io.BytesIO()
        dtype = draw.choice(["f8", "f4", "i8", "U3", "c16", "O", "?"])
        array = rows[:, : draw.choice([10, 10, 9, 1])].astype(dtype)
        array = draw.choice([array, array, array[:0], array[0], array[None]])
        np.save(buffer, array) if kind == "npy" else np.savez(buffer, X=array)
        data = buffer.getvalue() if kind != "parquet" else b"PAR1" + buffer.getvalue() + b"PAR1"
    if draw.random() < 0.8:
        data = _damaged(data, draw)
    name = f"odd.{kind}"
    (folder / name).write_bytes(draw.choice([data] * 9 + [b""]))
    output = draw.choice(["out.csv"] * 8 + ["out.xyz", "no/such/out.csv", "/proc/out.csv"])
    return ["predict", "--ckpt_path", "{run}/checkpoints/best.ckpt", "--input", name, "--output", output]


def finished(draw: random.Random, folder: Path, run: Path) -> Argv:
    """``compare`` of a run in which a file is odd."""
    shutil.copytree(run, folder / "odd", ignore=shutil.ignore_patterns("checkpoints", "pictures", "*latent*"))
    odd: list[Any] = [None, "x", [], {}, True, -1, float("inf"), float("nan"), 10**400, "9" * 400, [[1]]]
    kind = draw.choice(["results", "results", "config", "scores", "events"])
    file = (
        folder / "odd" / {"results": "results.json", "config": "config.yaml", "scores": "test_scores.npz"}.get(kind, "")
    )
    if kind == "events":
        file = next((folder / "odd").glob("events*"))
    if kind == "results" and draw.random() < 0.7:
        file.write_text(json.dumps(_edited(json.loads(file.read_text()), draw, odd)))
    elif kind == "config" and draw.random() < 0.7:
        file.write_text(yaml.safe_dump(_edited(yaml.safe_load(file.read_text()), draw, odd[:6])))
    elif kind == "scores" and draw.random() < 0.7:
        labels = draw.choice([np.zeros(5), np.arange(5), np.array(["x"]), np.zeros((2, 2)), np.array([0, 1, 0, 1, 1])])
        scores = draw.choice([np.zeros(5), np.full(5, np.nan), np.zeros((5, 2)), np.zeros(4), np.array(["x"] * 5)])
        np.savez(file, score=scores, labels=labels)
    else:
        file.write_bytes(_damaged(file.read_bytes(), draw))
    return ["compare", "odd", str(run), "--out", "comparison"]


def sweeps(draw: random.Random, folder: Path) -> Argv:
    """A sweep whose file is odd, or a benchmark or another command with odd arguments."""
    if draw.random() < 0.4:
        command = draw.choice(
            ["sweep", "benchmark", "compare", "diagnose", "report", "export", "score", "test", "validate"]
        )
        names = [
            "--config",
            "--foo",
            "--jobs",
            "--seeds",
            "--study",
            "--ckpt_path",
            "--output",
            "--input",
            "--detector",
        ]
        words = [draw.choice([*names, *ODD, "/proc/self/mem", "/dev/null"]) for _ in range(draw.randint(1, 4))]
        return [command, *words]
    content: dict[str, Any] = {
        "base": f"{CONFIGS}/beta_vae.yaml",
        "search": {"model.init_args.beta": [0.5, 1], "seed_everything": [0]},
        "objectives": {"val/auroc": "maximize"},
        "overrides": {"trainer.max_epochs": 1},
        "study": "s",
    }
    odd = [*_odd_values(), {1: "maximize"}, {"low": 1, "high": 10**400}, {"low": 2, "high": 1}, ["x", "x"]]
    content = _edited(content, draw, odd)
    content["search"] = content.get("search") if draw.random() < 0.3 else {**_dict(content.get("search")), "foo": [1]}
    data = yaml.safe_dump(content).encode()
    (folder / "odd.yaml").write_bytes(_damaged(data, draw) if draw.random() < 0.2 else data)
    return ["sweep", "--config", "odd.yaml"]


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
