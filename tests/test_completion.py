"""Whatever is kept is calibrated: with thresholds of its own weights, however the run ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS, command, kill
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from vae_lightning.data import AnomalyDataModule, SyntheticMixture
from vae_lightning.detection import Conformal, Detector
from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.networks import MLP
from vae_lightning.scores import KNearestNeighbours, Mahalanobis, NegativeELBO, ReconstructionError
from vae_lightning.training import checkpoints
from vae_lightning.training.trainer import Trainer

Build = Callable[..., Trainer]

SCORES = [KNearestNeighbours(2), ReconstructionError(), NegativeELBO()]


class Scaled(VAE):
    """Has a parameter of its own, in none of its parts."""

    def __init__(self, input_shape: list[int], **kwargs: Any) -> None:
        super().__init__(input_shape, **kwargs)
        self.scale = nn.Parameter(torch.ones(1))

    def objective(self, x: torch.Tensor, beta: float) -> dict[str, torch.Tensor]:
        terms = super().objective(x, beta)
        return {**terms, "loss": terms["loss"] * self.scale.square()}


def model(**kwargs: Any) -> VAE:
    torch.manual_seed(0)
    return Scaled([10], network=MLP([8]), latent_dim=2, scores=SCORES, threshold=Conformal(0.1), **kwargs)


def data() -> SyntheticMixture:
    return SyntheticMixture(samples=400, anomaly_fraction=0.1, batch_size=64)  # five batches an epoch


@pytest.fixture
def build(trainer: Build, tmp_path: Path) -> Callable[..., Trainer]:
    def build(**kwargs: Any) -> Trainer:
        callbacks = [*checkpoints.callbacks(folder=tmp_path / "kept"), *kwargs.pop("callbacks", [])]
        return trainer(Trainer, enable_checkpointing=True, callbacks=callbacks, **kwargs)

    return build


def check(path: Path, source: AnomalyDataModule | None = None) -> Detector:
    """Thresholds and fitted scores are those that the file's own weights give, computed without the detector."""
    content = torch.load(path, weights_only=True)
    detector = Detector.load(path)
    source = source or data()
    source.setup()
    kept = detector.model
    prepared = {
        split: torch.cat([kept.preprocessing(batch.x) for batch in source.loader(split)])
        for split in ("train", "calibration")
    }
    with torch.no_grad():
        codes = kept.encode(prepared["train"])
        calibration = kept.encode(prepared["calibration"])
        error = (prepared["calibration"] - kept.reconstruct(prepared["calibration"])).square().mean(1)
    distances = torch.cdist(calibration, codes, compute_mode="donot_use_mm_for_euclid_dist")  # close ones to all digits
    nearest = distances.sort(1).values[:, :2].mean(1)
    for name, expected in (("KNearestNeighbours", nearest), ("ReconstructionError", error)):
        if f"thresholds.{name}.calibration" in content["state_dict"]:
            found = content["state_dict"][f"thresholds.{name}.calibration"]
            np.testing.assert_allclose(found, expected.sort().values, rtol=1e-3, atol=1e-6, err_msg=name)
            threshold = kept.thresholds[name]
            k = int(0.1 * (len(expected) + 1)) if isinstance(threshold, Conformal) else None
            if k is not None:
                np.testing.assert_allclose(threshold.value, expected.sort(descending=True).values[k - 1], rtol=1e-3)
    return detector


def weights(path: Path) -> torch.Tensor:
    state = torch.load(path, weights_only=True)["state_dict"]
    return torch.cat([v.flatten() for k, v in state.items() if not k.startswith(("scores.", "thresholds."))])


def test_a_run_that_ends_before_its_first_validation(build: Build, tmp_path: Path) -> None:
    trained = model()
    build(max_epochs=2, val_check_interval=100, check_val_every_n_epoch=None).fit(trained, data())
    detector = check(tmp_path / "kept/last.ckpt")
    assert not (tmp_path / "kept/best.ckpt").exists()
    assert trained.detector.calibrated
    x = next(iter(data().test_dataloader())).x
    assert torch.equal(trained.detector(x).p_value, detector(x).p_value)


def test_the_last_and_the_best_each_have_their_own(build: Build, tmp_path: Path) -> None:
    trained = model()
    build(max_epochs=14, check_val_every_n_epoch=10).fit(trained, data())
    last, best = tmp_path / "kept/last.ckpt", tmp_path / "kept/best.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == 13
    assert torch.load(best, weights_only=True)["epoch"] == 9
    assert check(last).threshold.value != check(best).threshold.value
    # completing a file has left the model in memory as it was
    state = trained.state_dict()
    for key, value in torch.load(last, weights_only=True)["state_dict"].items():
        assert torch.equal(state[key], value), key


class StopAt(Callback):
    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise self.error


@pytest.mark.parametrize(
    "ending",
    [
        {"max_steps": 13, "max_epochs": -1},
        {"max_time": {"seconds": 1}, "max_epochs": -1},
        {"max_epochs": 30, "callbacks": [EarlyStopping("train/loss", min_delta=1e9, patience=2)]},
    ],
    ids=["max_steps", "max_time", "early_stopping"],
)
def test_however_it_ends(ending: dict[str, Any], build: Build, tmp_path: Path) -> None:
    build(check_val_every_n_epoch=1000, **ending).fit(model(), data())
    check(tmp_path / "kept/last.ckpt")


def test_an_interruption(build: Build, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        build(max_epochs=30, check_val_every_n_epoch=7, callbacks=[StopAt(48, KeyboardInterrupt)]).fit(model(), data())
    assert torch.load(tmp_path / "kept/last.ckpt", weights_only=True)["epoch"] == 10  # of four steps each
    check(tmp_path / "kept/last.ckpt")
    check(tmp_path / "kept/best.ckpt")


def test_every_one_of_the_best_is_completed(trainer: Build, tmp_path: Path) -> None:
    """A callback of the user's own that saves before the epoch's validation, and keeps three."""
    keep = ModelCheckpoint(
        tmp_path / "top", "{epoch}", monitor="train/loss", save_top_k=3, save_on_train_epoch_end=True
    )
    fit = trainer(Trainer, enable_checkpointing=True, callbacks=[keep], max_epochs=5, check_val_every_n_epoch=50)
    fit.fit(model(), data())
    files = sorted((tmp_path / "top").iterdir())
    assert len(files) == 3
    for file in files:
        check(file)


def test_within_an_epoch_there_are_none_rather_than_wrong_ones(build: Build, tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 10:  # two epochs have been validated
                trainer.save_checkpoint(tmp_path / "stale.ckpt")

    build(max_epochs=3, callbacks=[Save()]).fit(model(), data())
    stale = Detector.load(tmp_path / "stale.ckpt")
    assert not stale.calibrated
    x = next(iter(data().test_dataloader())).x
    with pytest.raises(UserError, match=r"not calibrated.*Detector.calibrate"):
        stale(x)
    stale.calibrate(x[:40])
    assert stale(x).p_value.min() > 0


def test_scores_that_were_never_fitted_say_so() -> None:
    untrained = Scaled(
        [10],
        network=MLP([8]),
        latent_dim=2,
        scores=[Mahalanobis()],
        preprocessing=SyntheticMixture(samples=100).preprocessing,
    )
    with pytest.raises(UserError, match="Mahalanobis has not been fitted yet"):
        untrained.detector.calibrate(np.zeros((30, 10)))
    with pytest.raises(UserError, match="no preprocessing yet"):
        VAE([10]).detector.calibrate(np.zeros((30, 10)))


LINE = (
    "fit --config {} --data.init_args.samples 400 --trainer.accelerator cpu --trainer.enable_progress_bar false "
    "--trainer.enable_model_summary false --trainer.check_val_every_n_epoch 4 --test_after_fit false"
)


def beta_vae() -> SyntheticMixture:
    return SyntheticMixture(samples=400, anomaly_fraction=0.02, val_fraction=0.1)


def test_ctrl_c_and_a_kill_resume_to_the_bits_of_an_undisturbed_run(tmp_path: Path, run: Callable[[str], int]) -> None:
    line = LINE.format(CONFIGS / "beta_vae.yaml").split()
    last = tmp_path / "lightning_logs/beta_vae/version_0/checkpoints/last.ckpt"

    def epoch() -> int:
        return torch.load(last, weights_only=True)["epoch"] if last.exists() else -1

    ctrl_c = kill(tmp_path, [*line, "--trainer.max_epochs", "2000"], when=lambda: epoch() >= 5, by=signal.SIGINT)
    assert ctrl_c == 1
    stopped = epoch()
    check(last, beta_vae())
    resumed = ["fit", "--ckpt_path", "last", "--trainer.max_epochs"]
    kill(tmp_path, [*resumed, "2000"], when=lambda: epoch() >= stopped + 5)
    end = str(epoch() + 3)
    assert run(" ".join([*resumed, end])) == 0
    check(last, beta_vae())
    whole = [*line, "--trainer.max_epochs", end, "--experiment", "whole"]
    assert run(" ".join(whole)) == 0
    undisturbed = torch.load(tmp_path / "lightning_logs/whole/version_0/checkpoints/last.ckpt", weights_only=True)
    state = torch.load(last, weights_only=True)["state_dict"]
    assert any(key.startswith("thresholds.") for key in state)
    for key, value in undisturbed["state_dict"].items():
        assert torch.equal(state[key], value), key


def test_with_two_processes(tmp_path: Path) -> None:
    line = LINE.format(CONFIGS / "beta_vae.yaml").split()
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp_fork", "--trainer.max_epochs", "6"]
    done = command(tmp_path, [*line, *two])
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "lightning_logs/beta_vae/version_0/checkpoints"
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 5
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 3
    assert not torch.equal(weights(folder / "last.ckpt"), weights(folder / "best.ckpt"))
    for name in ("last", "best"):
        check(folder / f"{name}.ckpt", beta_vae())


def test_the_process_that_forked_has_the_detector_too(build: Build, tmp_path: Path) -> None:
    trained = model()
    build(max_epochs=1, devices=2, strategy="ddp_fork").fit(trained, data())
    x = next(iter(data().test_dataloader())).x
    expected, found = check(tmp_path / "kept/last.ckpt")(x), trained.detector(x)
    assert torch.equal(found.score, expected.score)
    assert torch.equal(found.p_value, expected.p_value)
    assert trained.trained_on["samples"] > 0
