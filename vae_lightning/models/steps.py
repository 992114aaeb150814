"""How every model is trained and evaluated: Lightning's steps and hooks, logged means, the optimiser, seeded noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from ..batch import NORMAL, Batch
from ..errors import UserError
from .means import Means
from .noise import Noise
from .random_state import random_state, set_random_state

if TYPE_CHECKING:
    from ..detection.detector import Detector

EVALUATION = 0  # a place in the run, where training has (rank, step)


class Steps(LightningModule):
    """The part of ``AnomalyModel`` that a Trainer calls. What it asks of the model stands first."""

    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None

    def __init__(self) -> None:
        super().__init__()
        self.beta = 1.0  # the weight of the KL term at the current step; in the checkpoint
        self._means = {split: Means() for split in ("train", "val", "test")}
        self._stale = False  # whether the weights have changed since scores and thresholds were fitted
        self._noises = [Noise()]
        self._random_state: dict[str, Any] | None = None  # of the checkpoint that the training goes on from

    @abstractmethod
    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        """Terms of each sample in nats, (B, *input_shape) → {name: (B,)}; ``loss`` is the one that is minimised."""

    @abstractmethod
    def prepared(self, raw: Tensor) -> Tensor:
        """Raw samples as the network sees them, float32 (B, *input_shape)."""

    @property
    @abstractmethod
    def detector(self) -> Detector:
        """Raw samples in, decisions out."""

    @abstractmethod
    def fit_detector(self) -> None:
        """Fit scores and thresholds for the present weights."""

    def beta_at(self, step: int, steps_per_epoch: int) -> float:
        """The weight of the KL term at an optimiser step; models without one have nothing to weight."""
        return 1.0

    @property
    def final_beta(self) -> float:
        """The weight that the training ends with."""
        return 1.0

    def minimised(self, loss: Tensor) -> Tensor:
        """From the loss of each sample (B,) to what an optimiser is given."""
        return loss.mean()

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook 45 times a step, and a module's own __setattr__ is slow
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._stale = True
        self.beta = self.beta_at(self.global_step, self._steps_per_epoch)
        terms = self.objective(self.prepared(batch.x), self.beta)
        loss = self.minimised(terms["loss"])
        self._means["train"].update(terms)
        # a GPU is asked only now and then: each answer makes it wait
        if loss.device.type == "cpu" or batch_idx % 50 == 0:
            # of all processes: each stops for the same reason, and none waits for one that has
            whole = loss.detach() if self._world == 1 else self.trainer.strategy.reduce(loss.detach(), reduce_op="sum")
            self._stop_if_not_finite(whole.item())
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
        normal = batch.label == NORMAL
        x, rows = self.prepared(batch.x[normal]), batch.row[normal]

        def terms_at(beta: float) -> dict[str, Tensor]:
            # the same noise in each epoch, and with any number of processes: differences are the model's
            self._begin_noise(EVALUATION, self.global_rank, batch_idx, rows=rows)
            return self.objective(x, beta)

        terms = terms_at(self.beta)
        if split == "val":
            # what the best epoch is chosen by: the loss at the β that the training ends with, to compare epochs
            terms["objective"] = (terms if self.beta == self.final_beta else terms_at(self.final_beta))["loss"]
        self._begin_noise(EVALUATION, self.global_rank, batch_idx)  # whoever draws next has other samples
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
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:  # not at the epoch's start, which Lightning leaves out at times when it resumes
            self._means["train"] = Means()
        # a function of the step, so that a resumed run draws what an undisturbed one would have drawn
        self._begin_noise(self.global_rank, self.trainer.fit_loop.epoch_loop.total_batch_idx)

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
            self.log("train/beta", self.beta, sync_dist=True)

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
        config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = getattr(scheduler, "monitor", "val/objective")
            if self._trainer is not None and config["monitor"].startswith("val/"):  # stepped when there is a value
                config["frequency"] = self._trainer.check_val_every_n_epoch or 1
        return {"optimizer": optimizer, "lr_scheduler": config}

    def share_seed(self) -> None:
        """Processes with seeds of their own would draw orders of their own, and train on some samples twice."""
        seed = self.trainer.strategy.broadcast(torch.initial_seed())
        if seed != torch.initial_seed():
            torch.manual_seed(seed)

    def keep_place(self, checkpoint: dict[str, Any]) -> None:
        """What each process has of its own goes into a checkpoint: its means up to here, its random state."""
        means = self._means["train"]
        total = means.total if means.total is None else means.total.cpu()
        mine = {"means": {"names": means.names, "total": total}, "random_state": random_state()}
        ranks: list[Any] = [mine]
        if self._world > 1:
            ranks *= self._world
            dist.all_gather_object(ranks, mine)
        totals = [rank["means"]["total"] for rank in ranks]
        # never replace a good checkpoint by a ruined one
        self._stop_if_not_finite(sum(float(total.sum()) for total in totals if total is not None))
        checkpoint["ranks"] = ranks

    def take_place(self, checkpoint: dict[str, Any]) -> None:
        """The opposite. A process that the checkpoint knows nothing of begins afresh."""
        ranks = checkpoint.get("ranks", [])
        if self.global_rank < len(ranks):
            mine = ranks[self.global_rank]
            self._random_state = mine["random_state"]
            self._means["train"] = Means(**mine["means"])  # a run resumed within an epoch goes on with it

    def _fit_detector_if_missing(self) -> None:
        """Any score can be had from one checkpoint: what it does not bring is fitted as training would have."""
        if not self.detector.calibrated:
            self.fit_detector()

    # Noise

    def noise(self, *shape: int) -> Tensor:
        """Standard normal noise on the model's device, of B samples (B, …) or of k draws each (k, B, features).

        Where a Trainer runs the model, keyed by (seed, rank, step) in training, by (seed, row) in evaluation.
        """
        if self._trainer is None:
            return torch.randn(*shape, device=self.device)
        return self._noises[0](*shape, device=self.device)

    @property
    def generator(self) -> torch.Generator | None:
        """For other random numbers in training: torch's own, which ``torch.manual_seed`` sets, without a Trainer."""
        return None if self._trainer is None else self._noises[0].generator(self.device)

    def _begin_noise(self, *place: int, rows: Tensor | None = None) -> None:
        for noise in self._noises:
            noise.begin(self.device, *place, rows=rows)

    @property
    def _world(self) -> int:
        return 1 if self._trainer is None else self._trainer.world_size

    @property
    def _steps_per_epoch(self) -> int:
        batches = self.trainer.num_training_batches
        return max(1, math.ceil(batches / self.trainer.accumulate_grad_batches))
