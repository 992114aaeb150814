"""Files that are hostile, damaged or old: nothing in them runs, one line says what is wrong, old ones can be read."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, SMALL, script

from vae_lightning.commands import main
from vae_lightning.detection import Detector, storage
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, AnomalyModel, Autoencoder
from vae_lightning.models.networks import MLP

DATA = Path(__file__).parent / "data"
CONFIG_KEY = storage.KEY

Run = Callable[[str], int]
Recipe = dict[str, Any]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, not to be written to."""
    folder = tmp_path_factory.mktemp("original")
    line = f"fit --config {CONFIGS}/beta_vae.yaml{SMALL} --test_after_fit false"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*line.split(), "--model.init_args.network.init_args.hidden", "[8]"]) == 0
    return folder / "lightning_logs/beta_vae/version_0"


@pytest.fixture
def content(original: Path) -> dict[str, Any]:
    return torch.load(original / "checkpoints/last.ckpt", weights_only=True)


@pytest.fixture
def folder(tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder to write to; a module on the path leaves a mark when it is imported."""
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text((original / "config.yaml").read_text())
    (tmp_path / "trap.py").write_text(
        f"open({str(tmp_path / 'sprung')!r}, 'w').close()\nclass Trap: ...\ndef f(*a): ...\n"
    )
    (tmp_path / "trap.yaml").write_text("class_path: trap.Trap\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def untouched(tmp_path: Path) -> bool:
    return "trap" not in sys.modules and not (tmp_path / "sprung").exists()


def put(content: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A checkpoint whose recipe has ``value`` at ``place``, such as ``model.network``."""
    changed = copy.deepcopy(content)
    part, *keys = place.split(".")
    node = changed[CONFIG_KEY]["model"] if part == "model" else changed[CONFIG_KEY]["trained_on"]["recipe"]
    if not keys:
        node["class_path"] = value
    else:
        node["init_args"][keys[0]] = value
    return changed


TOUCH = {"class_path": "os.system", "init_args": {"command": "touch sprung"}}
TRAP = {"class_path": "trap.Trap"}

EVIL: dict[str, tuple[str, Any]] = {
    "a function for a model": ("model", "os.system"),
    "a module's class for a model": ("model", "trap.Trap"),
    "runpy for a model": ("model", "runpy.run_path"),
    "a builtin for a network": ("model.network", {"class_path": "builtins.eval", "init_args": {"source": "1/0"}}),
    "a function for a network": ("model.network", TOUCH),
    "a class for a network": ("model.network", TRAP),
    "a bare name for a network": ("model.network", "trap.Trap"),
    "YAML for a network": ("model.network", "{class_path: trap.Trap}"),
    "a file for a network": ("model.network", "trap.yaml"),
    "a path for a network": ("model.network", "./trap.yaml"),
    "one within the arguments of a known class": (
        "model.network",
        {"class_path": "vae_lightning.models.networks.MLP", "init_args": {"hidden": [TRAP]}},
    ),
    "a name within no class": ("model.network", {"init_args": {"hidden": "trap.Trap"}}),
    "other keys": (
        "model.network",
        {"class_path": "vae_lightning.models.networks.MLP", "dict_kwargs": {"x": "trap.f"}},
    ),
    "a score": ("model.scores", [TRAP]),
    "the bare name of a score": ("model.scores", ["trap.Trap"]),
    "a score in a score": (
        "model.scores",
        [{"class_path": "vae_lightning.scores.combined.Combined", "init_args": {"scores": [TRAP, TOUCH]}}],
    ),
    "a bare name in a score": (
        "model.scores",
        [{"class_path": "vae_lightning.scores.corrected.InputComplexity", "init_args": {"score": "trap.Trap"}}],
    ),
    "a threshold": ("model.threshold", {"class_path": "subprocess.run", "init_args": {"args": ["touch", "sprung"]}}),
    "the bare name of a threshold": ("model.threshold", "trap.Trap"),
    "a likelihood": ("model.likelihood", TRAP),
    "an annealing": ("model.beta", "trap.f"),
    "a preprocessing": ("model.preprocessing", "trap.Trap"),
    "an optimizer": ("model.optimizer", TRAP),
    "the bare name of an optimizer": ("model.optimizer", "trap.f"),
    "a scheduler": ("model.lr_scheduler", {"class_path": "trap.f"}),
    "a name beyond ASCII": ("model.network", "ｔｒａｐ.Trap"),
}
DATA_EVIL = {
    "a data module": ("data", "trap.Trap"),
    "a function for a data module": ("data", "os.system"),
    "anomalies from": ("data.anomalies_from", "trap.Trap"),
}


# kept as it is, and asked for only in training
UNUSED = "the bare name of an optimizer"


@pytest.mark.parametrize("what", [what for what in EVIL if what != UNUSED])
def test_nothing_in_a_recipe_is_imported_or_run(what: str, content: Any, folder: Path, tmp_path: Path) -> None:
    path = folder / "checkpoints/last.ckpt"
    torch.save(put(content, *EVIL[what]), path)
    for load in (Detector.load, AnomalyModel.load_from_checkpoint):
        with pytest.raises(UserError) as error:
            load(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    assert untouched(tmp_path)


@pytest.mark.parametrize("what", [*EVIL, *DATA_EVIL])
def test_commands_import_and_run_nothing(
    what: str, content: Any, folder: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "checkpoints/last.ckpt"
    torch.save(put(content, *(EVIL | DATA_EVIL)[what]), path)
    for command in ("test", "predict", "validate"):
        assert run(f"{command} --ckpt_path {path}") == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert "\n" not in error
        assert "--config" in error or "trust" in error
    assert untouched(tmp_path)
    assert not (folder / "predictions.csv").exists()


def test_the_same_in_a_process_of_its_own(content: Any, folder: Path, tmp_path: Path) -> None:
    """Where nothing has been imported before; the working directory is on the path there."""
    torch.save(put(content, "model.network", "trap.Trap"), folder / "checkpoints/last.ckpt")
    done = script(tmp_path, "-m", "vae_lightning", "test", "--ckpt_path", "last")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sprung").exists()


CONFIGURED: dict[str, tuple[str, Any]] = {
    "model": ("model.class_path", "trap.Trap"),
    "model as a name": ("model", "trap.Trap"),
    "model as a file": ("model", "trap.yaml"),
    "network": ("model.init_args.network", TRAP),
    "network as a name": ("model.init_args.network", "trap.Trap"),
    "network as YAML": ("model.init_args.network", "{class_path: trap.Trap}"),
    "network as a file": ("model.init_args.network", "./trap.yaml"),
    "score": ("model.init_args.scores", ["trap.Trap"]),
    "optimizer": ("model.init_args.optimizer", {"class_path": "trap.f"}),
    "optimizer as YAML": ("model.init_args.optimizer", "{class_path: trap.f}"),
    "within the optimizer": ("model.init_args.optimizer.init_args.lr", "trap.f"),
    "scheduler": (
        "model.init_args.lr_scheduler",
        {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "trap.f"}},
    ),
    "callbacks": ("trainer.callbacks", [TRAP]),
    "callbacks as a name": ("trainer.callbacks", ["trap.Trap"]),
    "callbacks as YAML": ("trainer.callbacks", "[{class_path: trap.Trap}]"),
    "logger": ("trainer.logger", TRAP),
    "logger as a name": ("trainer.logger", "trap.Trap"),
    "plugins": ("trainer.plugins", ["trap.Trap"]),
    "profiler": ("trainer.profiler", "trap.Trap"),
    "strategy": ("trainer.strategy", "trap.Trap"),
    "strategy as YAML": ("trainer.strategy", "{class_path: trap.Trap}"),
    "accelerator": ("trainer.accelerator", TRAP),
    "trainer as a file": ("trainer", "trap.yaml"),
    "data": ("data.class_path", "trap.Trap"),
    "another file": ("config", "trap.yaml"),
    "another checkpoint": ("ckpt_path", "trap.ckpt"),
}


@pytest.mark.parametrize("what", CONFIGURED)
def test_a_configuration_beside_a_checkpoint_is_not_believed(
    what: str, content: Any, folder: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place, value = CONFIGURED[what]
    torch.save(content, folder / "checkpoints/last.ckpt")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    *path, last = place.split(".")
    node = settings
    for key in path:
        node = node[key]
    node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert run(f"fit --ckpt_path {folder}/checkpoints/last.ckpt --trainer.max_epochs 3") == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "config.yaml" in error
    assert "--config" in error
    assert untouched(tmp_path)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch sprung']", "!!python/name:trap.Trap", "!!python/module:trap"]
)
def test_yaml_tags(tag: str, content: Any, folder: Path, tmp_path: Path, run: Run, capsys: Any) -> None:
    torch.save(content, folder / "checkpoints/last.ckpt")
    (folder / "config.yaml").write_text(f"model: {tag}\n")
    assert run(f"fit --ckpt_path {folder}/checkpoints/last.ckpt") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert untouched(tmp_path)


class Bomb:
    def __reduce__(self) -> Any:
        return exec, ("open('sprung', 'w').close()",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value))])
@pytest.mark.parametrize("place", ["whole", "state_dict", "recipe", "callbacks"])
def test_pickles(place: str, save: Any, content: Any, folder: Path, tmp_path: Path, run: Run, capsys: Any) -> None:
    if place == "whole":
        content = Bomb()
    elif place == "recipe":
        content[CONFIG_KEY]["model"]["init_args"]["network"] = Bomb()
    else:
        content[place]["bomb"] = Bomb()
    path = folder / "checkpoints/last.ckpt"
    save(content, path)
    for load in (Detector.load, AnomalyModel.load_from_checkpoint):
        with pytest.raises(UserError, match="no checkpoint"):
            load(path)
    for command in ("fit", "test", "predict", "validate"):
        assert run(f"{command} --ckpt_path {path}") == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert untouched(tmp_path)


def test_what_lightning_would_call_is_passed_over(content: Any, folder: Path, tmp_path: Path, run: Run) -> None:
    """Its load_from_checkpoint imports ``_instantiator`` and ``_class_path`` and calls them."""
    path = folder / "checkpoints/last.ckpt"
    hyper = {"_instantiator": "trap.f", "_class_path": "trap.Trap", "command": "touch sprung"}
    torch.save({**content, "hyper_parameters": hyper, "hparams_name": "kwargs"}, path)
    before = Detector.load(path).score(np.zeros((3, 10)))
    assert np.isfinite(before).all()
    assert run(f"test --ckpt_path {path} --trainer.enable_progress_bar false") == 0
    old = {key: value for key, value in content.items() if key != CONFIG_KEY}
    torch.save({**old, "hyper_parameters": hyper}, path)
    for load in (Detector.load, VAE.load_from_checkpoint):
        with pytest.raises(UserError, match=r"trap\.Trap is not a class"):
            load(path)
    assert untouched(tmp_path)


def test_a_part_of_a_model_is_no_model(content: Any, folder: Path) -> None:
    for part in ("vae_lightning.scores.reconstruction.ReconstructionError", "vae_lightning.models.networks.MLP"):
        changed = put(content, "model", part)
        changed["state_dict"], changed[CONFIG_KEY]["model"]["init_args"] = {}, {}
        torch.save(changed, folder / "checkpoints/last.ckpt")
        with pytest.raises(UserError, match="is not a model"):
            Detector.load(folder)
    torch.save(content, folder / "checkpoints/last.ckpt")
    with pytest.raises(UserError, match="holds a VAE, which is no Odd"):
        type("Odd", (Autoencoder,), {}).load_from_checkpoint(folder / "checkpoints/last.ckpt")
    with pytest.raises(TypeError):
        VAE.load_from_checkpoint(folder / "checkpoints/last.ckpt", beta=3.0)  # type: ignore[call-arg]


# Damaged, foreign, of another version


def broken(content: dict[str, Any]) -> dict[str, Any]:
    """What else a file may hold, by what is wrong with it."""
    about = content[CONFIG_KEY]
    state = content["state_dict"]
    weight = next(key for key in state if key.startswith("encoder"))

    def told(**changes: Any) -> dict[str, Any]:
        return {**content, CONFIG_KEY: {**about, **changes}}

    return {
        "a list": [1, 2],
        "a tensor": torch.zeros(3),
        "nothing": {},
        "weights alone": state,
        "another's": {"state_dict": state, "hyper_parameters": {"lr": 1}, "epoch": 1},
        "another's hyperparameters": {"state_dict": state, "hyper_parameters": None},
        "no weights": {key: value for key, value in content.items() if key != "state_dict"},
        "weights that are none": {**content, "state_dict": {"a": 1}},
        "no recipe": told(model=None),
        "a recipe of no class": told(model={"init_args": {}}),
        "a recipe without arguments": told(model={"class_path": about["model"]["class_path"]}),
        "a recipe of a list": told(model={**about["model"], "init_args": []}),
        "no word on the data": told(trained_on=None),
        "no format": {**content, CONFIG_KEY: {}},
        "a missing weight": {**content, "state_dict": {k: v for k, v in state.items() if k != weight}},
        "a weight too many": {**content, "state_dict": {**state, "more": torch.zeros(1)}},
        "a weight of another shape": {**content, "state_dict": {**state, weight: torch.zeros(7, 7)}},
        "an argument too many": told(model={**about["model"], "init_args": {**about["model"]["init_args"], "x": 1}}),
        "an argument out of range": put(content, "model.latent_dim", -3),
        "an argument of another kind": put(content, "model.latent_dim", "many"),
    }


WRONG = list(
    broken(
        {
            CONFIG_KEY: {"model": {"class_path": "x", "init_args": {}}, "trained_on": {"recipe": {"init_args": {}}}},
            "state_dict": {"encoder": torch.zeros(1)},
        }
    )
)


@pytest.mark.parametrize("what", WRONG)
def test_a_damaged_or_foreign_file_is_one_line(what: str, content: Any, folder: Path, run: Run, capsys: Any) -> None:
    path = folder / "checkpoints/last.ckpt"
    torch.save(broken(content)[what], path)
    for load in (Detector.load, AnomalyModel.load_from_checkpoint):
        with pytest.raises(UserError) as error:
            load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    for command in ("test", "predict"):
        assert run(f"{command} --ckpt_path {path}") == 2, what
        assert capsys.readouterr().err.count("\n") == 1


def test_bytes_cut_off_or_flipped(content: Any, folder: Path) -> None:
    path = folder / "checkpoints/last.ckpt"
    torch.save(content, path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated or no checkpoint"):
            Detector.load(path)
    said = []
    for _ in range(60):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 20):
            changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            Detector.load(path)  # a weight's own bits may have changed: no format can tell
        except UserError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in message for message in said)


def test_paths_that_are_no_file(tmp_path: Path, original: Path) -> None:
    for path, said in (
        (tmp_path / "nowhere.ckpt", "there is no such file"),
        (tmp_path, "there is no checkpoints/best.ckpt"),
        (CONFIGS / "beta_vae.yaml", "truncated or no checkpoint"),
    ):
        with pytest.raises(UserError, match=said):
            Detector.load(path)
    with pytest.raises(UserError, match="which = lats is neither best nor last"):
        Detector.load(original, "lats")


def test_a_later_format_says_who_wrote_it_and_what_to_do(content: Any, folder: Path, run: Run, capsys: Any) -> None:
    path = folder / "checkpoints/last.ckpt"
    content[CONFIG_KEY] |= {"format": storage.FORMAT + 1, "versions": {"vae_lightning": "7.5.0"}}
    torch.save(content, path)
    with pytest.raises(UserError, match=r"written by vae_lightning 7\.5\.0 in format 3.*install that version"):
        Detector.load(path)
    content[CONFIG_KEY]["versions"] = None
    torch.save(content, path)
    assert run(f"test --ckpt_path {path}") == 2
    assert "another version" in capsys.readouterr().err


def test_a_file_is_written_whole_and_others_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file.ckpt"
    storage.write({"a": torch.ones(2)}, path)
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode

    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(UserError, match=r"cannot be written .*disk full.*: the previous file is intact"):
        storage.write({"a": torch.zeros(2)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["file.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.ones(2))


def test_loading_draws_no_random_number(original: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Detector.load(original)
    assert torch.equal(torch.rand(2), expected)


def test_a_detectors_own_file_is_tested_and_not_resumed(original: Path, run: Run, tmp_path: Path, capsys: Any) -> None:
    """It has no state of a training."""
    Detector.load(original).save(tmp_path / "mine.ckpt")
    assert run("predict --ckpt_path mine.ckpt --trainer.enable_progress_bar false") == 0
    assert run("test --ckpt_path mine.ckpt --trainer.enable_progress_bar false") == 0
    capsys.readouterr()
    line = f"fit --ckpt_path mine.ckpt --config {CONFIGS}/beta_vae.yaml{SMALL}"
    assert run(line + " --model.init_args.network.init_args.hidden=[8]") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "mine.ckpt: holds a detector, and no training" in error


# Checkpoints of version 0.1, written by it; beside each are raw test samples and the scores that it gave them


@pytest.mark.parametrize("kind", ["table", "images"])
def test_a_checkpoint_of_version_0_1(kind: str, tmp_path: Path) -> None:
    path = DATA / f"version_0_1_{kind}.ckpt"
    detector = Detector.load(path)
    with np.load(DATA / f"version_0_1_{kind}.npz") as file:
        raw, expected = file["raw"], {name: file[name] for name in detector.names}
    assert detector.names == ["ReconstructionError", "NegativeELBO"]
    with pytest.raises(UserError, match=r"not calibrated.*Detector\.calibrate with normal samples"):
        detector(raw)
    with pytest.raises(UserError, match="not calibrated"):
        detector.save(tmp_path / "new.ckpt")
    assert "not calibrated" in repr(detector)
    detector.calibrate(raw[:30])
    detector.save(tmp_path / "new.ckpt")
    for made in (detector, Detector.load(tmp_path / "new.ckpt")):
        answer = made(raw)
        for name, scores in expected.items():
            np.testing.assert_allclose(answer.each[name], scores, rtol=1e-6, err_msg=name)


def test_the_command_line_says_what_an_old_checkpoint_lacks(run: Run, capsys: Any) -> None:
    old = DATA / "version_0_1_table.ckpt"
    assert run(f"test --ckpt_path {old}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "does not say which data set it was trained on: give --config" in error
    line = f"test --ckpt_path {old} --config {CONFIGS}/beta_vae.yaml --data.init_args.samples 600"
    line += " --model.init_args.network.init_args.hidden=[8] --model.init_args.latent_dim 3"
    assert run(line + " --trainer.enable_progress_bar false") == 0
    assert "auroc" in capsys.readouterr().out


def test_what_is_saved_is_what_was_built(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = VAE([4], MLP([3]), 2, preprocessing=None)
    with pytest.raises(UserError, match="not calibrated"):
        model.detector.save(tmp_path / "x.ckpt")
    assert not (tmp_path / "x.ckpt").exists()
