"""Killed by SIGKILL at any moment and resumed, a run ends with everything equal to the bit.

Weights, optimizer, schedulers, random state, metrics, the counts of loops and callbacks: the whole of ``last.ckpt``.
TensorBoard shows each point once.
"""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import NIGHTLY, assert_equal, content, forked, kill_at, points, trained_state, wait_for_another_second
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import SGD, Adam, NAdam, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

from vae_lightning.data import AnomalyDataModule, Arrays
from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.networks import MLP
from vae_lightning.training import checkpoints
from vae_lightning.training.quiet import quietly
from vae_lightning.training.trainer import Trainer

Moments = list[tuple[str, int]]

ROWS = np.random.default_rng(0).normal(size=(180, 5)).astype(np.float32)
PLATEAU = partial(ReduceLROnPlateau, patience=0, threshold=0.5)  # nothing is ever good enough: each epoch counts


@dataclass
class Kind:
    """A kind of run, and when it is killed: one moment for each process that takes it up."""

    kills: Moments
    trainer: dict[str, Any] = field(default_factory=lambda: {"max_epochs": 3})
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    every_n_steps: int | None = None
    callbacks: Callable[[], list[Any]] = list

    def run(self, folder: Path) -> None:
        """Train in a folder, or go on with what is there: with the best epoch where there is nothing later."""
        wait_for_another_second(folder)
        seed_everything(3, verbose=False)
        model = VAE([5], MLP([8, 6], batch_norm=True, dropout=0.2), 2, **self.model)
        with quietly(".*"):
            trainer = Trainer(
                accelerator="cpu",
                logger=TensorBoardLogger(folder.parent, "", folder.name, default_hp_metric=False),
                callbacks=[*checkpoints.callbacks(self.every_n_steps, folder / "checkpoints"), *self.callbacks()],
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                **{"devices": 1, **self.trainer},
            )
            there = (folder / f"checkpoints/{name}.ckpt" for name in ("last", "best"))
            trainer.fit(model, self.dataset(), ckpt_path=next((path for path in there if path.is_file()), None))

    def killed(self, folder: Path, event: str, count: int) -> None:
        """The same, up to a moment."""
        kill_at(event, count)
        self.run(folder)

    def dataset(self) -> AnomalyDataModule:
        return Arrays(ROWS, **{"batch_size": 16, "test_fraction": 0, **self.data})  # 9 batches an epoch


IN_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None}
KINDS = {
    "Adam": Kind(
        [("written", 2), ("step", 4), ("writing", 2), ("validation", 2), ("writing", 1)], trainer={"max_epochs": 6}
    ),
    "SGD with momentum, StepLR, within epochs": Kind(
        [("step", 13), ("step", 3), ("step", 9)],
        model={"optimizer": partial(SGD, lr=0.01, momentum=0.9), "lr_scheduler": partial(StepLR, step_size=1)},
        every_n_steps=2,
    ),
    "ReduceLROnPlateau": Kind(
        [("written", 2), ("step", 10), ("step", 5), ("written", 2)],
        trainer={"max_epochs": 5},
        model={"lr_scheduler": PLATEAU},
        callbacks=lambda: [LearningRateMonitor("epoch")],
    ),
    "ReduceLROnPlateau, within epochs": Kind(
        [("step", 6), ("step", 9), ("step", 2)], model={"lr_scheduler": PLATEAU}, every_n_steps=2
    ),
    "ReduceLROnPlateau, validated every third epoch": Kind(
        [("step", 40), ("step", 6)],
        trainer={"max_epochs": 6, "check_val_every_n_epoch": 3},
        model={"lr_scheduler": partial(PLATEAU, factor=0.5)},
    ),
    "ReduceLROnPlateau, so many steps": Kind(
        [("step", 20), ("step", 11)],
        trainer={**IN_STEPS, "max_steps": 50, "val_check_interval": 9},
        model={"lr_scheduler": PLATEAU},
        every_n_steps=4,
    ),
    "OneCycleLR, so many steps": Kind(
        [("step", 12), ("written", 1), ("step", 13)],
        trainer={**IN_STEPS, "max_steps": 40, "val_check_interval": 40},
        model={"lr_scheduler": partial(OneCycleLR, max_lr=0.01, total_steps=40)},
    ),
    "validated within epochs, in steps": Kind(
        [("step", 12), ("validation", 1), ("step", 7)],
        trainer={**IN_STEPS, "max_steps": 40, "val_check_interval": 4},
        model={"optimizer": RMSprop},
        every_n_steps=4,
    ),
    "validated within epochs": Kind(
        [("validation", 4), ("step", 7), ("written", 3)],
        trainer={"max_epochs": 3, "val_check_interval": 3},
        model={"optimizer": NAdam},
        every_n_steps=3,
        callbacks=lambda: [LearningRateMonitor("step")],
    ),
    "accumulation, cosine": Kind(
        [("step", 11), ("written", 1), ("written", 1), ("step", 5)],
        trainer={"max_epochs": 4, "accumulate_grad_batches": 4, "gradient_clip_val": 0.5},
        model={"lr_scheduler": partial(CosineAnnealingLR, T_max=4)},
        every_n_steps=1,
    ),
    "bf16-mixed, workers": Kind(
        [("step", 12), ("step", 8)],
        trainer={"max_epochs": 3, "precision": "bf16-mixed"},
        model={"optimizer": partial(Adam, amsgrad=True)},
        data={"num_workers": 1},
        every_n_steps=5,
    ),
    "early stopping": Kind(
        [("written", 3), ("step", 3)],
        trainer={"max_epochs": 30},
        callbacks=lambda: [EarlyStopping("val/objective", min_delta=1e9, patience=3)],
    ),
    "two processes": Kind(
        [("step", 13), ("written", 2), ("step", 2)],
        trainer={"max_epochs": 4, "devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False},
        model={"lr_scheduler": PLATEAU},
        every_n_steps=2,
    ),
}


def check(kind: Kind, folder: Path, whole: Path, killed: bool = True, logs: bool = True) -> None:
    ends = []
    for i, moment in enumerate(kind.kills):
        ends.append(ended := forked(partial(kind.killed, folder, *moment)))
        assert ended == -9 or not (killed or ended), f"kill {i}, {moment}: {ended}"
    assert forked(lambda: kind.run(folder)) == 0
    assert_equal(trained_state(folder), trained_state(whole))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    found, expected = (points(place) if logs else {} for place in (folder, whole))
    assert found.keys() == expected.keys()
    for tag, there in expected.items():
        assert_equal(found[tag], there, tag)
    if "KILLS" in os.environ:  # a file to keep the count in
        with Path(os.environ["KILLS"]).open("a") as file:
            test = os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].removesuffix(" (call)")
            moments = "; ".join(f"{event} {count}" for event, count in kind.kills)
            writer = csv.writer(file, lineterminator="\n")
            if not file.tell():
                writer.writerow(["test", "moments", "kills", "resumed"])
            writer.writerow([test, moments, ends.count(-9), "equal"])


@pytest.mark.parametrize("name", ["ReduceLROnPlateau", "validated within epochs", "validated within epochs, in steps"])
def test_so_it_is_from_the_best_epoch(name: str, tmp_path: Path) -> None:
    """Where a run is killed before there is a last.ckpt; it may then lack that epoch's points in TensorBoard."""
    kind = replace(KINDS[name], kills=[("written", 1), ("step", 2)])
    assert forked(lambda: kind.run(tmp_path / "whole")) == 0
    check(kind, tmp_path / "killed", tmp_path / "whole", logs=False)


class Seen(Callback):
    """Which rows this process has trained on, into a file for each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, i: int) -> None:
        with (self.folder / f"epoch_{trainer.current_epoch}").open("a") as file:
            print(*batch.row.tolist(), file=file)


def test_another_number_of_processes_goes_on_from_an_epochs_end_alone(tmp_path: Path) -> None:
    """Every sample once an epoch, as far as the processes have equal shares; within an epoch it is refused."""

    def kind(devices: int, **kwargs: Any) -> Kind:
        trainer = {"max_epochs": 4, "devices": devices, "strategy": "ddp_fork" if devices > 1 else "auto"}
        return Kind([], trainer=trainer, callbacks=lambda: [Seen(tmp_path)], **kwargs)

    assert forked(lambda: kind(2).killed(tmp_path / "run", "step", 10)) == -9
    assert forked(lambda: kind(1).killed(tmp_path / "run", "step", 12)) == -9
    assert forked(lambda: kind(2).run(tmp_path / "run")) == 0
    assert content(tmp_path / "run/checkpoints/last.ckpt")["epoch"] == 3
    rows = [int(row) for row in (tmp_path / "epoch_3").read_text().split()]
    assert len(rows) == len(set(rows)) == 144

    kept = kind(2, every_n_steps=2)
    assert forked(lambda: kept.killed(tmp_path / "within", "step", 4)) == -9

    def refused() -> None:
        with pytest.raises(
            UserError, match="saved within an epoch by 2 processes, and these are 1: continue with as many"
        ):
            kind(1).run(tmp_path / "within")

    assert forked(refused) == 0


@pytest.mark.parametrize("name", KINDS)
def test_everything_is_equal_to_the_bit(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    assert forked(lambda: kind.run(tmp_path / "whole")) == 0
    check(kind, tmp_path / "killed", tmp_path / "whole")
    for seed in range(int(os.environ.get("SEEDS", 10)) if NIGHTLY else 0):
        draw = random.Random(seed)
        events = "step", "step", "step", "validation", "writing", "written"
        kills = [(event := draw.choice(events), draw.randint(1, 12 if event == "step" else 2)) for _ in range(3)]
        print(name, kills)
        check(replace(kind, kills=kills), tmp_path / f"killed_{seed}", tmp_path / "whole", killed=False)
