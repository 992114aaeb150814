"""Several trainings as one: models of one shape that differ in β, learning rate and seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from ..batch import Batch
from ..errors import UserError
from ..models import AnomalyModel
from ..models.means import Means
from ..models.noise import Noise
from ..models.together import Together
from .member import Member


class Batched(Together):
    """K models that a Trainer takes for one. Each comes to what it would come to alone, up to rounding.

    One pass computes all gradients. Optimiser, schedule, scores and figures are each member's own: its parameters are
    views of its part of the stack. So nothing of one reaches another, whatever the optimiser does.

    Args:
        models: What the members are made like: Autoencoder, VAE or IWAE, with an MLP without dropout. One may stand
            for several members.
        seeds: Of weights, order of samples and noise, one each. The Trainer runs with the smallest of them.
        folders: Of the runs. Nothing is written.
    """

    def __init__(self, models: Sequence[AnomalyModel], seeds: Sequence[int], folders: Sequence[Path]) -> None:
        super().__init__()
        self.seed = min(seeds)
        self.orders = [seed - self.seed for seed in seeds]
        drawn = [_drawn(model, seed) for model, seed in zip(models, seeds, strict=True)]
        self.each = [Member(*one) for one in zip(drawn, seeds, folders, strict=True)]
        self._apart = drawn
        self._modules["models"] = nn.ModuleList(self._apart)
        self.members = len(self._apart)
        self._noises = [Noise(later) for later in self.orders]
        for model, noise in zip(self._apart, self._noises, strict=True):
            model._noises = [noise]
        self.stack = self._stack()
        self._turn: tuple[Member, str] | None = None
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """A member's share of what the training has taken."""
        return (time.monotonic() - self._started) / self.members

    @property
    def preprocessing(self) -> Any:
        return self._apart[0].preprocessing

    def prepared(self, raw: Tensor) -> Tensor:
        prepared: Tensor = self._apart[0].prepared(raw)
        return prepared

    def objective(self, x: Tensor, beta: Any) -> dict[str, Tensor]:
        """Terms of the K · B samples of all members; β (K,)."""
        with self._at_once(x) as rows:
            terms: dict[str, Tensor] = self.stack.objective(rows, beta.repeat_interleave(len(rows) // self.members))
        return terms

    @property
    def detector(self) -> Any:
        raise UserError("each member has a detector: all of them together have none")

    def fit_detector(self) -> None:
        """Each validation of a member fits its own."""

    def _of_each(self, what: Callable[..., Any], *arguments: Any) -> list[tuple[Member, Any]]:
        """Call a method of each member that can still go on; the training ends when none can."""
        found = [(m, m.attempt(what, m, *arguments)) for m in self.each if m.error is None]
        if all(member.error for member in self.each):
            self.trainer.should_stop = True
        return [(member, result) for member, result in found if member.error is None]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.stack.parameters():
            parameter.grad.zero_()  # not replaced: members have views of it

    # Lightning's hooks, in the order in which they are called

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        data.orders = self.orders
        self.trainer.strategy.checkpoint_io = _Nowhere()
        for model in self._apart:
            model.trainer = self.trainer
            model.adopt(data)
        self.stack.prepare_for(self.preprocessing)

    def configure_optimizers(self) -> Any:
        gradients = {}
        for parameter in self.stack.parameters():
            parameter.grad = torch.zeros_like(parameter)
            gradients[parameter.untyped_storage().data_ptr()] = parameter.grad
        self.apart()  # their parameters are now views of the stack's
        for member in self.each:
            member.adopt(gradients)
        return _EachItsOwn(self)

    def on_train_start(self) -> None:
        self._started = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        for model in self._apart if batch_idx == 0 else []:
            model._means["train"] = Means()
        self._begin_noise(self.global_rank, self.trainer.fit_loop.epoch_loop.total_batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        for model in self._apart:
            model.beta = model.beta_at(self.global_step, self._steps_per_epoch)
        betas = torch.tensor([model.beta for model in self._apart], device=self.device)
        terms = self.objective(self.prepared(batch.x), betas)
        rows = {name: term.unflatten(0, (self.members, -1)).unbind() for name, term in terms.items()}
        for k, model in enumerate(self._apart):
            model._means["train"].update({name: term[k] for name, term in rows.items()})
        losses = terms["loss"].unflatten(0, (self.members, -1)).mean(1)
        if losses.device.type == "cpu" or batch_idx % 50 == 0:
            for member, loss in zip(self.each, losses.tolist(), strict=True):
                if member.error is None:
                    member.attempt(member.model._stop_if_not_finite, loss)
            self._of_each(lambda member: None)
        return losses.nansum()  # of the sum each member's gradient is its own

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        self.zero_grad()

    def on_validation_epoch_start(self) -> None:
        self._of_each(Member.begin_validation, self.trainer)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._of_each(Member.validate, self.trainer, batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._of_each(Member.end_validation, self.trainer)

    def on_train_epoch_end(self) -> None:
        for member, better in self._of_each(Member.end_epoch, self.global_step - 1):
            if better:
                self._save(member, "best")

    def on_train_end(self) -> None:
        for member, _ in self._of_each(lambda member: None):
            self._save(member, "last")

    def _save(self, member: Member, name: str) -> None:
        self._turn = member, name
        self.trainer.save_checkpoint(member.checkpoints / f"{name}.ckpt", weights_only=False)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Of a checkpoint before a member fills it."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self._turn is not None
        member, name = self._turn
        member.fill(checkpoint, name, self.seconds)


class _EachItsOwn(torch.optim.Optimizer):
    """The members' optimisers as one."""

    def __init__(self, batched: Batched) -> None:
        self.each = batched.each
        super().__init__(list(batched.stack.parameters()), {})

    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        for member in self.each:
            if member.error is None:
                member.step()
        return loss


class _Nowhere(TorchCheckpointIO):
    """Writes nothing: a group that is killed leaves no half trials."""

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        """The member has it."""


def _drawn(model: AnomalyModel, seed: int) -> AnomalyModel:
    """Another one like it, with the weights that a seed draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.again()
