"""What every model shares: steps, logged means, the optimiser, seeded noise, the detector."""

from __future__ import annotations

import inspect
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from ..batch import NORMAL, Batch
from ..detection.detector import Detector
from ..detection.thresholds import Percentile, Threshold
from ..errors import UserError
from ..scores import ReconstructionError, Score
from ..scores.sharing import Passes


class Means:
    """Means over all samples of a split, whatever the sizes of batches and shares of ranks."""

    def __init__(self, names: list[str] | None = None, total: Tensor | None = None) -> None:
        self.names, self._total = names or [], total
        self._batches: list[list[Tensor]] = []  # summed many at a time: every operation costs a small net's step time

    def update(self, terms: dict[str, Tensor]) -> None:
        """Add the terms of a batch, each (B,)."""
        self.names = list(terms)
        self._batches.append([term.detach() for term in terms.values()])
        if len(self._batches) == 100:
            _ = self.total

    @property
    def total(self) -> Tensor | None:
        """The sum of each term, and last the number of samples; None before there are any."""
        if self._batches:
            terms = [torch.cat(batches) for batches in zip(*self._batches, strict=True)]
            stacked = torch.stack([*terms, torch.ones_like(terms[0])])
            total = stacked.sum(1, dtype=torch.float32 if stacked.device.type == "mps" else torch.float64)
            self._total = total if self._total is None else self._total.to(total.device) + total
            self._batches = []
        return self._total

    def sum(self) -> float:
        """Of all terms together: finite as long as each is."""
        return 0.0 if self.total is None else self.total.sum().item()

    def compute(self, reduce: Callable[..., Any]) -> dict[str, Tensor]:
        """The means, over the ranks that ``reduce`` sums over."""
        *sums, count = reduce(self.total, reduce_op="sum").unbind()
        return {name: (value / count).float() for name, value in zip(self.names, sums, strict=True)}


class AnomalyModel(LightningModule):
    """Trains on normal samples; its detector is fitted on normal validation samples and scores everything else.

    A subclass gives ``objective`` and ``encode``, ``decode``, ``reconstruct`` as far as it has them.

    Args:
        input_shape: Of one sample; the command line takes it from the data.
        scores: What counts as strange; the first one decides.
        threshold: From scores of normal validation samples to a decision.
        optimizer: Of all parameters. Optimisers that have a fused implementation use it.
        lr_scheduler: Stepped once an epoch, OneCycleLR and CyclicLR at each optimiser step; None keeps the rate.
    """

    def __init__(
        self,
        input_shape: list[int],
        scores: list[Score] | None = None,
        threshold: Threshold | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # modules among the arguments: recorded as their own arguments below
            self.save_hyperparameters(logger=False)
        if "_instantiator" not in self.hparams:  # built in Python; the command line records what was configured
            recipe = _recipe(self)
            self.hparams.clear()
            self.save_hyperparameters(recipe, logger=False)
        self.input_shape = list(input_shape)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.detector = Detector([ReconstructionError()] if scores is None else scores, threshold or Percentile())
        self.detector.check(self)
        self.beta = 1.0  # the weight of the KL term at the current step; in the checkpoint
        self._means = {split: Means() for split in ("train", "val", "test")}
        self.passes: Passes | None = None  # what its scores have in common while they are computed
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

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook 45 times a step, and a module's own __setattr__ is slow
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.reconstruct(x)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.beta = self.beta_at(self.global_step, self._steps_per_epoch)
        terms = self.objective(batch.x, self.beta)
        loss = terms["loss"].mean()
        self._means["train"].update(terms)
        # a GPU is asked only now and then: each answer makes it wait
        if loss.device.type == "cpu" or batch_idx % 50 == 0:
            self._stop_if_not_finite(loss.item())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        scores = self.detector(self, batch.x)
        alarm = self.detector.thresholds[self.detector.primary](scores[self.detector.primary])
        return {**scores, "anomaly": alarm, "label": batch.label, "target": batch.target}

    def _evaluate(self, split: str, batch: Batch) -> None:
        """The terms of normal samples, the ones that the model is made for."""
        terms = self.objective(batch.x[batch.label == NORMAL], self.beta)
        if split == "val":
            # what the best epoch is chosen by: unlike the loss, comparable while β still changes
            terms["objective"] = terms["loss"] + (self.final_beta - self.beta) * terms.get("kl", 0.0)
        self._means[split].update(terms)

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
            self.calibrate()
        self._calibrate_if_unfitted()  # a checkpoint that is validated keeps what it came with

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        # the same noise in each epoch: differences are the model's; from −2 on, for hash(-1) == hash(-2)
        self._seed_noise(-2 - batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._log_means("val")

    def on_train_epoch_end(self) -> None:
        self._stop_if_not_finite(self._means["train"].sum())
        self._log_means("train")
        if "kl" in self._means["train"].names:
            self.log("train/beta", self.beta)

    def on_test_epoch_start(self) -> None:
        self._calibrate_if_unfitted()
        self._means["test"] = Means()

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._seed_noise(-2 - batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def on_predict_epoch_start(self) -> None:
        self._calibrate_if_unfitted()

    def _calibrate_if_unfitted(self) -> None:
        """Any score can be had from one checkpoint: what it does not bring is fitted as training would have."""
        if not self.detector.fitted:
            self.calibrate()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        means = self._means["train"]
        self._stop_if_not_finite(means.sum())  # never replace a good checkpoint by a ruined one
        checkpoint["train_means"] = {"names": means.names, "total": means.total}
        checkpoint["beta"] = self.beta
        checkpoint["detector"] = self._detection()
        checkpoint["rng_state"] = torch.get_rng_state()  # dropout draws from it

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.beta = checkpoint["beta"]
        self._rng_state = checkpoint["rng_state"]
        if self.global_rank == 0:  # whose share it is
            self._means["train"] = Means(**checkpoint["train_means"])  # a run resumed within an epoch goes on with it
        # not by the hyperparameters: jsonargparse changes lists among them in place while it builds the model
        if checkpoint["detector"] != self._detection():
            # other scores than the checkpoint's: they start out unfitted
            state = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("detector.")}
            checkpoint["state_dict"] = state | {f"detector.{k}": v for k, v in self.detector.state_dict().items()}

    def _detection(self) -> list[Any]:
        """What the detector is made of, as primitives."""
        return _describe([*self.detector.scores.values(), *self.detector.thresholds.values()])

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

    @torch.inference_mode(False)
    def calibrate(self) -> None:
        """Fit the detector on normal samples, all of them on every rank: no rank needs another."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "calibration_dataloader"):
            raise UserError(
                f"datamodule = {data}: scores are fitted on an AnomalyDataModule's normal validation samples"
            )
        self.detector.fit(self, _Inputs(data.calibration_dataloader()), _Inputs(data.reference_dataloader()))

    def noise(self, *shape: int) -> Tensor:
        """Standard normal noise on the model's device, keyed by (seed, rank, step)."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    @property
    def generator(self) -> torch.Generator:
        """What the noise is drawn from, on the model's device."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
        return self._generator

    def _seed_noise(self, step: int) -> None:
        self.generator.manual_seed(hash((torch.initial_seed(), self.global_rank, step)))

    @property
    def _steps_per_epoch(self) -> int:
        batches = self.trainer.num_training_batches
        return max(1, math.ceil(batches / self.trainer.accumulate_grad_batches))


class _Inputs:
    """The x of a loader's batches, as often as they are asked for."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.x for batch in self.loader)


def _recipe(module: Any) -> dict[str, Any]:
    """Constructor arguments as primitives, from which ``load_from_checkpoint`` builds the model anew."""
    given = {name: value for name, value in module.hparams.items() if not _is_function(value)}
    return {
        "_class_path": _class_path(type(module)),
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
        **{name: _describe(value) for name, value in given.items()},
    }


def _describe(value: Any) -> Any:
    """An object as class_path and init_args, if it keeps its arguments under their own names."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple, torch.nn.ModuleList)):
        return [_describe(item) for item in value]
    parameters = inspect.signature(type(value)).parameters.values()
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {"class_path": _class_path(type(value)), "init_args": {n: _describe(getattr(value, n)) for n in names}}


def _class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_function(value: Any) -> bool:
    """Optimisers and schedulers given in Python: a checkpoint holds their state, and fit is given them anew."""
    return inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, partial)
