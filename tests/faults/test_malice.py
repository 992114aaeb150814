"""Run folders and checkpoints of somebody who means harm: nothing in them runs, is imported, or is written elsewhere.

``test_storage`` and ``test_deployment`` have the recipes, configurations and archives, each through its own loader.
Here they go through every command, and through every way in from Python.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_fuzz import outcome

import vae_lightning as vl
from vae_lightning.deployment.scorer import Scorer
from vae_lightning.detection import storage
from vae_lightning.models import IWAE, VAE, AnomalyModel, Autoencoder

COMMANDS = {  # {run} is the folder
    "test": "test --ckpt_path {run}/checkpoints/best.ckpt",
    "validate": "validate --ckpt_path {run}/checkpoints/best.ckpt",
    "predict": "predict --ckpt_path {run}/checkpoints/best.ckpt",
    "predict a file": "predict --ckpt_path {run} --input new.csv --output out.csv",
    "fit": "fit --ckpt_path {run}/checkpoints/last.ckpt --trainer.max_epochs 3",
    "compare": "compare {run}",
    "diagnose": "diagnose {run}",
    "report": "report {run}",
    "export": "export --ckpt_path {run} --output out.pt2",
    "score": "score --detector {run} --input in --output out",
}


class Payload:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch sprung",)


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in a folder with a module that is not to be imported."""
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("*latent*", "pictures"))
    (tmp_path / "trap.py").write_text(
        f"open({str(tmp_path / 'sprung')!r}, 'w').close()\nclass Trap: ...\ndef f(*a): ...\n"
    )
    (tmp_path / "trap.yaml").write_text("class_path: trap.Trap\n")
    (tmp_path / "in").mkdir()
    for name in ("new.csv", "in/new.csv"):
        rows = [",".join(f"x{i}" for i in range(10)), *[",".join("0.5" for _ in range(10))] * 3]
        (tmp_path / name).write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "run"


def assert_harmless(words: str) -> None:
    """Refused in a line, or done; nothing has sprung either way."""
    code, said, _ = outcome(words.split())
    assert code in (0, 1, 2), words
    assert code != 2 or said[-1].startswith("error: "), said
    assert code != 1 or words.startswith("score"), (words, said)  # some files could not be scored
    assert not any("Traceback" in line for line in said), said
    assert "trap" not in sys.modules
    assert not Path("sprung").exists()


TRAP, CALL = {"class_path": "trap.Trap"}, {"class_path": "os.system", "init_args": {"command": "touch sprung"}}


def pickled(run: Path) -> None:
    for file in [path for path in run.rglob("*") if path.is_file()]:
        file.write_bytes(pickle.dumps(Payload(), 2))


def pickled_by_torch(run: Path) -> None:
    for file in run.glob("checkpoints/*"):
        torch.save({**torch.load(file, weights_only=True), "hyper_parameters": Payload()}, file)


def arrays_of_objects(run: Path) -> None:
    np.savez(run / "test_scores.npz", score=np.array([Payload()], dtype=object), labels=np.array([0]))


def recipes(run: Path) -> None:
    for file in run.glob("checkpoints/*"):
        content = torch.load(file, weights_only=True)
        content["vae_lightning"]["model"]["init_args"] |= {"network": CALL, "likelihood": TRAP, "scores": [TRAP, CALL]}
        content["vae_lightning"]["trained_on"]["recipe"] = CALL
        torch.save({**content, "hyper_parameters": {"_instantiator": "os.system", "command": "touch sprung"}}, file)


def configured(key: str, value: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        content = node = yaml.safe_load((run / "config.yaml").read_text())
        *above, last = key.split(".")
        for name in above:
            node = node[name]
        node[last] = value
        (run / "config.yaml").write_text(yaml.safe_dump(content))

    return change


def tags(run: Path) -> None:
    (run / "config.yaml").write_text("model: !!python/object/apply:os.system ['touch sprung']\n")


def bomb(run: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9))]
    (run / "config.yaml").write_text("\n".join(lines))


HARM: dict[str, Callable[[Path], None]] = {
    "pickles for files": pickled,
    "a pickle in checkpoints": pickled_by_torch,
    "arrays of objects": arrays_of_objects,
    "recipes": recipes,
    "tags": tags,
    "a bomb": bomb,
    "a function as optimizer": configured("model.init_args.optimizer", {"class_path": "trap.f"}),
    "a function in the optimizer": configured("model.init_args.optimizer.init_args.lr", "trap.f"),
    "a function as scheduler": configured("model.init_args.lr_scheduler", {"class_path": "trap.f"}),
    "a module as network": configured("model.init_args.network", TRAP),
    "a name as score": configured("model.init_args.scores", ["trap.Trap"]),
    "a class as score": configured("model.init_args.scores", [TRAP, CALL]),
    "a callback": configured("trainer.callbacks", [TRAP]),
    "a callback as YAML": configured("trainer.callbacks", "[{class_path: trap.Trap}]"),
    "a logger": configured("trainer.logger", [TRAP]),
    "plugins": configured("trainer.plugins", ["trap.Trap"]),
    "dict_kwargs": configured("model.dict_kwargs", {"network": TRAP}),
    "a data module": configured("data", TRAP),
    "a file for a model": configured("model", "trap.yaml"),
    "an environment": configured("trainer.strategy", {"class_path": "trap.Trap"}),
}


@pytest.mark.parametrize("harm", HARM)
def test_no_command_runs_or_imports_anything(harm: str, run: Path) -> None:
    HARM[harm](run)
    some = ["fit", "compare"] if harm in ("arrays of objects", "tags", "a bomb") else ["fit"]
    for name in COMMANDS if harm in ("pickles for files", "recipes") else some:
        assert_harmless(COMMANDS[name].format(run=run))


WAYS: dict[str, Callable[[Path], Any]] = {
    "Detector": vl.Detector.load,
    "Scorer": Scorer,
    **{kind.__name__: kind.load_from_checkpoint for kind in (AnomalyModel, Autoencoder, VAE, IWAE)},
    "read": storage.read,
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_in_from_python_runs_or_imports_anything(way: str, run: Path) -> None:
    for harm in (recipes, pickled_by_torch, pickled):
        harm(run)
        for file in run.glob("checkpoints/*"):
            if way != "read" or harm is not recipes:  # reading alone builds nothing
                with pytest.raises(vl.UserError):
                    WAYS[way](file)
    assert "trap" not in sys.modules
    assert not Path("sprung").exists()


@pytest.mark.parametrize("link", ["checkpoints", "pictures", ".lock", "config.yaml", "results.json", "hparams.yaml"])
def test_links_lead_nothing_out_of_the_folder(link: str, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    place = run / link
    if place.is_dir():
        shutil.move(place, outside / "moved")
        place.symlink_to(outside / "moved")
    elif link == "pictures":
        place.symlink_to(outside)
    else:
        if place.exists():
            shutil.copy(place, outside / "precious")
            place.unlink()
        place.symlink_to(outside / "precious")

    def there() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}

    before = there()
    for name in ("fit", "test", "predict") if link == ".lock" else ("fit",):
        code, said, _ = outcome(COMMANDS[name].format(run=run).split())
        assert there() == before, name
        if link != "checkpoints":  # the run is then where the checkpoints are, and that is no run
            assert code == 2
            assert f"{place}: is a link out of the run's folder" in said[-1]


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil"])
def test_names_lead_nothing_out_of_the_folder(name: str, run: Path, tmp_path: Path) -> None:
    configured("experiment", name)(run)
    before = set(tmp_path.parent.rglob("evil*"))
    assert_harmless(COMMANDS["fit"].format(run=run))
    assert set(tmp_path.parent.rglob("evil*")) == before
    assert not Path("/tmp/evil").exists()


def test_a_report_shows_names_as_text(run: Path) -> None:
    script = "<script>alert(1)</script>"
    configured("model.init_args.network.class_path", script)(run)
    configured("experiment", script)(run)
    results = json.loads((run / "results.json").read_text())
    results["metrics"][f"test/{script}"] = 1.0
    (run / "results.json").write_text(json.dumps(results))
    assert_harmless(COMMANDS["report"].format(run=run))
    if (run / "report.html").exists():
        assert script not in (run / "report.html").read_text()
