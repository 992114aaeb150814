"""What every model shares: preprocessing, scores and thresholds, training steps, logged means, seeded noise."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from ..batch import NORMAL, Batch
from ..detection import storage
from ..detection.detector import Detector
from ..detection.preprocessing import Preprocessing
from ..detection.thresholds import Conformal, Threshold
from ..errors import UserError
from ..recipe import Recorded, describe, same
from ..scores import ReconstructionError, Score
from .means import Means

TRAINING_ONLY = "optimizer", "lr_scheduler"  # no part of what a checkpoint can be built from again


class AnomalyModel(Recorded, LightningModule):
    """Trains on normal samples; with its scores and thresholds it tells everything else from them.

    Batches hold raw samples: the model's first act is to prepare them. A subclass gives ``objective`` and ``encode``,
    ``decode``, ``reconstruct`` as far as it has them, all of prepared samples.

    Args:
        input_shape: Of one sample; the command line takes it from the data.
        scores: What counts as strange; the first one decides. Copied.
        threshold: From scores of normal calibration samples to a decision. Copied, once for each score.
        preprocessing: From raw samples to what the network sees; None takes the data module's. Copied.
        optimizer: Of all parameters. Optimisers that have a fused implementation use it.
        lr_scheduler: Stepped once an epoch, OneCycleLR and CyclicLR at each optimiser step; None keeps the rate.
    """

    def __init__(
        self,
        input_shape: list[int],
        scores: list[Score] | None = None,
        threshold: Threshold | None = None,
        preprocessing: Preprocessing | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(self.recipe["init_args"], logger=False)
        self.input_shape = list(input_shape)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.preprocessing = copy.deepcopy(preprocessing)
        self.scores = _named([ReconstructionError()] if scores is None else scores)
        threshold = Conformal() if threshold is None else threshold
        self.thresholds = cast(
            dict[str, Threshold], nn.ModuleDict({name: copy.deepcopy(threshold) for name in self.scores})
        )
        self.check_scores()
        self.beta = 1.0  # the weight of the KL term at the current step; in the checkpoint
        self.trained_on: dict[str, Any] = {}  # what the data module said of itself
        self._means = {split: Means() for split in ("train", "val", "test")}
        self._stale = False  # whether the weights have changed since scores and thresholds were fitted
        self._generator: torch.Generator | None = None
        self._rng_state: Tensor | None = None

    @abstractmethod
    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        """Terms of each sample in nats, (B, *input_shape) → {name: (B,)}; ``loss`` is the one that is minimised."""

    @abstractmethod
    def reconstruct(self, x: Tensor) -> Tensor:
        """x̂, the shape of x."""

    def beta_at(self, step: int, steps_per_epoch: int) -> float:
        """The weight of the KL term at an optimiser step; models without one have nothing to weight."""
        return 1.0

    @property
    def final_beta(self) -> float:
        """The weight that the training ends with."""
        return 1.0

    @property
    def detector(self) -> Detector:
        """Raw samples in, decisions out."""
        return Detector(self)

    def check_scores(self) -> None:
        """Raise a UserError if the model lacks what a score needs."""
        for score in self.scores.values():
            score.check(self)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook 45 times a step, and a module's own __setattr__ is slow
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # To a file and back

    @property
    def recipe(self) -> dict[str, Any]:
        """What the model is made of, as primitives: see :mod:`vae_lightning.recipe`."""
        return describe(self, TRAINING_ONLY)

    def about(self) -> dict[str, Any]:
        """What a file says of the model beside its weights."""
        recipe = self.recipe
        if self.preprocessing is not None:
            recipe["init_args"]["preprocessing"] = describe(self.preprocessing)
        return {
            "format": storage.FORMAT,
            "versions": storage.versions(),
            "model": recipe,
            "trained_on": self.trained_on,
        }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        trust: Sequence[type] = (),
        weights_only: bool = True,
    ) -> AnomalyModel:
        """The model of a checkpoint, in evaluation mode. Nothing in the file is run; Lightning's own way would.

        Args:
            checkpoint_path: A ``.ckpt`` file.
            map_location: The device.
            trust: See :meth:`vae_lightning.detection.detector.Detector.load`.
            weights_only: As Lightning's own; never less than that.

        Raises:
            UserError: When the file is damaged, or holds another kind of model than this class.
        """
        path = storage.find(checkpoint_path)
        model = storage.restore(storage.read(path), trust, str(path))
        if not isinstance(model, cls):
            raise UserError(f"{path}: holds a {type(model).__name__}, which is no {cls.__name__}")
        return model.to(map_location)

    # Lightning's steps

    def forward(self, raw: Tensor) -> Tensor:
        return self.reconstruct(self.prepared(raw))

    def prepared(self, raw: Tensor) -> Tensor:
        """Raw samples as the network sees them, float32 (B, *input_shape)."""
        assert self.preprocessing is not None  # given, or taken from the data module in setup
        return self.preprocessing(raw)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._stale = True
        self.beta = self.beta_at(self.global_step, self._steps_per_epoch)
        terms = self.objective(self.prepared(batch.x), self.beta)
        loss = terms["loss"].mean()
        self._means["train"].update(terms)
        # a GPU is asked only now and then: each answer makes it wait
        if loss.device.type == "cpu" or batch_idx % 50 == 0:
            self._stop_if_not_finite(loss.item())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        found = self.detector.graph(batch.x)
        answers = {"p_value": found.p_value, "anomaly": found.anomaly}
        return {**found.each, **answers, "label": batch.label, "target": batch.target, "row": batch.row}

    def _evaluate(self, split: str, batch: Batch, batch_idx: int) -> None:
        """The terms of normal samples, the ones that the model is made for."""
        x = self.prepared(batch.x[batch.label == NORMAL])
        terms = self._with_noise_of(batch_idx, x, self.beta)
        if split == "val":
            # what the best epoch is chosen by: the loss at the β that the training ends with, to compare epochs
            final = terms if self.beta == self.final_beta else self._with_noise_of(batch_idx, x, self.final_beta)
            terms["objective"] = final["loss"]
        self._means[split].update(terms)

    def _with_noise_of(self, batch_idx: int, x: Tensor, beta: float) -> dict[str, Tensor]:
        # the same noise in each epoch: differences are the model's; from −2 on, for hash(-1) == hash(-2)
        self._seed_noise(-2 - batch_idx)
        return self.objective(x, beta)

    def _log_means(self, split: str) -> None:
        means = self._means[split].compute(self.trainer.strategy.reduce)
        # the means are the same on every rank already; Lightning asks for sync_dist all the same
        values = {f"{split}/{name}": mean for name, mean in means.items()}
        self.log_dict(values, prog_bar=split == "train", sync_dist=True)

    def _stop_if_not_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the training loss became {'NaN' if math.isnan(loss) else 'infinite'} at step {self.global_step}: "
                "lower the learning rate, or clip gradients with trainer.gradient_clip_val; the last good checkpoint "
                "is kept"
            )

    # Lightning's hooks, in the order in which they are called

    def setup(self, stage: str) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.preprocessing is None and not hasattr(data, "preprocessing"):
            raise UserError("preprocessing is missing: give the model one, or train with an AnomalyDataModule")
        if hasattr(data, "reference_dataloader"):
            self.adopt(data, again=stage == "fit")

    def on_train_start(self) -> None:
        if self._rng_state is not None:
            torch.set_rng_state(self._rng_state)

    def on_train_epoch_start(self) -> None:
        self._means["train"] = Means()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # a function of the step, so that a resumed run draws what an undisturbed one would have drawn
        self._seed_noise(self.trainer.fit_loop.epoch_loop.total_batch_idx)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        # what zero_grad comes to, without its marks for a profiler
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def on_validation_epoch_start(self) -> None:
        self._means["val"] = Means()
        if self.trainer.state.fn == "fit":
            self.fit_detector()
        self._fit_detector_if_missing()  # a checkpoint that is validated keeps what it came with

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_train_epoch_end(self) -> None:
        self._stop_if_not_finite(self._means["train"].sum())
        self._log_means("train")
        if "kl" in self._means["train"].names:
            self.log("train/beta", self.beta)

    def on_fit_end(self) -> None:
        if self._stale:
            self.fit_detector()

    def on_test_epoch_start(self) -> None:
        self._fit_detector_if_missing()
        self._means["test"] = Means()

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def on_predict_epoch_start(self) -> None:
        self._fit_detector_if_missing()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        means = self._means["train"]
        self._stop_if_not_finite(means.sum())  # never replace a good checkpoint by a ruined one
        checkpoint["train_means"] = {"names": means.names, "total": means.total}
        checkpoint["beta"] = self.beta
        checkpoint["rng_state"] = torch.get_rng_state()  # dropout draws from it
        checkpoint[storage.KEY] = self.about()
        checkpoint.pop("hyper_parameters", None)  # Lightning's way back calls whatever they name
        if self._stale:  # thresholds belong to the weights that they were fitted for
            for name, threshold in copy.deepcopy(self.thresholds).items():
                threshold.reset()
                checkpoint["state_dict"].update(threshold.state_dict(prefix=f"thresholds.{name}."))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.beta = checkpoint.get("beta", self.final_beta)
        self._rng_state = checkpoint.get("rng_state")
        if self.global_rank == 0 and "train_means" in checkpoint:  # whose share it is
            self._means["train"] = Means(**checkpoint["train_means"])  # a run resumed within an epoch goes on with it
        # other scores than the checkpoint's start out unfitted
        arguments = checkpoint[storage.KEY]["model"]["init_args"]
        mine = self.recipe["init_args"]
        if not all(same(arguments.get(key), mine.get(key)) for key in ("scores", "threshold")):
            state = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith(("scores.", "thresholds."))}
            own = {k: v for k, v in self.state_dict().items() if k.startswith(("scores.", "thresholds."))}
            checkpoint["state_dict"] = state | own

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        for group in optimizer.param_groups:
            if group.get("fused", False) is None and not (group["foreach"] or group["differentiable"]):
                group["fused"] = True  # one kernel for the step: 1.25 times faster on a CPU than the default
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        # as their own documentation has it: these two count batches, the others epochs
        interval = "step" if isinstance(scheduler, (OneCycleLR, CyclicLR)) else "epoch"
        monitor = getattr(scheduler, "monitor", "val/objective")
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": monitor},
        }

    # The detector's life

    def adopt(self, data: Any, again: bool = True) -> None:
        """Take from a data module what the model lacks: preprocessing, fitted, and a word on what it is trained on.

        Args:
            data: An AnomalyDataModule.
            again: Whether that word replaces an earlier one.
        """
        if self.preprocessing is None:
            self.preprocessing = copy.deepcopy(data.preprocessing)
        if not self.preprocessing.fitted:  # a checkpoint, which is loaded later than this, brings its own
            self.preprocessing.fit(_Raw(data.reference_dataloader()))
        if again or not self.trained_on:
            self.trained_on = data.about()

    def fit_detector(self) -> None:
        """Fit scores and thresholds for the present weights, on normal samples; all of them on every rank."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "calibration_dataloader"):
            raise UserError(f"datamodule = {data}: scores are fitted on an AnomalyDataModule's normal samples")
        train, val = data.reference_dataloader(), data.validation_normals_dataloader()
        self.detector.fit(_Raw(train), _Raw(val))
        self.detector.calibrate(_Raw(data.calibration_dataloader()))
        self._stale = False

    def _fit_detector_if_missing(self) -> None:
        """Any score can be had from one checkpoint: what it does not bring is fitted as training would have."""
        if not self.detector.calibrated:
            self.fit_detector()

    # Noise

    def noise(self, *shape: int) -> Tensor:
        """Standard normal noise on the model's device, keyed by (seed, rank, step) where a Trainer runs the model."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    @property
    def generator(self) -> torch.Generator | None:
        """What the noise is drawn from: torch's own generator, which ``torch.manual_seed`` sets, without a Trainer."""
        return None if self._trainer is None else self._seeded

    @property
    def _seeded(self) -> torch.Generator:
        mine = self._generator
        # cuda is cuda:0 for a generator, and is not equal to it
        if mine is None or (mine.device.type, mine.device.index or 0) != (self.device.type, self.device.index or 0):
            self._generator = mine = torch.Generator(self.device)
        return mine

    def _seed_noise(self, step: int) -> None:
        self._seeded.manual_seed(hash((torch.initial_seed(), self.global_rank, step)))

    @property
    def _steps_per_epoch(self) -> int:
        batches = self.trainer.num_training_batches
        return max(1, math.ceil(batches / self.trainer.accumulate_grad_batches))


class _Raw:
    """The x of a loader's batches, as often as they are asked for."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.x for batch in self.loader)


def _named(scores: list[Score]) -> dict[str, Score]:
    """The scores by the names of their classes."""
    if not scores:
        raise UserError("model.init_args.scores is empty: name at least one score, ReconstructionError for instance")
    names = [type(score).__name__ for score in scores]
    names = [name if names.index(name) == i else f"{name}_{i + 1}" for i, name in enumerate(names)]
    # a ModuleDict is a dict of modules to everyone but the type checker
    return cast(dict[str, Score], nn.ModuleDict(dict(zip(names, copy.deepcopy(scores), strict=True))))
