"""Trials trained together are what they come to alone; nothing of a group is lost or done twice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from conftest import CONFIGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vae_lightning import Arrays, fit
from vae_lightning.commands import CLI, main
from vae_lightning.models import IWAE, VAE, AnomalyModel, Autoencoder
from vae_lightning.models.annealing import Linear
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.studies.sweep.groups import ledger, plan_groups
from vae_lightning.studies.sweep.plan import Plan
from vae_lightning.studies.sweep.plan_file import read
from vae_lightning.studies.sweep.storage import connect
from vae_lightning.studies.sweep.trials import Trials
from vae_lightning.studies.tasks import attempt
from vae_lightning.training import runs
from vae_lightning.training.batched import Batched
from vae_lightning.training.quiet import be_quiet
from vae_lightning.training.runs import write_results
from vae_lightning.training.trainer import Trainer

LATENT, BETA, SEED = "model.init_args.latent_dim", "model.init_args.beta", "seed_everything"
RATE = "model.init_args.optimizer.init_args.lr"
ANNEALED = {"class_path": "Linear", "init_args": {"epochs": 1}}
SWEEP: dict[str, Any] = {
    "base": str(CONFIGS / "beta_vae.yaml"),
    "search": {BETA: [2, 1, ANNEALED], RATE: [0.001, 0.003], SEED: [3, 0]},
    "objectives": {"val/auroc": "maximize"},
    "overrides": {"data.init_args.samples": 400, "trainer.max_epochs": 2, "trainer.accelerator": "cpu"},
}


def written(folder: Path, **changes: Any) -> str:
    (folder / "s.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
    return "sweep --config s.yaml --batch"


def metrics(run_folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run_folder / "results.json").read_text())["metrics"]
    return found


def curves(run_folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run_folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def checkpoint(run_folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run_folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return content


def states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")
    return sorted(trial.state.name for trial in study.trials)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished batched sweep."""
    folder = tmp_path_factory.mktemp("batched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(written(folder).split()) == 0
    return folder / "lightning_logs/s"


def test_each_trial_has_the_files_and_figures_of_the_same_run_alone(
    run: Callable[[str], int], finished: Path, tmp_path: Path
) -> None:
    assert states(finished) == ["COMPLETE"] * 12
    trials = sorted(finished.glob("trial_*"))
    for trial in (trials[7], trials[11]):  # all three differ from the first trial's; an annealing
        assert run(f"fit --config {trial}/config.yaml --runs alone --experiment {trial.name[:9]}") == 0
        alone = tmp_path / "alone" / trial.name[:9] / "version_0"
        lines = [(each / "config.yaml").read_text().splitlines() for each in (trial, alone)]
        differences = [one for one, other in zip(*lines, strict=True) if one != other]
        assert differences == ["runs: lightning_logs", "experiment: s"]
        same(trial, alone)
        scores = [np.load(each / "test_scores.npz") for each in (trial, alone)]
        for name in scores[1]:
            np.testing.assert_allclose(scores[0][name], scores[1][name], rtol=1e-4, atol=1e-4)


def test_a_trial_goes_on_from_its_last_checkpoint_as_a_run_alone_does(
    run: Callable[[str], int], finished: Path, tmp_path: Path
) -> None:
    """Whose checkpoint has the optimiser's moments, the random state and what the best epoch has been."""
    trial = sorted(finished.glob("trial_*"))[6]
    line = f"fit --config {trial}/config.yaml --trainer.max_epochs 3"
    assert run(f"{line} --experiment alone") == 0
    assert run(f"{line} --ckpt_path {trial}/checkpoints/last.ckpt") == 0
    same(trial, tmp_path / "lightning_logs/alone/version_0")


def same(trial: Path, alone: Path) -> None:
    assert list(metrics(trial)) == list(metrics(alone))
    assert metrics(trial) == pytest.approx(metrics(alone), rel=1e-4, abs=1e-5)
    for name in ("best", "last"):
        mine, its = checkpoint(trial, name), checkpoint(alone, name)
        assert (mine["epoch"], mine["global_step"], mine["beta"]) == (its["epoch"], its["global_step"], its["beta"])
        assert mine["loops"]["fit_loop"] == its["loops"]["fit_loop"]
        torch.testing.assert_close(mine["state_dict"], its["state_dict"], rtol=1e-5, atol=1e-5)
        moments = [content["optimizer_states"][0]["state"] for content in (mine, its)]
        torch.testing.assert_close(*moments, rtol=1e-4, atol=1e-6)
    found, wanted = curves(trial), curves(alone)
    assert found.keys() == wanted.keys()
    for tag, points in wanted.items():
        np.testing.assert_allclose(found[tag], points, rtol=1e-4, atol=1e-5)


SGD = partial(torch.optim.SGD, momentum=0.9)
Make = Callable[[float, float], AnomalyModel]
KINDS: dict[str, Make] = {
    "VAE, AdamW": lambda beta, lr: VAE(
        [10], MLP([16, 8]), 3, Gaussian("per_feature"), beta, optimizer=partial(torch.optim.AdamW, lr=lr)
    ),
    "VAE, annealed, batch norm, SGD, cosine": lambda beta, lr: VAE(
        [10],
        MLP([16], batch_norm=True),
        3,
        beta=Linear(0, beta, epochs=2),
        optimizer=partial(SGD, lr=lr / 10),
        lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=3),
    ),
    "IWAE, one cycle": lambda beta, lr: IWAE(
        [10],
        MLP([16]),
        3,
        Gaussian("shared"),
        beta,
        k=3,
        optimizer=partial(torch.optim.Adam, lr=lr),
        lr_scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=lr, total_steps=12),
    ),
    "Autoencoder, denoising, an optimiser that looks at whole matrices": lambda beta, lr: Autoencoder(
        [10], MLP([16], "SiLU"), 3, swap=0.2, optimizer=partial(torch.optim.Adafactor, lr=lr)
    ),
}


def rows(n: int = 500) -> np.ndarray:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(n, 3)) @ np.random.default_rng(1).normal(size=(3, 10))
    return (factors + 0.3 * rng.normal(size=(n, 10))).astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*nothing raises an alarm")
@pytest.mark.parametrize("kind", KINDS)
def test_each_member_keeps_its_beta_its_rate_and_its_seed(kind: str, tmp_path: Path) -> None:
    values = [(0.5, 0.01, 7), (2.0, 0.01, 5), (2.0, 0.03, 5)]
    models, seeds = [KINDS[kind](beta, lr) for beta, lr, _ in values], [seed for *_, seed in values]
    batched = Batched(models, seeds, [tmp_path / str(k) for k in range(3)])
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=3, accelerator="cpu", num_sanity_val_steps=0, **quiet)
    trainer.callbacks = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(batched.seed)
        trainer.fit(batched, Arrays(rows(), test_fraction=0))
    weights = []
    for k, (beta, lr, seed) in enumerate(values):
        alone = fit(KINDS[kind](beta, lr), Arrays(rows(), test_fraction=0), seed=seed, verbose=False, max_epochs=3)
        member = batched.each[k]
        best = member.files[tmp_path / str(k) / "checkpoints/best.ckpt"]
        torch.testing.assert_close(best["state_dict"], dict(alone.detector.model.state_dict()), rtol=1e-5, atol=1e-5)
        assert best["epoch"] == int(np.argmin(alone.history))
        assert member.metrics == pytest.approx(alone.metrics, rel=1e-4, abs=1e-5)
        weights.append(best["state_dict"]["encoder.0.1.weight"])
    assert all((weights[i] - weights[j]).abs().max() > 1e-3 for i, j in ((0, 1), (1, 2)))


class Killed(BaseException):
    """What nothing in the program can react to, no more than to SIGKILL: locks are let go, and nothing is recorded."""


def test_killed_what_has_ended_stays_and_the_rest_comes_to_the_same(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the second trial's checkpoints and its results; of the third nothing is there."""
    folders: list[Path] = []

    def dying(folder: Path, *arguments: Any) -> None:
        folders.append(folder)
        if len(folders) == 2:
            raise Killed
        write_results(folder, *arguments)

    search = {BETA: [2], RATE: [0.001], SEED: [3, 0, 1]}
    _, trials = grouped(tmp_path, search=search)
    folder = trials.plan.folder
    monkeypatch.setattr(runs, "write_results", dying)
    with pytest.raises(Killed):
        work(trials.plan, [[0, 1, 2]])
    monkeypatch.setattr(runs, "write_results", write_results)
    assert states(folder) == ["COMPLETE", "RUNNING", "RUNNING"]
    ended = {path: path.stat().st_mtime_ns for path in folder.glob("trial_*/results.json")}
    assert len(ended) == 1
    assert (folders[1] / "checkpoints/last.ckpt").is_file()
    assert trials.left() == [1, 2]
    work(trials.plan, [[1, 2]])
    assert {path: path.stat().st_mtime_ns for path in ended} == ended, "not done again"
    assert states(folder) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    for trial in sorted(folder.glob("trial_*"))[:2]:
        assert metrics(trial) == pytest.approx(metrics(finished / trial.name), rel=1e-5, abs=1e-6)


def work(plan: Plan, groups: list[list[int]]) -> list[str]:
    """What a process of the sweep does; how each group ended."""
    be_quiet()
    with contextlib.closing(ledger(plan, groups)) as tasks:
        return [attempt(CLI, task) for task in tasks]


def test_of_a_group_one_fails_and_the_others_go_on(tmp_path: Path, capsys: Any) -> None:
    groups, trials = grouped(tmp_path, search={RATE: [0.001, 1.0e30]})
    assert len(work(trials.plan, groups)) == 1
    assert states(trials.plan.folder) == ["COMPLETE", "FAIL"]
    assert "lr=1e+30  failed: the training loss became" in capsys.readouterr().out
    assert not (next(trials.plan.folder.glob("trial_001*")) / "results.json").exists()


def grouped(folder: Path, jobs: int = 1, **changes: Any) -> tuple[list[list[int]], Trials]:
    written(folder, **changes)
    plan = read(folder / "s.yaml", {"runs": str(folder)}, {})
    plan.folder.mkdir()
    trials = Trials(plan, connect(plan))
    return plan_groups(CLI, plan, trials, jobs), trials


def test_groups_are_of_what_differs_in_nothing_else(tmp_path: Path) -> None:
    search = {BETA: [1, ANNEALED], LATENT: [2, 3], SEED: [0, 1, 2]}
    assert grouped(tmp_path, search=search)[0] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    (tmp_path / "two").mkdir()
    halves, _ = grouped(tmp_path / "two", jobs=2, search={SEED: [0, 1, 2], LATENT: [2]})
    assert halves == [[0, 1], [2]], "each process has something to do"


def test_a_random_search_is_foreseen(tmp_path: Path) -> None:
    ranges = {BETA: {"low": 0.1, "high": 10.0, "log": True}, LATENT: [2, 3]}
    groups, trials = grouped(tmp_path, sampler="random", trials=6, search=ranges)
    latents = [trials.foreseen(slot)[LATENT] for slot in range(6)]
    assert sorted(groups) == sorted([s for s in range(6) if latents[s] == one] for one in set(latents))
    with trials.claim_group(groups) as claimed:
        assert [trial.slot for trial in claimed] == groups[0]
        assert all(trial.values == trials.foreseen(trial.slot) for trial in claimed)
        with trials.claim_group(groups[:1]) as others:
            assert others == [], "held"


PLATEAU = {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "val/objective"}}
ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "clipping": ({"trainer.gradient_clip_val": 1.0}, "trainer.gradient_clip_val = 1.0"),
    "precision": ({"trainer.precision": "bf16-mixed"}, "trainer.precision = bf16-mixed"),
    "dropout": ({"model.init_args.network.init_args.dropout": 0.1}, "dropout"),
    "plateau": ({"model.init_args.lr_scheduler": PLATEAU}, "ReduceLROnPlateau waits for a metric"),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_trained_together_goes_one_after_another_and_a_line_says_why(
    name: str, tmp_path: Path, capsys: Any
) -> None:
    settings, reason = ALONE[name]
    search = {SEED: [0, 1, 2]}
    assert grouped(tmp_path, search=search, overrides={**SWEEP["overrides"], **settings})[0] == [[0], [1], [2]]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("trials 0, 1, 2: one after another: ")
    assert reason in line


@pytest.mark.parametrize(
    ("changes", "mention"),
    [
        ({"sampler": "tpe", "trials": 3, "search": {BETA: {"low": 0.1, "high": 2.0}}}, "tpe"),
        ({"pruning": "median"}, "pruning"),
    ],
)
def test_what_learns_from_others_is_refused(
    run: Callable[[str], int], tmp_path: Path, capsys: Any, changes: dict[str, Any], mention: str
) -> None:
    assert run(written(tmp_path, **changes)) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert mention in message
    assert "leave --batch out" in message
    assert list(tmp_path.iterdir()) == [tmp_path / "s.yaml"]
