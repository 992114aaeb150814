"""Training in one call: a detector of the best epoch, reproducible, with nothing written and nothing said."""

import copy
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import environment
from lightning.pytorch import Callback

import vae_lightning as vl
from vae_lightning.models.networks import MLP

RNG = np.random.default_rng(0)
NORMALS = (RNG.normal(size=(400, 3)) @ RNG.normal(size=(3, 6)) + 0.1 * RNG.normal(size=(400, 6))).astype(np.float32)
STRANGE = RNG.normal(size=(60, 6)).astype(np.float32) * 3
ROWS = np.concatenate([NORMALS, STRANGE])
LABELS = np.repeat([0, 1], [400, 60])


def model(**kwargs: Any) -> vl.VAE:
    return vl.VAE([6], MLP([16]), 3, **kwargs)


def data(**kwargs: Any) -> vl.Arrays:
    return vl.Arrays(ROWS, LABELS, batch_size=32, **kwargs)


def fit(net: Any = None, rows: Any = None, **kwargs: Any) -> vl.Run:
    given: dict[str, Any] = {"max_epochs": 4, "verbose": False, "device": "cpu", **kwargs}
    return vl.fit(model() if net is None else net, data() if rows is None else rows, **given)


def same(a: Any, b: Any) -> bool:
    states = a.detector.model.state_dict(), b.detector.model.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_run_has_a_detector_and_figures() -> None:
    run = fit()
    assert run.epochs == 4
    assert run.seconds > 0
    assert run.folder is None
    assert {"train/loss", "val/auroc", "val/objective", "test/auroc", "test/loss"} <= run.metrics.keys()
    assert all(type(value) is float for value in run.metrics.values())
    assert run.metrics["test/auroc"] > 0.9
    tested = run.test()
    assert tested == {name: value for name, value in run.metrics.items() if name.startswith("test/")}
    assert run.detector.calibrated
    assert not run.detector.model.training
    assert run.test(vl.Arrays(NORMALS, test=STRANGE, test_labels=np.ones(60)))["test/recall"] > 0.5
    assert "4 epochs" in repr(run)


def test_it_does_without_a_test_part() -> None:
    run = fit(rows=data(test_fraction=0))
    assert not any(name.startswith("test/") for name in run.metrics)
    with pytest.raises(vl.UserError, match="test split is empty"):
        run.test()


def test_the_same_seed_gives_the_same_run_to_the_bit() -> None:
    first, second, other = fit(), fit(), fit(seed=1)
    assert first.metrics == second.metrics
    assert same(first, second)
    assert not same(first, other)


def test_random_state_of_the_caller_is_left_as_it_was() -> None:
    net, rows = model(), data()
    python, numpy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    environment = dict(os.environ)
    run = fit(net, rows)
    run.test()
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(os.environ) == environment


def test_a_trained_model_goes_on_from_its_weights() -> None:
    net = model()
    first = fit(net)
    assert same(first, fit())
    before = copy.deepcopy(first.detector.model.state_dict())
    run = fit(net, max_epochs=1)
    assert run.metrics["train/loss"] < fit(max_epochs=1).metrics["train/loss"]
    assert torch.equal(run.detector.model.preprocessing.mean, before["preprocessing.mean"])
    given = model()  # weights that someone has put in are no drawn ones
    with torch.no_grad():
        next(given.parameters()).fill_(0.1)
    assert not same(fit(given, max_epochs=1), fit(max_epochs=1))


class Objectives(Callback):
    def __init__(self) -> None:
        self.found: list[tuple[float, dict[str, torch.Tensor]]] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        value = trainer.callback_metrics["val/objective"].item()
        self.found.append((value, copy.deepcopy(pl_module.state_dict())))


def test_the_best_epoch_is_kept_with_its_scores_and_thresholds() -> None:
    seen = Objectives()
    unsteady = model(optimizer=partial(torch.optim.Adam, lr=0.3), scores=[vl.scores.Mahalanobis()])
    run = fit(unsteady, max_epochs=6, callbacks=[seen])
    values = [value for value, _ in seen.found]
    best = values.index(min(values))
    assert best != len(values) - 1, "the last epoch is the best one: nothing is tested"
    assert all(torch.equal(v, seen.found[best][1][k]) for k, v in run.detector.model.state_dict().items())


def test_a_folder_gets_what_the_command_writes(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    run = fit(folder=folder)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (folder / "results.json").is_file()
    assert list(folder.glob("events.out.tfevents.*"))
    assert same(run, fit())
    loaded = vl.Detector.load(folder)
    assert np.array_equal(loaded(ROWS).p_value, run.detector(ROWS).p_value)
    run.test(vl.Arrays(NORMALS, test=STRANGE[:5]))
    assert len(np.load(folder / "test_scores.npz")["labels"]) == 92  # still those of its own data
    with pytest.raises(vl.UserError, match="already holds a run"):
        fit(folder=folder)


def test_the_detector_can_be_pickled_and_copied() -> None:
    run = fit(model(optimizer=partial(torch.optim.Adam, lr=1e-3)))
    for other in (pickle.loads(pickle.dumps(run.detector)), copy.deepcopy(run.detector)):
        assert np.array_equal(other.score(ROWS), run.detector.score(ROWS))


def test_a_quiet_run_says_and_writes_nothing(tmp_path: Path) -> None:
    script = (
        "import numpy as np, vae_lightning as vl\n"
        "x = np.random.default_rng(0).normal(size=(300, 4))\n"
        "run = vl.fit(vl.VAE([4]), vl.Arrays(x), max_epochs=2, verbose=False)\n"
        "run.test()\n"
        "vl.VAEDetector(max_epochs=2).fit(x).predict(x)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_reached_is_said_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(rows=vl.Arrays(NORMALS[:40]))
    assert ["19 are needed" in str(warning.message) for warning in caught] == [True]


class Interrupt(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler, which a shell's background job does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_model_has_the_best_weights_so_far() -> None:
    net = model()
    with pytest.raises(KeyboardInterrupt):
        fit(net, callbacks=Interrupt())
    assert net.detector.calibrated
    with pytest.raises(KeyboardInterrupt):  # it can be interrupted again
        os.kill(os.getpid(), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"net": torch.nn.Linear(2, 2)}, "model is a Linear"),
        ({"rows": NORMALS}, r"give Arrays\(x\)"),
        ({"rows": vl.Arrays(NORMALS[:, :5])}, r"takes \[6\], Arrays has \[5\]"),
        ({"max_epochs": 0}, "max_epochs = 0"),
        ({"max_epochs": -1}, "max_epochs = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**32}, "seed"),
        ({"max_epoch": 3}, "max_epoch"),
        ({"device": "tpu"}, "device = tpu"),
        ({"accelerator": "cpu"}, "both given"),
        ({"precision": "7"}, "[Pp]recision"),
        ({"rows": vl.Arrays(NORMALS[:3])}, "too few"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(vl.UserError, match=message):
        fit(folder=tmp_path / "run", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_every_public_name_is_there() -> None:
    for name in vl.__all__:
        assert getattr(vl, name) is not None
    assert set(vl.__all__) <= set(dir(vl))
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = vl.nothing_of_that_name
