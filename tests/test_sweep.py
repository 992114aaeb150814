"""Sweeps: complete and exact, the same after any kill, alone or in several processes; one line for each mistake."""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from conftest import CONFIGS, kill

from vae_lightning import files
from vae_lightning.commands import CLI
from vae_lightning.errors import UserError
from vae_lightning.studies.sweep import trials as sweep_trials
from vae_lightning.studies.sweep.pictures import heatmap
from vae_lightning.studies.sweep.plan import Plan
from vae_lightning.studies.sweep.plan_file import read
from vae_lightning.studies.sweep.points import Row, front, points
from vae_lightning.studies.sweep.storage import connect
from vae_lightning.studies.sweep.trial import Trial
from vae_lightning.studies.sweep.trials import Trials
from vae_lightning.training.quiet import be_quiet

LATENT, BETA, SEED = "model.init_args.latent_dim", "model.init_args.beta", "seed_everything"
ANNEALED = {"class_path": "Linear", "init_args": {"epochs": 1}}
GRID: dict[str, Any] = {
    "base": str(CONFIGS / "beta_vae.yaml"),
    "search": {LATENT: [2, 3], BETA: [0.5, ANNEALED]},
    "objectives": {"val/auroc": "maximize", "val/mse": "minimize"},
    "overrides": {
        "data.init_args.samples": 400,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "pictures.every_n_epochs": 100,
    },
}
RANDOM = {**GRID, "sampler": "random", "trials": 3, "search": {BETA: {"low": 0.1, "high": 10.0, "log": True}}}


def _write(folder: Path, content: dict[str, Any], name: str = "s", **changes: Any) -> str:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return f"sweep --config {name}.yaml"


def _results(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv, without what differs from run to run."""
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("seconds", "attempts")} for row in csv.DictReader(file)]


def _plan(folder: Path, **changes: Any) -> Plan:
    _write(folder, RANDOM, "plan", **changes)
    return read(Path("plan.yaml"), {}, {})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_grid_is_complete_exact_and_shown(run, here, capsys):
    assert run(_write(here, GRID)) == 0
    folder = here / "lightning_logs/s"
    rows = _results(folder)
    cells = [(row[LATENT], row[BETA]) for row in rows]
    assert cells == list(itertools.product(["2", "3"], ["0.5", "Linear(epochs=1)"]))
    for row, (latent, beta) in zip(rows, itertools.product([2, 3], [0.5, ANNEALED]), strict=True):
        (trial,) = folder.glob(f"{row['trial']}_*")  # its name goes on with what it tries
        metrics = json.loads((trial / "results.json").read_text())["metrics"]
        assert {name: float(row[name]) for name in metrics} == pytest.approx(metrics), "validation and test, all of it"
        arguments = yaml.safe_load((trial / "config.yaml").read_text())["model"]["init_args"]
        assert arguments["latent_dim"] == latent
        assert arguments["beta"] == beta or arguments["beta"]["init_args"]["epochs"] == 1
    out = capsys.readouterr().out
    assert "test/auroc" in out
    assert "Pareto" in out
    written = {path.name for path in folder.glob("*.png")}
    wanted = ("val_auroc", "val_mse", "test_auroc", "test_mse")
    assert written == {"pareto.png", "curves.png", *(f"heatmap_{name}.png" for name in wanted)}

    # a trial is an ordinary run: fit gives the same figures, and test finds its checkpoint
    line = f"fit --config {trial}/config.yaml --experiment alone --runs elsewhere"
    assert run(line) == 0
    assert json.loads((here / "elsewhere/alone/version_0/results.json").read_text())["metrics"] == metrics
    assert run(f"test --ckpt_path {trial}/checkpoints/best.ckpt --trainer.enable_progress_bar false") == 0

    # finished, it has nothing to do but to show itself again
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trial_*/**/*")}
    assert run("sweep --config s.yaml --jobs 2") == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trial_*/**/*")} == before
    assert _results(folder) == rows

    # and its name is taken
    _write(here, GRID, search={LATENT: [2, 3], BETA: [0.5, 1]})
    state = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run("sweep --config s.yaml") == 2
    (message,) = capsys.readouterr().err.splitlines()
    for mention in ("s.yaml", "study s", "another search", "--study"):
        assert mention in message
    (folder / "study.db").rename(here / "kept.db")
    assert run("sweep --config s.yaml") == 2, "the folder alone tells, too"
    assert "trial_000" in capsys.readouterr().err
    (here / "kept.db").rename(folder / "study.db")
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == state


def _states(folder: Path, name: str = "s") -> list[str]:
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/study.db")
    return sorted(trial.state.name for trial in study.trials)


def test_killed_and_started_again_nothing_is_lost_or_doubled(run, here):
    """Two processes; first the sweep itself is killed, then one of those that the next sweep has started."""
    long = {
        **GRID["overrides"],
        "trainer.max_epochs": 4,
        "data.init_args.batch_size": 8,
        "checkpoint_every_n_steps": 9,
    }
    changes = {"search": {BETA: [0.5, 2, 4]}, "objectives": {"val/auroc": "maximize"}, "overrides": long}
    line = _write(here, GRID, **changes)
    assert run(line + " --study undisturbed") == 0

    folder = here / "lightning_logs/s"

    def training() -> list[Path]:
        """Those in the first half of their 144 steps."""
        trials = [path.parent.parent for path in folder.glob("trial_*/checkpoints/last.ckpt")]
        return [trial for trial in trials if not _done(trial) and _step(trial) < 72]

    def under_way() -> bool:
        return any(map(_done, folder.glob("trial_*"))) and training() != []

    kill(here, [*line.split(), "--jobs", "2"], under_way)
    deadline = time.monotonic() + 30
    while not all(files.free(lock) for lock in (folder / ".locks").iterdir()):
        assert time.monotonic() < deadline, "its processes outlive it"
        time.sleep(0.05)
    assert "RUNNING" in _states(folder)
    finished = {
        path: path.stat().st_mtime_ns for trial in folder.glob("trial_*") if _done(trial) for path in trial.rglob("*")
    }
    stopped = next(trial for trial in folder.glob("trial_*/checkpoints/last.ckpt") if not _done(trial.parent.parent))
    stopped, step = stopped.parent.parent, _step(stopped.parent.parent)

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for child in multiprocessing.active_children():
                if _done(stopped) or _step(stopped) > step:
                    child.kill()
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert run(line + " --jobs 2") == 0
    killer.join()
    assert _states(folder).count("COMPLETE") == 3
    assert set(_states(folder)) == {"COMPLETE", "FAIL"}
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "not run again"
    assert _results(folder) == _results(here / "lightning_logs/undisturbed"), "resumed within an epoch, to the bit"


def _step(trial: Path) -> int:
    """Where its checkpoint stands."""
    return torch.load(trial / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def _done(trial: Path) -> bool:
    return (trial / "results.json").exists()


def test_a_study_may_have_any_name_that_a_folder_has(here):
    plan = _plan(here, study="{1} of β, 100 %")
    plan.folder.mkdir(parents=True)
    assert connect(plan).study_name == plan.study
    assert (plan.folder / "study.db").is_file()


def test_of_two_machines_that_want_a_slot_one_gets_it_and_a_silent_one_is_replaced(here, monkeypatch):
    plan = _plan(here, trials=2)
    plan.folder.mkdir(parents=True)
    mine, other = Trials(plan, connect(plan)), Trials(plan, connect(plan))
    other.locks = here / "elsewhere"  # locks do not reach from machine to machine
    other.locks.mkdir()

    def elsewhere() -> None:
        monkeypatch.setattr(sweep_trials, "HOST", "another")

    # the other machine is between looking and asking when this one takes the same slot
    seen = other.by_slot()[0]
    with mine.claim() as first:
        assert first is not None
        assert first.slot == 0
        elsewhere()
        assert other._ask(0, seen) is None
        with other.claim() as second:
            assert second is not None
            assert second.slot == 1
            assert second.values != first.values, "each slot draws its own numbers"
            with other.claim() as third:
                assert third is None
            assert mine.left() == [0, 1]
            monkeypatch.undo()
            monkeypatch.chdir(here)
            # silent for long, it is given to another: with the same values
            second.trial.set_user_attr("beat", time.time() - 10 * sweep_trials.SILENCE)
            with mine.claim() as again:
                assert again is not None
                assert (again.slot, again.values) == (1, second.values)
                second.tell([0.9, 9.0], metrics={})  # it was only suspended: too late
                again.tell([0.8, 8.0], metrics={})
        first.tell([0.7, 7.0], metrics={})
    assert mine.left() == []
    counted = [mine.counted(trials) for trials in mine.by_slot().values()]
    assert [trial.values for trial in counted if trial] == [[0.7, 7.0], [0.8, 8.0]]


def test_a_dead_process_is_noticed_at_once_and_a_slot_is_given_up_after_some_attempts(here):
    plan = _plan(here, trials=1, attempts=2)
    plan.folder.mkdir(parents=True)
    study = connect(plan)
    values = []
    for _ in range(2):
        trials = Trials(plan, study)
        with trials.claim() as claim:  # never told of an end, as if the process had died
            assert claim is not None
            values.append(claim.values)
            with Trials(plan, study).claim() as second:
                assert second is None, "alive as long as it holds the slot"
    assert values[0] == values[1]
    with Trials(plan, study).claim() as claim:
        assert claim is None
    assert Trials(plan, study).left() == []


def test_killed_between_training_and_results_a_trial_is_whole_again(here):
    be_quiet()
    plan = _plan(here, search={BETA: [0.5]}, sampler="grid", trials=None)
    trial = Trial(plan, None, None, 0, {BETA: 0.5})  # type: ignore[arg-type]
    whole = trial.train(CLI)
    (trial.folder / "results.json").unlink()
    assert trial.train(CLI)["metrics"] == whole["metrics"]
    trial.values = {BETA: 0.7}
    with pytest.raises(UserError, match=r"trial_000_beta=0.5 holds a trial with other values"):
        trial.train(CLI)


def test_pruning_ends_what_is_worse_than_the_median(run, here, capsys):
    """The learning rate of 0 leaves the second trial where it began."""
    rate = "model.init_args.optimizer.init_args.lr"
    line = _write(
        here,
        GRID,
        search={rate: [0.01, 1.0e-12]},
        objectives={"val/mse": "minimize"},
        overrides={**GRID["overrides"], "trainer.max_epochs": 4},
        pruning={"startup_trials": 1, "warmup_epochs": 1},
    )
    assert run(line) == 0
    good, bad = _results(here / "lightning_logs/s")
    assert (good["state"], good["epochs"], good["best"]) == ("complete", "4", "1")
    assert (bad["state"], bad["epochs"], bad["best"]) == ("pruned", "2", "0")
    assert "pruned after 2 epochs" in capsys.readouterr().out


def test_a_trial_that_fails_is_told_and_the_others_go_on(run, here, capsys):
    line = _write(here, GRID, search={"model.init_args.optimizer.init_args.lr": [1.0e30, 0.001]})
    assert run(line) == 1
    failed, good = _results(here / "lightning_logs/s")
    assert (failed["state"], good["state"]) == ("failed", "complete")
    assert "training loss became" in failed["error"]
    assert "trial 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_draws_in_its_ranges_the_same_after_a_restart(here, sampler):
    ranges = {
        BETA: {"low": 0.1, "high": 10.0, "log": True},
        LATENT: {"low": 2, "high": 8, "step": 2},
        "model.init_args.likelihood": ["MeanSquaredError", "Gaussian"],
    }

    def search(name: str, restart: bool) -> list[dict[str, Any]]:
        plan = _plan(here, study=name, sampler=sampler, trials=12, search=ranges)
        plan.folder.mkdir(parents=True)
        trials = Trials(plan, connect(plan))
        found = []
        while trials.left():
            with trials.claim() as claim:
                assert claim is not None
                found.append(claim.values)
                claim.tell([np.log(claim.values[BETA]), claim.values[LATENT]], metrics={})
            if restart:
                trials = Trials(plan, connect(plan))
        return found

    found = search("through", restart=False)
    assert search("restarted", restart=True) == found
    assert all(0.1 <= values[BETA] <= 10 and values[LATENT] in (2, 4, 6, 8) for values in found)
    assert all(isinstance(values[LATENT], int) for values in found)
    assert len({values[BETA] for values in found}) == 12


def test_seeds_repeat_points_and_are_averaged(run, here, capsys):
    line = _write(here, GRID, search={BETA: [0.5, 4], SEED: [0, 1]}, objectives={"val/auroc": "maximize"})
    assert run(line) == 0
    rows = _results(here / "lightning_logs/s")
    assert [(row[BETA], row[SEED]) for row in rows] == [("0.5", "0"), ("0.5", "1"), ("4", "0"), ("4", "1")]
    means = [np.mean([float(row["val/auroc"]) for row in rows[i : i + 2]]) for i in (0, 2)]
    spread = [np.std([float(row["val/auroc"]) for row in rows[i : i + 2]], ddof=1) for i in (0, 2)]
    out = capsys.readouterr().out
    for mean, deviation in zip(means, spread, strict=True):
        assert f"{mean:.4f} ± {deviation:.4f}" in out
    best = ["1" if mean == max(means) else "0" for mean in means for _ in range(2)]
    assert [row["best"] for row in rows] == best, "chosen by the mean, with all its seeds"


@pytest.mark.parametrize("directions", [*itertools.product(["maximize", "minimize"], repeat=2), ["minimize"] * 3])
def test_the_front_is_what_brute_force_and_optuna_find(directions):
    rng = np.random.default_rng(len(directions))
    values = rng.integers(0, 8, (40, len(directions))).astype(float)  # with ties, and points that are equal
    signs = [1 if direction == "maximize" else -1 for direction in directions]

    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        pairs = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    wanted = [not any(dominates(other, point) for other in values) for point in values]
    assert front(values, list(directions)).tolist() == wanted
    study = optuna.create_study(directions=directions)
    for point in values:
        study.add_trial(optuna.trial.create_trial(values=point.tolist()))
    assert sorted(trial.number for trial in study.best_trials) == np.flatnonzero(wanted).tolist()


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelt key": ({"search": {"model.init_args.latnt_dim": [2]}}, ["model.init_args.latnt_dim", "latent_dim"]),
    "key of nothing": ({"search": {"modle.x": [2]}}, ["modle.x"]),
    "misspelt override": ({"overrides": {"trainer.max_epoch": 3}}, ["trainer.max_epoch", "max_epochs"]),
    "value that none can have": ({"search": {BETA: [1, -1]}}, ["beta", "-1"]),
    "value of the wrong type": ({"search": {LATENT: [2, "x"]}}, [LATENT, "x", "int"]),
    "range out of bounds": ({**RANDOM, "search": {BETA: {"low": -1.0, "high": 2.0}}}, ["beta", "-1"]),
    "no grid": ({"search": {}}, ["search", "missing or empty"]),
    "empty list": ({"search": {BETA: []}}, [BETA, "empty"]),
    "value twice": ({"search": {BETA: [1, 2, 1]}}, [BETA, "twice"]),
    "no list": ({"search": {BETA: 1}}, [BETA, "1", "list"]),
    "range in a grid": ({"search": {BETA: {"low": 0.1, "high": 2}}}, [BETA, "grid", "random"]),
    "range the wrong way": ({**RANDOM, "search": {BETA: {"low": 3.0, "high": 2.0}}}, [BETA, "3.0", "2.0"]),
    "range with no number": ({**RANDOM, "search": {BETA: {"low": "1e-3", "high": 2.0}}}, [BETA, "low", "1e-3"]),
    "logarithm of 0": ({**RANDOM, "search": {BETA: {"low": 0, "high": 2.0, "log": True}}}, [BETA, "low = 0"]),
    "seed as a search": ({**RANDOM, "search": {SEED: [0, 1]}}, [SEED, "grid"]),
    "key of the sweep's": ({"overrides": {"experiment": "x"}}, ["overrides", "experiment"]),
    "key of the data's": ({"search": {"model.init_args.input_shape": [[3]]}}, ["input_shape"]),
    "searched and set": ({"overrides": {BETA: 3}}, [BETA, "both"]),
    "no base": ({"base": "nothing.yaml"}, ["base", "nothing.yaml"]),
    "sweep as base": ({"base": "s.yaml"}, ["base", "s.yaml", "sweep"]),
    "base that is wrong": ({"base": "wrong.yaml"}, ["s.yaml", "latnt_dim"]),
    "test metric": ({"objectives": {"test/auroc": "maximize"}}, ["test/auroc", "val/auroc"]),
    "unknown metric": ({"objectives": {"val/aurok": "maximize"}}, ["val/aurok", "val/auroc"]),
    "unknown metric to show": ({"show": ["val/bce"]}, ["show", "val/bce"]),
    "no direction": ({"objectives": {"val/auroc": "up"}}, ["val/auroc", "up", "maximize"]),
    "no objective": ({"objectives": {}}, ["objectives"]),
    "unknown sampler": ({"sampler": "bayes"}, ["sampler", "bayes", "tpe"]),
    "unknown number of trials": ({**RANDOM, "trials": None}, ["trials", "random"]),
    "part of a grid": ({"trials": 3}, ["trials = 3", "4"]),
    "pruning of a front": ({"pruning": "median"}, ["pruning", "single"]),
    "misspelt key of the sweep": ({"objective": {}}, ["objective", "objectives"]),
    "study in a folder": ({"study": "a/b"}, ["study", "a/b"]),
    "study that is no name": ({"study": {1: "maximize"}}, ["study", "{1: 'maximize'}"]),
    "no such folder": ({"storage": "sqlite:////nowhere/at/all.db"}, ["storage", "/nowhere/at"]),
    "no such database": ({"storage": "sqlite:///base.txt"}, ["storage", "base.txt", "not a database"]),
    "no such server": ({"storage": "nosuchsql://me:secret@127.0.0.1:9/x"}, ["storage", "nosuchsql", "127.0.0.1"]),
    "no URL": ({"storage": "here"}, ["storage", "here"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_gets_one_line_exit_code_2_and_leaves_nothing(run, here, capsys, name):
    changes, mentions = WRONG[name]
    line = _write(here, GRID, **changes)
    (here / "wrong.yaml").write_text(f"{(CONFIGS / 'beta_vae.yaml').read_text()}".replace("latent_dim", "latnt_dim"))
    (here / "base.txt").write_text("no database, but long enough to look into: " + "x" * 200)
    before = {path: path.read_bytes() for path in here.rglob("*")}
    assert run(line) == 2
    (message,) = capsys.readouterr().err.splitlines()
    for mention in ("error", *mentions):
        assert mention in message
    assert "secret" not in message
    assert {path: path.read_bytes() for path in here.rglob("*")} == before


@pytest.mark.parametrize(
    ("line", "mentions"),
    [
        ("sweep", ["--config"]),
        ("sweep --config none.yaml", ["none.yaml"]),
        ("sweep --config s.yaml --jobs 0", ["--jobs", "0"]),
        ("sweep --config s.yaml --jobs x", ["--jobs", "x"]),
        ("sweep --config s.yaml --trainer.max_epochs", ["--trainer.max_epochs", "missing"]),
        ("sweep --config s.yaml --trainer.max_epoch 3", ["max_epoch", "max_epochs"]),
        ("sweep --config s.yaml --runs s.yaml", ["s.yaml", "--runs"]),
        ("sweep --config broken.yaml", ["broken.yaml", "line 2"]),
    ],
)
def test_a_wrong_command_line(run, here, capsys, line, mentions):
    _write(here, GRID)
    (here / "broken.yaml").write_text("search: [\n")
    assert run(line) == 2
    (message,) = capsys.readouterr().err.splitlines()
    for mention in mentions:
        assert mention in message


def test_without_optuna_it_says_what_is_missing(run, here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "vae_lightning.studies.sweep")
    monkeypatch.delattr("vae_lightning.studies.sweep")
    assert run(_write(here, GRID)) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "Optuna" in message
    assert "pip install" in message


def test_help(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("sweep --help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for word in ("--jobs", "--storage", "objectives", "pruning", "search"):
        assert word in out
    with pytest.raises(SystemExit):
        run("--help")
    assert "sweep" in capsys.readouterr().out


def test_a_heatmap_of_three_keys_has_each_combination_where_its_labels_say():
    plan = read(CONFIGS / "sweeps" / "fashion_mnist_classes.yaml", {}, {})
    values = [plan.cell(slot) for slot in range(plan.trials)]
    metrics = [{"val/auroc": 1000 * c[0] + 10 * dim + beta} for c, dim, beta in (cell.values() for cell in values)]
    some: dict[str, Any] = {"epochs": None, "seconds": None, "attempts": 1, "error": ""}
    found = [Row(i, "complete", *row, **some) for i, row in enumerate(zip(values, metrics, strict=True))]
    axis = heatmap(plan, points(found), list(plan.search), "val/auroc").axes[0]
    up = [int(json.loads(tick.get_text())[0]) for tick in axis.get_yticklabels()]
    across = [[float(part) for part in tick.get_text().split(",")] for tick in axis.get_xticklabels()]
    assert len(up) == 10
    assert len(across) == 4
    wanted = [[1000 * c + 10 * dim + beta for dim, beta in across] for c in up]
    np.testing.assert_allclose(axis.images[0].get_array(), wanted)


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configurations(path):
    """Each is read, and its keys stand in its base."""
    plan = read(path, {}, {})
    assert f"vae-lightning sweep --config sweeps/{path.stem}" in path.read_text()
    base = yaml.safe_load(plan.base.read_text())
    for key in plan.search:
        node = base
        for part in key.split("."):
            node = node[part]
    wanted = {
        "fashion_mnist": {LATENT: [2, 8, 16, 32], BETA: [0.1, 1, 5, 10]},
        "fashion_mnist_classes": {
            "data.init_args.anomaly_classes": [[c] for c in range(10)],
            LATENT: [2, 32],
            BETA: [0.1, 10],
        },
        "synthetic": {
            BETA: [0, 0.5, 1, 4, {"class_path": "Linear", "init_args": {"start": 0, "stop": 1, "epochs": 30}}],
            SEED: [0, 1, 2],
        },
        "synthetic_scores": {
            "model.init_args.likelihood": [
                *("MeanSquaredError", "Gaussian"),
                {"class_path": "Gaussian", "init_args": {"variance": "predicted"}},
            ],
            SEED: [0, 1, 2],
        },
        "mnist_beta": {BETA: [0.1, 0.5, 1, 2, 4], SEED: [0, 1, 2]},
    }
    assert plan.search == wanted[path.stem]
