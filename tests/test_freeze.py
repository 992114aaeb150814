"""Batch norm that is frozen in the course of a training."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from vae_lightning.data import SyntheticMixture
from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.networks import MLP
from vae_lightning.training.callbacks import FreezeBatchNorm

Build = Callable[..., Trainer]


class Watch(Callback):
    """After each step: running means, learned scales, whether the encoder computes as it does in evaluation."""

    def __init__(self) -> None:
        self.means: list[torch.Tensor] = []
        self.scales: list[torch.Tensor] = []
        self.as_evaluated: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, model: LightningModule, out: Any, batch: Any, i: int) -> None:
        assert isinstance(model, VAE)
        norms = [module for module in model.encoder.modules() if isinstance(module, torch.nn.BatchNorm1d)]
        self.means.append(torch.cat([norm.running_mean.clone() for norm in norms]))
        self.scales.append(torch.cat([norm.weight.detach().clone() for norm in norms]))
        trained, evaluated = copy.deepcopy(model.encoder), copy.deepcopy(model.encoder).eval()
        self.as_evaluated.append(torch.equal(trained(batch.x), evaluated(batch.x)))


def fit(trainer: Build, ckpt_path: Path | None = None, **kwargs: Any) -> VAE:
    seed_everything(0, verbose=False)
    data = SyntheticMixture(samples=600, batch_size=100)
    model = VAE([10], MLP([8, 6], batch_norm=True), 2)
    trainer(**kwargs).fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.mark.parametrize(("after", "epochs", "first"), [(0.5, 4, 2), (0.25, 3, 1), (0.0, 2, 0), (1.0, 2, 2)])
def test_from_its_epoch_on_the_net_is_trained_as_it_is_evaluated(
    after: float, epochs: int, first: int, trainer: Build
) -> None:
    watch = Watch()
    fit(trainer, max_epochs=epochs, callbacks=[FreezeBatchNorm(after), watch])
    steps = len(watch.means) // epochs
    frozen = [step >= first * steps for step in range(len(watch.means))]
    assert watch.as_evaluated == frozen
    for step in range(1, len(frozen)):
        assert torch.equal(watch.means[step], watch.means[step - 1]) == frozen[step]
        assert not torch.equal(watch.scales[step], watch.scales[step - 1])


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumed_within_a_frozen_epoch_is_frozen(trainer: Build, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1, auto_insert_metric_name=False)
    whole = fit(trainer, max_epochs=2, callbacks=[FreezeBatchNorm(0.5), keep], enable_checkpointing=True)
    steps = sorted(int(path.stem) for path in tmp_path.glob("*.ckpt"))
    within = tmp_path / f"{steps[-2]}.ckpt"
    resumed = fit(trainer, within, max_epochs=2, callbacks=[FreezeBatchNorm(0.5)])
    for (name, expected), value in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


def test_what_it_cannot_do_is_said(trainer: Build) -> None:
    with pytest.raises(UserError, match=r"FreezeBatchNorm: after = 1.5 is not in \[0, 1\]"):
        FreezeBatchNorm(1.5)
    with pytest.raises(UserError, match=r"trainer\.max_epochs, which has to be set"):
        fit(trainer, max_steps=3, callbacks=[FreezeBatchNorm()])
