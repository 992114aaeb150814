"""One contract for every model, and beside it independent truths: closed forms, probabilistic PCA."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.random import SeedSequence
from scipy.stats import kstest
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from vae_lightning.data import NORMAL, AnomalyDataModule, Part, SyntheticMixture
from vae_lightning.detection import Percentile, Unchanged
from vae_lightning.errors import UserError
from vae_lightning.models import IWAE, VAE, AnomalyModel, Autoencoder, Ensemble
from vae_lightning.models.annealing import Constant, Cyclical, Linear
from vae_lightning.models.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.models.noise import Noise
from vae_lightning.scores import NAP, NegativeELBO, NegativeLogLikelihood, ReconstructionError

Build = Callable[..., Trainer]


def ensemble(kind: Callable[..., AnomalyModel], **kwargs: Any) -> Ensemble:
    """Three members; what is not an ensemble's argument is theirs."""
    own = {key: kwargs.pop(key) for key in ("scores", "optimizer", "lr_scheduler", "preprocessing") if key in kwargs}
    return Ensemble(kwargs["input_shape"], kind(**kwargs), members=3, **own)


# A new model costs one line here: what builds it from input_shape, network, latent_dim and keyword arguments.
MODELS: dict[str, Callable[..., AnomalyModel]] = {
    "Autoencoder": Autoencoder,
    "Autoencoder, Bernoulli": lambda **kwargs: Autoencoder(likelihood=Bernoulli(), **kwargs),
    "VAE": VAE,
    "VAE, Bernoulli": lambda **kwargs: VAE(likelihood=Bernoulli(), **kwargs),
    "VAE, continuous Bernoulli": lambda **kwargs: VAE(likelihood=ContinuousBernoulli(), **kwargs),
    "VAE, shared variance": lambda **kwargs: VAE(likelihood=Gaussian("shared"), **kwargs),
    "VAE, predicted variance": lambda **kwargs: VAE(likelihood=Gaussian("predicted"), beta=4.0, **kwargs),
    "VAE, annealed, several scores": lambda **kwargs: VAE(
        beta=Linear(0.2, 1.0, epochs=2), scores=[ReconstructionError(), NegativeELBO(4)], **kwargs
    ),
    "IWAE": lambda **kwargs: IWAE(k=3, likelihood=Gaussian("shared"), **kwargs),
    "Ensemble of autoencoders": partial(ensemble, Autoencoder, swap=0.2),
    "Ensemble of VAEs": partial(ensemble, VAE, likelihood=Gaussian("per_feature"), scores=[NegativeELBO(), NAP()]),
    "Ensemble of IWAEs": partial(ensemble, IWAE, k=8, likelihood=Gaussian("shared")),
}


def build(name: str, **kwargs: Any) -> AnomalyModel:
    torch.manual_seed(0)
    return MODELS[name](**{"input_shape": [10], "network": MLP([8, 6]), "latent_dim": 3, **kwargs})


def small(**kwargs: Any) -> SyntheticMixture:
    return SyntheticMixture(**{"samples": 450, "anomaly_fraction": 0.1, "batch_size": 32, **kwargs})


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# The contract


@pytest.mark.parametrize("shape", [[10], [1, 4, 5], [3, 2, 2]])
def test_the_objective_is_finite_and_its_gradient_reaches_every_parameter(name: str, shape: list[int]) -> None:
    model, x = build(name, input_shape=shape), torch.rand(16, *shape)
    terms = model.objective(x, 1.0)
    assert all(term.shape == (16,) and term.isfinite().all() for term in terms.values())
    terms["loss"].mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key
    assert model.reconstruct(x).shape == x.shape
    model.preprocessing = Unchanged()
    assert torch.equal(model.eval()(x), model.reconstruct(x))


def test_the_objective_is_of_each_sample_alone(name: str) -> None:
    """An empty batch too, for a validation batch may hold anomalies only."""
    model, x = build(name).eval(), torch.rand(6, 10)
    noise = torch.randn(6, 3)
    model.noise = lambda *shape: noise[: shape[-2]].expand(shape)  # type: ignore[method-assign]
    whole = model.objective(x, 0.5)
    for size in (0, 1, 4):
        for key, term in model.objective(x[:size], 0.5).items():
            torch.testing.assert_close(term, whole[key][:size])


def test_training_lowers_the_loss(name: str, trainer: Build) -> None:
    data = small()
    model = build(name, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    data.preprocessing.fit(batch.x for batch in data.reference_dataloader())
    x = torch.cat([data.preprocessing(batch.x) for batch in data.train_dataloader()])

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(model.objective(x, 1.0)["loss"].mean())

    before = loss()
    trainer(max_epochs=5).fit(model, data)
    assert loss() < before


def test_a_checkpoint_brings_back_the_same_scores_and_decisions(name: str, trainer: Build, tmp_path: Path) -> None:
    data, model = small(), build(name)
    fitter = trainer(max_epochs=2)
    fitter.fit(model, data)
    fitter.save_checkpoint(tmp_path / "model.ckpt")
    loaded = type(model).load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert loaded is not model
    assert loaded.about()["model"] == model.about()["model"]
    assert not loaded.training
    for (key, expected), (other, value) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(value, expected), key
    assert loaded.detector.calibrated
    with torch.no_grad():
        for batch in data.test_dataloader():
            expected, scores = (m.detector(batch.x).each for m in (model, loaded))
            assert scores.keys() == expected.keys()
            for score, values in expected.items():
                assert torch.equal(scores[score], values)
                assert torch.equal(loaded.thresholds[score](values), model.thresholds[score](values))
    predictions = trainer().predict(build(name), small(), ckpt_path=tmp_path / "model.ckpt")
    assert predictions is not None
    primary = torch.cat([prediction[model.detector.names[0]] for prediction in predictions])  # type: ignore[call-overload]
    with torch.no_grad():
        batches = list(data.test_dataloader())
        expected = torch.cat([model.detector.score(batch.x) for batch in batches])
    assert torch.equal(primary, expected)


def test_the_logged_terms_are_means_over_all_samples(name: str, trainer: Build) -> None:
    """Normal validation samples only, in batches of unequal size; the training loss is the mean of what was seen."""
    data, model = small(eval_batch_size=13, batch_size=27), build(name)
    seen: list[Tensor] = []
    objective = model.objective

    def spy(x: Tensor, beta: float) -> dict[str, Tensor]:
        terms = objective(x, beta)
        seen.extend(terms["loss"].detach() if model.training else [])
        return terms

    model.objective = spy  # type: ignore[method-assign]
    fitter = trainer(max_epochs=1, num_sanity_val_steps=0)
    fitter.fit(model, data)
    logged = fitter.callback_metrics
    term = model.likelihood.name  # type: ignore[union-attr]
    kl = {"kl"} if hasattr(getattr(model, "stack", model), "kl") else set()
    beta_too = {"beta"} if kl else set()
    expected = {f"train/{k}" for k in {"loss", term} | kl | beta_too} | {
        f"val/{k}" for k in {"loss", "objective", term} | kl
    }
    assert set(logged) == expected
    torch.testing.assert_close(logged["train/loss"], torch.stack(seen).double().mean().float())
    parts = logged[f"val/{term}"] + model.beta * logged.get("val/kl", torch.tensor(0.0))
    if isinstance(getattr(model, "stack", model), IWAE):
        assert logged["val/objective"] == logged["val/loss"] < parts  # a tighter bound than the ELBO
        return
    torch.testing.assert_close(logged["val/loss"], parts, rtol=1e-5, atol=1e-5)
    final = logged[f"val/{term}"] + model.final_beta * logged.get("val/kl", torch.tensor(0.0))
    torch.testing.assert_close(logged["val/objective"], final, rtol=1e-5, atol=1e-5)
    if not kl:
        normal = torch.cat([model.prepared(batch.x[batch.label == NORMAL]) for batch in data.val_dataloader()])
        with torch.no_grad():
            loss = model.eval().objective(normal, 1.0)["loss"].mean()
        torch.testing.assert_close(logged["val/loss"], loss)


# A run that is stopped


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_ends_with_the_weights_of_one_never_stopped(
    num_workers: int, trainer: Build, tmp_path: Path
) -> None:
    """Bit for bit, with all that draws at random: noise, dropout, the order. And the last epoch's logs are the same.

    From checkpoints at the first step, within an epoch, at its last step, after its validation and at its end.
    """

    def run(ckpt_path: Path | None = None, **kwargs: Any) -> tuple[AnomalyModel, dict[str, Tensor]]:
        model = build("VAE, annealed, several scores", network=MLP([8, 6], batch_norm=True, dropout=0.2))
        data = small(num_workers=num_workers)
        seed_everything(7, verbose=False)
        fitter = trainer(max_epochs=3, **kwargs)
        fitter.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return model, fitter.callback_metrics

    def keep(name: str, **kwargs: Any) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, name, save_top_k=-1, auto_insert_metric_name=False, **kwargs)

    callbacks = [
        keep("step{step}", every_n_train_steps=1),
        keep("best{epoch}", monitor="val/objective"),
        keep("end{epoch}", save_on_train_epoch_end=True),
    ]
    whole, logged = run(callbacks=callbacks, enable_checkpointing=True)
    assert len(list(tmp_path.glob("step*"))) == 27
    for name in ("step14", "step9") if num_workers else ("step1", "step9", "step14", "step26", "best1", "end0", "end1"):
        resumed, metrics = run(tmp_path / f"{name}.ckpt")
        for (key, expected), value in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
            assert torch.equal(value, expected), f"{name}: {key}"
        assert metrics == logged, name


def test_an_optimiser_with_momentum_and_a_scheduler_resume(trainer: Build, tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None, max_epochs: int = 4) -> AnomalyModel:
        model = build(
            "VAE",
            optimizer=lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
            lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        )
        seed_everything(7, verbose=False)
        fitter = trainer(max_epochs=max_epochs)
        fitter.fit(model, small(), ckpt_path=ckpt_path, weights_only=True)
        assert fitter.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**max_epochs)
        fitter.save_checkpoint(tmp_path / f"{max_epochs}.ckpt")
        return model

    whole = run()
    run(max_epochs=2)
    resumed = run(tmp_path / "2.ckpt")
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:Checkpoint directory")
def test_a_run_of_so_many_steps_has_its_cycle_in_steps_and_validates_at_its_end(trainer: Build, tmp_path: Path) -> None:
    """OneCycleLR is stepped by the batch, as PyTorch documents it; the last step is validated, within an epoch."""

    def run(ckpt_path: Path | None = None) -> tuple[AnomalyModel, list[float]]:
        model = build("VAE", lr_scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01, total_steps=25))
        rates: list[float] = []

        class Rates(Callback):
            def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
                rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        best = ModelCheckpoint(tmp_path, "best", monitor="val/objective", enable_version_counter=False)
        each = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=13, enable_version_counter=False)
        settings = {"max_steps": 25, "val_check_interval": 25, "check_val_every_n_epoch": None}
        fitter = trainer(**settings, num_sanity_val_steps=0, callbacks=[Rates(), best, each], enable_checkpointing=True)
        seed_everything(7, verbose=False)
        fitter.fit(model, small(), ckpt_path=ckpt_path, weights_only=True)
        assert fitter.global_step == 25
        return model, rates

    whole, rates = run()
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    truth = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=25)
    for rate in rates:
        assert rate == pytest.approx(truth.get_last_lr()[0])
        optimizer.step()
        truth.step()
    assert len(rates) == 25
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["global_step"] == 25
    assert whole.detector.calibrated
    resumed, rest = run(tmp_path / "step=13.ckpt")
    assert rest == rates[13:]
    for (key, expected), value in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, expected), key


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    poison: float, trainer: Build, tmp_path: Path
) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
            if trainer.global_step == 12:
                next(model.parameters()).data.fill_(poison)

    keep = ModelCheckpoint(tmp_path, "last", every_n_train_steps=1, enable_version_counter=False)
    fitter = trainer(max_epochs=3, callbacks=[Poison(), keep], enable_checkpointing=True)
    with pytest.raises(UserError, match=r"training loss became .* at step 12: lower the learning rate"):
        fitter.fit(build("Autoencoder"), small())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 12
    weights = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("thresholds.")}
    assert all(value.isfinite().all() for value in weights.values())


# Steps and noise


def test_the_noise_is_keyed_by_seed_rank_and_step(trainer: Build) -> None:
    """Of each training batch and each validation batch another; of a validation batch the same in each epoch."""
    drawn: dict[tuple[str, int, int], Tensor] = {}

    class Record(Callback):
        def on_train_batch_end(self, trainer: Trainer, model: Any, out: Any, batch: Any, i: int) -> None:
            self.note("train", trainer, model, i)

        def on_validation_batch_end(self, trainer: Trainer, model: Any, out: Any, batch: Any, i: int) -> None:
            self.note("val", trainer, model, i)

        def note(self, split: str, trainer: Trainer, model: Any, i: int) -> None:
            drawn[split, trainer.current_epoch, i] = torch.randn(3, generator=model.generator)

    def run(seed: int) -> dict[tuple[str, int, int], Tensor]:
        drawn.clear()
        model, data = build("VAE"), small(eval_batch_size=9, batch_size=32, val_anomalies=0.1)
        seed_everything(seed, verbose=False)
        trainer(max_epochs=2, num_sanity_val_steps=0, callbacks=[Record()]).fit(model, data)
        return dict(drawn)

    first = run(0)
    train = [tuple(noise.tolist()) for (split, *_), noise in first.items() if split == "train"]
    assert len(set(train)) == len(train) == 18
    val = [tuple(noise.tolist()) for (split, epoch, _), noise in first.items() if (split, epoch) == ("val", 0)]
    assert len(set(val)) == len(val) > 2
    assert not set(train) & set(val)
    for (split, epoch, i), noise in first.items():
        assert split == "train" or torch.equal(noise, first["val", 0, i])
        assert epoch < 2
    again, other = run(0), run(1)
    assert all(torch.equal(again[key], noise) for key, noise in first.items())
    assert [key for key, noise in first.items() if torch.equal(other[key], noise)] == []
    noise, draws = Noise(), []
    for rank in (0, 1):
        noise.begin(torch.device("cpu"), rank, 5)
        draws.append(noise(4, device=torch.device("cpu")))
    assert not torch.equal(*draws)
    expected = SeedSequence(torch.initial_seed(), spawn_key=(1, 0)).generate_state(6, np.uint64)[5]
    assert torch.equal(draws[1], torch.randn(4, generator=torch.Generator().manual_seed(int(expected))))


class Noted(VAE):
    """Notes what each sample is given in evaluation: one draw, three at once, and what the objective draws itself."""

    def __init__(self, input_shape: list[int]) -> None:
        super().__init__(input_shape, MLP([8]), 3)
        self.given: dict[tuple[float, ...], list[Tensor]] = {}

    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        if not self.training:
            several = torch.cat([self.noise(len(x), 3)[None], self.noise(3, len(x), 3)])
            for i, sample in enumerate(x):
                self.given.setdefault(tuple(sample.tolist()), []).append(several[:, i])
        return super().objective(x, beta)


def test_the_noise_of_evaluation_is_each_samples_own(trainer: Build) -> None:
    """The same in each epoch and any batch; another for another sample, draw or seed."""

    def run(seed: int, eval_batch_size: int) -> dict[tuple[float, ...], list[Tensor]]:
        torch.manual_seed(seed)
        model, data = Noted([10]), small(eval_batch_size=eval_batch_size)
        trainer(max_epochs=2, num_sanity_val_steps=0).fit(model, data)
        return model.given

    first, other_batches, other_seed = run(0, 9), run(0, 64), run(1, 9)
    for sample, (one, again) in first.items():
        assert torch.equal(one, again)
        assert torch.equal(other_batches[sample][0], one)
    numbers = torch.stack([noise[0] for run in (first, other_seed) for noise in run.values()]).flatten()
    assert len(numbers.unique()) == len(numbers) > 200
    assert kstest(numbers, "norm").pvalue > 1e-3


def test_the_noise_changes_from_draw_to_draw_wherever_the_model_is(trainer: Build) -> None:
    """``cpu:0`` is the CPU, and not equal to it."""
    model = build("VAE")
    torch.manual_seed(1)
    first = model.noise(4)
    torch.manual_seed(1)
    assert torch.equal(model.noise(4), first), "without a Trainer torch.manual_seed has its say"
    trainer(max_epochs=1).fit(model, small())
    model.to("cpu:0")
    assert not torch.equal(model.noise(4), model.noise(4))


class Squared(VAE):
    """A VAE whose KL term is squared: its loss is not linear in β·KL."""

    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        terms = super().objective(x, beta)
        return {**terms, "loss": terms[self.likelihood.name] + beta * terms["kl"].square()}


def test_the_objective_that_chooses_the_epoch_is_the_loss_at_the_final_beta(trainer: Build) -> None:
    torch.manual_seed(0)
    data, model = small(), Squared([10], MLP([8]), 3, beta=Linear(0.0, 2.0, epochs=10))
    fitter = trainer(max_epochs=1, num_sanity_val_steps=0)
    fitter.fit(model, data)
    assert 0 < model.beta < 0.25
    (batch,) = data.val_dataloader()
    normal = model.prepared(batch.x[batch.label == NORMAL])
    model.eval()
    model._begin_noise(0, rows=batch.row[batch.label == NORMAL])
    with torch.no_grad():
        expected = model.objective(normal, 2.0)["loss"].mean()
    torch.testing.assert_close(fitter.callback_metrics["val/objective"], expected)
    assert fitter.callback_metrics["val/loss"] < expected - 0.1


@pytest.mark.parametrize("beta", [Constant(0.3), Linear(0.0, 2.0, epochs=2), Cyclical(steps=10, cycles=2)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_beta_follows_the_optimiser_steps(beta: Any, accumulate: int, trainer: Build) -> None:
    seen: list[tuple[int, float]] = []

    class Record(Callback):
        def on_train_batch_end(self, trainer: Trainer, model: Any, *_: Any) -> None:
            seen.append((trainer.fit_loop.epoch_loop.total_batch_idx, model.beta))

    trainer(max_epochs=3, accumulate_grad_batches=accumulate, callbacks=[Record()]).fit(
        build("VAE", beta=beta), small()
    )
    assert [batch for batch, _ in seen] == list(range(27))
    per_epoch = -(-9 // accumulate)  # 9 batches; what is left over at an epoch's end is a step too
    for batch, value in seen:
        step = batch // 9 * per_epoch + batch % 9 // accumulate
        assert value == pytest.approx(beta(step, per_epoch))


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "Adagrad", "RMSprop"])
def test_a_fused_optimiser_does_what_the_plain_one_does(name: str) -> None:
    def fitted(**kwargs: bool) -> tuple[list[Tensor], Any]:
        model = build("Autoencoder", optimizer=lambda p: getattr(torch.optim, name)(p, lr=0.01, **kwargs))
        optimizer = model.configure_optimizers()
        for i in range(5):
            optimizer.zero_grad()
            model.objective(torch.rand(16, 10, generator=torch.Generator().manual_seed(i)), 1.0)[
                "loss"
            ].mean().backward()
            optimizer.step()
        return list(model.parameters()), optimizer

    plain, unfused = fitted(foreach=False)
    if "fused" in unfused.defaults:
        plain, unfused = fitted(fused=False)  # what the user asks for is what happens
        assert not unfused.param_groups[0]["fused"]
    weights, optimizer = fitted()
    assert bool(optimizer.param_groups[0].get("fused")) == (name != "RMSprop")
    for expected, value in zip(plain, weights, strict=True):
        torch.testing.assert_close(value, expected)


def test_parameter_groups_are_kept() -> None:
    def groups(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.Adam([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)

    optimizer = build("Autoencoder", optimizer=groups).configure_optimizers()
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [(1, 0.5), (11, 0.1)]


def test_an_optimiser_class_is_as_good_as_a_function(trainer: Build, tmp_path: Path) -> None:
    model = build("Autoencoder", optimizer=torch.optim.AdamW)
    fitter = trainer(max_epochs=1)
    fitter.fit(model, small())
    fitter.save_checkpoint(tmp_path / "model.ckpt")
    assert isinstance(fitter.optimizers[0], torch.optim.AdamW)
    Autoencoder.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)


def test_a_plateau_scheduler_watches_the_validation_objective() -> None:
    model = build("VAE", lr_scheduler=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o))
    assert model.configure_optimizers()["lr_scheduler"]["monitor"] == "val/objective"


@pytest.mark.parametrize("name", ["Autoencoder", "VAE, annealed, several scores", "Ensemble of IWAEs"])
def test_two_processes_log_the_means_of_one(name: str, trainer: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """43 samples in two unequal shares: terms are means over samples, not over batches or ranks, noise is theirs."""
    data = {"samples": 213, "eval_batch_size": 8, "anomaly_fraction": 0.1}
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # of another test: the processes would take it for theirs

    def logged(call: str, **kwargs: Any) -> dict[str, float]:
        model = build(name)
        model.beta = 0.3  # in the midst of a training
        (values,) = getattr(trainer(**kwargs), call)(model, small(**data), verbose=False)
        return values

    for call in ("validate", "test"):
        one, two = logged(call), logged(call, devices=2, strategy="ddp_fork")
        assert one.keys() == two.keys()
        for key, expected in one.items():
            assert two[key] == pytest.approx(expected, rel=1e-6), key


# The detector's life


@pytest.mark.parametrize("calibration_fraction", [None, 0.2, 0.0])
def test_thresholds_are_percentiles_of_normal_calibration_scores_alone(
    calibration_fraction: float | None, trainer: Build
) -> None:
    """Without a calibration split, of the validation's normal samples."""
    scores = [NegativeLogLikelihood(), ReconstructionError()]
    data, model = (
        small(calibration_fraction=calibration_fraction),
        build("VAE", scores=scores, threshold=Percentile(90, "linear")),
    )
    trainer(max_epochs=1).fit(model, data)
    loader = data.val_dataloader() if calibration_fraction == 0 else data.calibration_dataloader()
    normal = torch.cat([batch.x[batch.label == NORMAL] for batch in loader])
    for name, found in model.detector(normal).each.items():
        assert float(model.thresholds[name].value) == pytest.approx(np.percentile(found.double(), 90), rel=1e-6)
        assert torch.equal(model.thresholds[name].calibration, found.sort().values)


def test_validating_and_testing_leave_the_thresholds_as_they_came(trainer: Build) -> None:
    model = build("VAE")
    trainer(max_epochs=1).fit(model, small())
    before = model.thresholds["ReconstructionError"].value.clone()
    trainer().validate(model, small(seed=3), verbose=False)
    trainer().test(model, small(seed=3), verbose=False)
    trainer().predict(model, small(seed=3))
    assert torch.equal(model.thresholds["ReconstructionError"].value, before)


def test_a_prediction_holds_scores_decision_label_and_class(trainer: Build) -> None:
    data, model = small(), build("VAE", scores=[ReconstructionError(), NegativeELBO()])
    trainer(max_epochs=1).fit(model, data)
    predictions = trainer().predict(model, data)
    assert predictions is not None
    for prediction, batch in zip(predictions, data.predict_dataloader(), strict=True):
        assert isinstance(prediction, dict)
        assert set(prediction) == {
            "ReconstructionError",
            "NegativeELBO",
            "p_value",
            "anomaly",
            "label",
            "target",
            "row",
        }
        above = prediction["ReconstructionError"].double() > model.thresholds["ReconstructionError"].value
        assert torch.equal(prediction["anomaly"], above)
        assert torch.equal(prediction["label"], batch.label)
        assert torch.equal(prediction["target"], batch.target)
        assert torch.equal(prediction["row"], batch.row)
        assert torch.equal(
            prediction["p_value"], model.thresholds["ReconstructionError"].p_values(prediction["ReconstructionError"])
        )


# What a checkpoint says of a model


def test_hyperparameters_are_primitives_that_build_the_model_anew() -> None:
    model = VAE(
        [10],
        MLP([8, 6], "Tanh", dropout=0.1),
        3,
        Gaussian("per_feature"),
        Cyclical(steps=9, cycles=3),
        scores=[NegativeELBO(2, seed=5)],
        threshold=Percentile(90),
    )
    described = dict(model.hparams)
    assert described["input_shape"] == [10]
    assert described["latent_dim"] == 3
    for key, class_path, init_args in [
        (
            "network",
            "vae_lightning.models.networks.MLP",
            {"hidden": [8, 6], "activation": "Tanh", "batch_norm": False, "dropout": 0.1},
        ),
        ("likelihood", "vae_lightning.models.likelihoods.Gaussian", {"variance": "per_feature", "min_logvar": -10.0}),
        ("threshold", "vae_lightning.detection.thresholds.Percentile", {"percentile": 90, "method": "order_statistic"}),
    ]:
        assert described[key] == {"class_path": class_path, "init_args": init_args}
    assert described["scores"] == [
        {"class_path": "vae_lightning.scores.likelihood.NegativeELBO", "init_args": {"samples": 2, "seed": 5}}
    ]
    assert described["beta"]["init_args"] == {
        "start": 0.0,
        "stop": 1.0,
        "epochs": None,
        "steps": 9,
        "cycles": 3,
        "ratio": 0.5,
    }


@pytest.mark.parametrize("latent_dim", [0, -1])
def test_a_wrong_latent_size_is_named(latent_dim: int) -> None:
    with pytest.raises(UserError, match=f"latent_dim = {latent_dim} "):
        VAE([4], latent_dim=latent_dim)


def test_a_wrong_beta_is_named() -> None:
    with pytest.raises(UserError, match="beta = -1"):
        VAE([4], beta=-1)


# Independent truths


def test_the_kl_divergence_is_torchs() -> None:
    mu, logvar = 3 * torch.randn(50, 7), 4 * torch.randn(50, 7)
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(VAE.kl(mu, logvar), expected)
    assert VAE.kl(torch.zeros(3, 7), torch.zeros(3, 7)).tolist() == [0, 0, 0]


def test_the_objective_is_the_negative_elbo_weighted_by_beta() -> None:
    model, x = build("VAE, shared variance"), torch.rand(16, 10)
    for beta in (0.0, 1.0, 4.0):
        torch.manual_seed(1)
        noise = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
        terms = model.objective(x, beta)
        mu, logvar = model.encoder(x).chunk(2, 1)  # type: ignore[operator]
        z = mu + noise * (0.5 * logvar).exp()
        nll = -Normal(model.decoder(z)[:, 0], 1.0).log_prob(x).sum(1)  # type: ignore[operator]
        kl = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)
        for key, expected in {"nll": nll, "kl": kl, "loss": nll + beta * kl}.items():
            torch.testing.assert_close(terms[key], expected)


def test_the_gradient_of_the_monte_carlo_objective_is_that_of_the_closed_form() -> None:
    """The reparameterised estimate is unbiased: averaged over draws it is the linear model's analytic gradient."""
    torch.manual_seed(0)
    model, x = linear(5, 2).double(), torch.randn(8, 5).double()
    names = [name for name, _ in model.named_parameters()]
    loss = -elbo(model, x).mean()
    exact = torch.autograd.grad(loss, list(model.parameters()))
    estimates = []
    for seed in range(40):
        torch.manual_seed(seed)
        draws = model.objective(x.repeat(500, 1), 1.0)["loss"].mean()
        estimates.append(torch.autograd.grad(draws, list(model.parameters())))
    for name, truth, *drawn in zip(names, exact, *estimates, strict=True):
        stacked = torch.stack(drawn)
        error = stacked.std(0) / len(drawn) ** 0.5
        assert ((stacked.mean(0) - truth).abs() <= 5 * error + 1e-9).all(), name


def linear(features: int, latent_dim: int, **kwargs: Any) -> VAE:
    return VAE([features], MLP([]), latent_dim, Gaussian("shared"), **kwargs)


def decoder(model: VAE) -> tuple[Tensor, Tensor, Tensor]:
    """W, b and σ² of x = W z + b + N(0, σ² I)."""
    layer = model.decoder[-1][0]  # type: ignore[index]
    return layer.weight, layer.bias, model.likelihood._logvar.exp()  # type: ignore[operator]


def evidence(model: VAE, x: Tensor) -> Tensor:
    """The evidence: log p(x) = log N(x; b, W Wᵀ + σ² I), exact."""
    w, b, variance = (t.double() for t in decoder(model))
    return MultivariateNormal(b, w @ w.T + variance * torch.eye(len(b)).double()).log_prob(x.double())


def elbo(model: VAE, x: Tensor) -> Tensor:
    """In closed form: E_q ‖x − W z − b‖² = ‖x − W μ − b‖² + Σ_j σ_j² ‖w_j‖²."""
    w, b, variance = (t.double() for t in decoder(model))
    mu, logvar = (t.double() for t in model.posterior(x))
    squares = (x.double() - mu @ w.T - b).square().sum(1) + logvar.exp() @ w.square().sum(0)
    nll = 0.5 * (squares / variance + len(b) * (math.log(2 * math.pi) + variance.log()))
    return -nll - kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(1)


class ProbabilisticPCA(AnomalyDataModule):
    """x = W z + b + N(0, σ² I) in 6 dimensions out of 2; the anomalies, which nobody looks at, lie elsewhere."""

    preprocessing = Unchanged()

    def __init__(self, samples: int, **kwargs: Any) -> None:
        self.samples, self.input_shape, self.classes = samples, [6], ["normal", "anomaly"]
        super().__init__(normal_classes=[0], **kwargs)

    def load(self) -> tuple[Part, Part]:
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, generator=generator)
        w, b = torch.linalg.qr(draw(6, 2)).Q * torch.tensor([2.0, 1.0]), draw(6)
        z, noise = draw(self.samples, 2), draw(self.samples, 6)
        x = z @ w.T + b + 0.5 * noise
        x[::10] += 20
        part = Part(x, (torch.arange(self.samples) % 10 == 0).long())
        return part, part


def test_a_linear_vae_reaches_the_evidence_of_probabilistic_pca(trainer: Build) -> None:
    """Tipping and Bishop 1999: the maximum of log p(x), which the ELBO attains, for the posterior is diagonal there.

    Lucas et al. 2019, "Don't Blame the ELBO!": the linear VAE has no other stable maximum.
    """
    seed_everything(0, verbose=False)
    data = ProbabilisticPCA(2500, batch_size=500)
    model = linear(
        6,
        2,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.03),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100),
    )
    trainer(max_epochs=100, limit_val_batches=0).fit(model, data)
    x = torch.cat([batch.x for batch in data.train_dataloader()])
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T.double(), correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    best = -0.5 * float(6 * math.log(2 * math.pi) + eigenvalues[:2].log().sum() + 4 * noise.log() + 6)
    assert PCA(2, svd_solver="full").fit(x).score(x) == pytest.approx(best, abs=1e-3)  # whose covariance is over N − 1
    with torch.no_grad():
        assert best - 0.01 < elbo(model, x).mean() <= evidence(model, x).mean() < best + 1e-6
        assert float(decoder(model)[2]) == pytest.approx(float(noise), rel=0.05)
        below_the_evidence(model, x[:200])


def test_the_elbo_never_exceeds_the_evidence_in_an_untrained_model() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        with torch.no_grad():
            below_the_evidence(linear(4, 3), 2 * torch.randn(50, 4))


def below_the_evidence(model: VAE, x: Tensor) -> None:
    """Sample by sample log p(x) − ELBO = KL(q(z | x) ‖ p(z | x)) ≥ 0, and the objective estimates it without bias."""
    w, b, variance = (t.double() for t in decoder(model))
    mu, logvar = (t.double() for t in model.posterior(x))
    precision = torch.eye(w.shape[1]).double() + w.T @ w / variance
    posterior = MultivariateNormal((x.double() - b) @ w @ precision.inverse() / variance, precision_matrix=precision)
    gap = kl_divergence(MultivariateNormal(mu, torch.diag_embed(logvar.exp())), posterior)
    exact, bound = evidence(model, x), elbo(model, x)
    assert (bound <= exact).all()
    torch.testing.assert_close(exact - bound, gap, rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    draws = torch.stack([-model.objective(x, 1.0)["loss"] for _ in range(500)]).double()
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - bound).abs() < 5 * error).all()
    assert (draws.mean(0) <= exact + 5 * error).all()
