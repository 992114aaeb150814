"""Wrong input is told before the first step: one line with key and value, nothing before it, and no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from odd import BOMBS, FIT
from test_fuzz import judge, outcome

import vae_lightning as vl
from vae_lightning.errors import UserError
from vae_lightning.training.trainer import Trainer

SAID = {
    "--trainer.accumulate_grad_batches 0": "trainer.accumulate_grad_batches = 0: give a number from 1 to",
    "--trainer.accumulate_grad_batches 18446744073709551616": "give a number from 1 to 2147483647",
    "--model.init_args.optimizer.init_args.lr 1e400": "lr = inf: give a finite number",
    "--trainer.val_check_interval 0": "trainer.val_check_interval = 0: give so many batches",
    "--trainer.val_check_interval 1000000": "`val_check_interval` (1000000) must be less than or equal to the number",
    "--trainer.precision 16-true": "trainer.precision = 16-true: give one of 32-true",
    "--trainer.devices 1000": "trainer.devices = 1000: this machine has",
    "--trainer.strategy ddp_spawn": "give ddp or ddp_fork",
    "--trainer.max_epochs -1": "give trainer.max_steps or trainer.max_time, or it would never end",
    "--seed_everything -1": "seed_everything = -1: give a whole number from 0 to below 2**32",
    "--data.init_args.seed null": "SyntheticMixture: seed = None is not a whole number",
    "--data.init_args.num_workers 1000": "SyntheticMixture: num_workers = 1000: give 0 to",
    "--data.init_args.samples 1000000000000": "data (SyntheticMixture): needs more memory than there is",
    "--model.init_args.optimizer.init_args.lr -1": "optimizer or lr_scheduler: ValueError: Invalid learning rate: -1.0",
    "--model.init_args.optimizer torch.optim.SparseAdam": "model (VAE) with SparseAdam: RuntimeError: SparseAdam does",
    "--model.init_args.scores [Score]": "Score is what others extend",
    "--model.init_args.scores [ReconstructionError,ReconstructionError]": "ReconstructionError is given twice",
    "--model.init_args.lr_scheduler torch.optim.lr_scheduler.StepLR": "lr_scheduler: step_size is missing",
    "--pictures.max_points 0": "pictures.max_points = 0: give at least 2",
    "--checkpoint_every_n_steps 0": "checkpoint_every_n_steps = 0: give at least 1",
    "--experiment ../x": "experiment = '../x': give the name of a folder within --runs",
    "--ckpt_path /etc/passwd": "/etc/passwd: damaged, truncated or no checkpoint",
    "--config /proc/self/mem": "/proc/self/mem: cannot be read",
}


@pytest.mark.parametrize("words", SAID)
def test_the_line_names_key_and_value(words: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, _ = outcome([*FIT, *words.split()])
    assert code == 2
    assert len(said) == 1
    assert SAID[words] in said[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["trainer: 3\n", "model: {class_path: 3}\n", "model: {init_args: 3}\n", "1: 2\n", *BOMBS]
)
def test_the_line_names_the_file(text: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.yaml").write_text(text)
    words = [*FIT, "--config", "odd.yaml"]
    assert judge(words, tmp_path) == "refused"
    assert outcome(words)[1][0].startswith("error: odd.yaml")


def test_a_run_that_goes_well_says_what_lightning_has_to_say(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    code, said, _ = outcome(FIT)
    assert code == 0
    assert "Seed set to 0" in said
    assert not any("weights_only" in line for line in said)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"accumulate_grad_batches": 0}, "accumulate_grad_batches = 0"), ({"precision": "16-true"}, "16-")],
)
def test_python_is_told_the_same(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Trainer(**given, logger=False)
    with pytest.raises(vl.UserError, match=said):
        vl.fit(vl.VAE([8]), vl.SyntheticMixture(samples=300, features=8), verbose=False, **given)
