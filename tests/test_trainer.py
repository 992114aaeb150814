"""The Trainer: what it leaves out has no effect, and is left out only while it trains."""

import copy
import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LambdaCallback, TQDMProgressBar
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

import vae_lightning as vl
from vae_lightning.models.networks import MLP
from vae_lightning.training.callbacks import DetectionMetrics
from vae_lightning.training.callbacks.progress import Lines

ROWS = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)


def trained(optimizer: Any = torch.optim.Adam, **kwargs: Any) -> tuple[vl.Trainer, vl.VAE]:
    """A trainer of one's own, and what it has trained."""
    torch.manual_seed(0)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = vl.Trainer(**{"max_epochs": 2, "accelerator": "cpu", **quiet, **kwargs})
    model = vl.VAE([5], MLP([8], dropout=0.1), 2, optimizer=optimizer)
    trainer.fit(model, vl.Arrays(ROWS, batch_size=32))
    return trainer, model


def weights(model: vl.VAE) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(a: vl.VAE, b: vl.VAE) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.1}, {"accumulate_grad_batches": 2}])
def test_lean_or_not_the_weights_are_the_same(options: dict[str, Any]) -> None:
    assert equal(trained(**options)[1], trained(lean=False, **options)[1])


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9)),
        partial(torch.optim.Adam, amsgrad=True),
        partial(torch.optim.Adam, foreach=True),
        partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        partial(torch.optim.LBFGS, max_iter=2),
    ],
)
def test_so_they_are_with_any_optimiser(optimizer: Any) -> None:
    (lean, a), (plain, b) = trained(optimizer), trained(optimizer, lean=False)
    assert equal(a, b)
    states = lean.optimizers[0].state_dict(), plain.optimizers[0].state_dict()
    for mine, its in zip(*(state["state"].values() for state in states), strict=True):
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], value) for key, value in its.items() if isinstance(value, torch.Tensor))
    assert lean.global_step == plain.global_step


class Halved(Callback):
    """Changes the rate, the optimiser's state and then how often it steps, while training."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        optimizer = trainer.optimizers[0]
        if trainer.global_step == 3:
            optimizer.param_groups[0]["lr"] *= 0.5
        if trainer.global_step == 5:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.accumulate_grad_batches = trainer.current_epoch + 1


def test_what_a_callback_changes_has_its_effect() -> None:
    (lean, a), (plain, b) = (
        trained(callbacks=Halved(), max_epochs=3),
        trained(callbacks=Halved(), max_epochs=3, lean=False),
    )
    assert equal(a, b)
    assert lean.global_step == plain.global_step


class Overridden(Callback):
    calls = 0

    def on_before_zero_grad(self, *_: Any) -> None:
        self.calls += 1


def test_hooks_of_ones_own_are_called() -> None:
    calls: list[int] = []
    overridden = Overridden()
    on_instance = LambdaCallback(on_train_batch_end=lambda trainer, model, outputs, batch, i: calls.append(i))
    trainer, _ = trained(callbacks=[on_instance, overridden])
    assert len(calls) == overridden.calls == trainer.global_step > 0


def test_a_hook_of_the_model_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(vl.VAE, "on_after_backward", lambda self: seen.append(1))
    monkeypatch.setattr(vl.VAE, "on_after_batch_transfer", lambda self, batch, i: (seen.append(2), batch)[1])
    trainer, _ = trained()
    assert seen.count(1) == trainer.global_step
    assert seen.count(2) >= trainer.global_step


class Watch(Callback):
    """What is laid over instances while training."""

    def __init__(self) -> None:
        self.before: dict[str, set[str]] = {}
        self.during: dict[str, set[str]] = {}

    @staticmethod
    def look(trainer: Any, model: Any) -> dict[str, set[str]]:
        instances = {f"{type(c).__name__}": c for c in trainer.callbacks} | {"model": model}
        instances["loop"] = trainer.fit_loop.epoch_loop
        instances["step"] = trainer.fit_loop.epoch_loop.automatic_optimization
        return {
            name: {k for k in vars(one) if k.startswith(("on_", "_on_", "_apply", "_build", "configure", "run"))}
            for name, one in instances.items()
        }

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.during = self.look(trainer, pl_module)


def test_afterwards_every_instance_is_as_it_was() -> None:
    watch = Watch()
    trainer, model = trained(callbacks=[watch])
    assert {"on_before_backward", "_apply_batch_transfer_handler", "configure_gradient_clipping"} <= watch.during[
        "model"
    ]
    assert "_build_kwargs" in watch.during["loop"]
    assert "run" in watch.during["step"]
    assert not any(Watch.look(trainer, model).values())


def test_a_hook_that_is_set_while_training_stays() -> None:
    calls: list[int] = []

    def late(*_: Any) -> None:
        calls.append(1)

    class Late(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.on_before_backward = late

    trainer, model = trained(callbacks=Late())
    assert len(calls) == trainer.global_step
    assert vars(model)["on_before_backward"] is late


def test_it_is_left_alone_after_an_exception() -> None:
    class Stop(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise RuntimeError("stop")

    model = vl.VAE([5], MLP([8]), 2)
    trainer = vl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=Stop(),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(RuntimeError, match="stop"):
        trainer.fit(model, vl.Arrays(ROWS))
    assert not any(Watch.look(trainer, model).values())


@pytest.mark.parametrize("missing", [(_TrainingEpochLoop, "_build_kwargs"), (Callback, "on_before_zero_grad")])
def test_it_turns_itself_off_where_lightning_lacks_something(
    missing: tuple[type, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch()

    def stopped(trainer: Any, *_: Any) -> None:
        watch.during = Watch.look(trainer, model)
        raise RuntimeError

    model = vl.VAE([5], MLP([8]), 2)
    trainer = vl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    monkeypatch.delattr(*missing)
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", stopped)  # it could not train without what is missing here
    with caplog.at_level(logging.DEBUG, "vae_lightning"), pytest.raises(RuntimeError):
        trainer.fit(model, vl.Arrays(ROWS))
    assert not any(watch.during.values())
    said = [record.getMessage() for record in caplog.records if record.name.startswith("vae_lightning")]
    assert [missing[1] in line for line in said] == [True]


def test_what_is_given_takes_the_place_of_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, bar = DetectionMetrics(), TQDMProgressBar(refresh_rate=1)
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    mine = [metrics, bar]
    trainer = vl.Trainer(callbacks=mine, **options)
    assert [c for c in trainer.callbacks if isinstance(c, (DetectionMetrics, TQDMProgressBar))] == mine[:2]
    assert isinstance(vl.Trainer(**options).progress_bar_callback, Lines)  # nothing shows a bar here
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    default = vl.Trainer(**options)
    assert isinstance(default.progress_bar_callback, TQDMProgressBar)
    assert default.progress_bar_callback.refresh_rate == 50
    assert vl.Trainer(enable_progress_bar=False, **options).progress_bar_callback is None
