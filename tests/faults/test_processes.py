"""Runs of several processes, and several processes at one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, environment
from harness import forked
from lightning.pytorch import Callback

from vae_lightning.training import runs

FIT = (
    f"fit --config {CONFIGS}/beta_vae.yaml --data.init_args.samples 400 --trainer.max_epochs 2 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false"
)
TWO = " --trainer.devices 2 --trainer.strategy ddp"


class Rows(Callback):
    """Writes which rows this process trains on."""

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, i: int) -> None:
        with Path(f"rows_{trainer.current_epoch}_{trainer.global_rank}").open("a") as file:
            print(*batch.row.tolist(), file=file)


class Poison(Callback):
    """Makes the second process's second batch NaN."""

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, i: int) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 1:
            batch.x.fill_(float("nan"))


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), "PYTHONPATH": f"{CONFIGS.parent}:{Path(__file__).parent}:{CONFIGS.parent}/tests"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    print(done.stdout, done.stderr)
    return done


def test_torchrun_makes_one_run_of_it(tmp_path: Path) -> None:
    """Even without a seed: the processes agree on one."""
    line = FIT + TWO + " --seed_everything false --trainer.callbacks+=test_processes.Rows"
    torchrun = "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "vae_lightning"
    done = run(tmp_path, sys.executable, "-m", *torchrun, *line.split())
    assert done.returncode == 0
    assert done.stdout.count("epochs in") == 1
    (folder,) = (tmp_path / "lightning_logs/beta_vae").iterdir()
    assert json.loads((folder / "results.json").read_text())["metrics"]["test/auroc"] > 0
    for epoch in (0, 1):
        shares = [(tmp_path / f"rows_{epoch}_{rank}").read_text().split() for rank in (0, 1)]
        assert len(shares[0]) == len(shares[1]) > 100
        assert not set(shares[0]) & set(shares[1])


def test_torchrun_and_trainer_have_to_agree(run: Callable[[str], int], capsys: Any, monkeypatch: Any) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "GROUP_RANK", "ROLE_RANK", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(FIT) == 2
    assert "torchrun has started 2 processes, and 1 is asked for: give --trainer.devices" in capsys.readouterr().err


def test_nan_in_one_process_is_one_line_of_all(tmp_path: Path) -> None:
    line = FIT + TWO + " --trainer.callbacks+=test_processes.Poison"
    done = run(tmp_path, sys.executable, "-m", "vae_lightning", *line.split())
    assert done.returncode == 2
    said = [text for text in done.stderr.splitlines() if "rror" in text]
    assert len(said) == 1
    assert said[0].startswith("error: the training loss became NaN at step 1: lower the learning rate")
    assert "Traceback" not in done.stderr


def test_a_run_that_is_being_trained_is_not_taken_up(fitted: Path, run: Callable[[str], int], capsys: Any) -> None:
    """The second is told who holds it; nothing of the run has changed; and a dead holder holds nothing."""
    child = os.fork()
    if not child:
        runs.claim(fitted.parent, fitted)
        (fitted / "held").touch()
        time.sleep(600)
        os._exit(0)
    try:
        while not (fitted / "held").exists():
            time.sleep(0.01)
        before = {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()}
        capsys.readouterr()
        line = f"fit --ckpt_path {fitted}/checkpoints/last.ckpt --trainer.max_epochs 3"
        assert run(line) == 2
        (said,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
        assert f"{fitted}: another process trains there (process {child} on " in said
        assert {path: path.read_bytes() for path in fitted.rglob("*") if path.is_file()} == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert run(line + " --trainer.enable_progress_bar false") == 0


@pytest.mark.parametrize("again", [1, 2])
def test_one_process_may_take_up_its_run_again(fitted: Path, again: int) -> None:
    def twice() -> None:
        for _ in range(again):
            assert runs.claim(fitted.parent, fitted) == fitted
            runs.release()

    assert forked(twice) == 0
