"""Two processes: one is killed or meets NaN, or all are told to end. None waits for another, and the run can go on."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, command, end, start
from harness import assert_equal, trained_state
from lightning.pytorch import Callback

FIT = (
    f"fit --config {CONFIGS}/beta_vae.yaml --data.init_args.samples 400 --data.init_args.batch_size 16 "
    "--trainer.max_epochs 2 --checkpoint_every_n_steps 2 --trainer.accelerator cpu --trainer.devices 2 "
    "--trainer.enable_progress_bar false --trainer.enable_model_summary false --trainer.callbacks+=test_ranks.Fault "
)
RUN = Path("lightning_logs/beta_vae/version_0")


class Fault(Callback):
    """What the variable FAULT says, as ``KILL 1``: to which process, when it begins its eighth step."""

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, i: int) -> None:
        what, _, rank = os.environ.get("FAULT", "").partition(" ")
        if trainer.global_step != 7 or str(trainer.global_rank) not in rank:
            return
        if what == "NAN":
            batch.x.fill_(float("nan"))
        elif what == "PARENT":
            os.kill(os.getppid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.Signals[f"SIG{what}"])


Way = Callable[[Path], tuple[int, str]]


def by_fork(folder: Path) -> tuple[int, str]:
    """One command that forks; its exit code, and what is printed."""
    said = said_in(folder)
    return end(start(folder, [*FIT.split(), "--trainer.strategy", "ddp_fork"], *said)), Path(said[0]).read_text()


def by_torchrun(folder: Path) -> tuple[int, str]:
    """Two commands that are told of each other, as torchrun does; the first one's exit code, and what both print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    elastic = {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"}
    said, children = said_in(folder), []
    with pytest.MonkeyPatch.context() as patch:
        for rank in "01":
            for key, value in {**shared, **elastic, "RANK": rank, "LOCAL_RANK": rank, "ROLE_RANK": rank}.items():
                patch.setenv(key, value)
            children.append(start(folder, [*FIT.split(), "--trainer.strategy", "ddp"], *said))
    code, _ = (end(child) for child in children)
    return code, Path(said[0]).read_text()


def said_in(folder: Path) -> tuple[str, str]:
    """An empty file for what is printed, on both ways."""
    file = folder / "said"
    file.write_text("")
    return str(file), str(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = by_fork(folder)
    assert code == 0, said
    return folder / RUN


@pytest.mark.parametrize(
    ("way", "fault", "code"),
    [
        (by_fork, "KILL 1", 1),
        (by_torchrun, "KILL 1", 1),
        (by_fork, "NAN 1", 2),
        (by_fork, "PARENT 0", 143),
        (by_torchrun, "TERM 01", 143),
    ],
)
def test_all_end_with_one_line_and_the_run_goes_on(
    way: Way, fault: str, code: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bits of the undisturbed run, as far as that can be."""
    monkeypatch.setenv("FAULT", fault)
    ended, said = way(tmp_path)
    print(said)
    lines = [line for line in said.splitlines() if line.startswith(("error", "interrupted"))]
    assert (ended, len(lines)) == (code, 1)
    assert "Traceback" not in said
    monkeypatch.delenv("FAULT")
    line = f"{FIT} --trainer.strategy ddp_fork --ckpt_path {RUN}/checkpoints/last.ckpt"
    done = command(tmp_path, line.split())
    assert done.returncode == 0, done.stderr
    assert_equal(trained_state(tmp_path / RUN), trained_state(whole))
