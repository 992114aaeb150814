"""Several models of the same kind, trained at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from ..detection.preprocessing import Preprocessing
from ..detection.thresholds import Threshold
from ..errors import UserError
from ..recipe import describe
from ..scores import Score
from ..scores.members import MemberMean, Spread
from .base import TRAINING_ONLY, AnomalyModel
from .noise import Noise
from .together import Together


class Ensemble(Together, AnomalyModel):
    """K members that differ in their initial weights and their noise: one module, one optimiser, one pass.

    Lakshminarayanan, Pritzel and Blundell 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles". For tables K members take little longer than one: a small network's step is mostly overhead.

    Member k is what a run by itself with a seed larger by k comes to, up to rounding: weights and noise, with ``own``
    orders the order of samples, too. Only dropout draws otherwise, and ``gradient_clip_val`` looks at all members.

    A score is the mean over the members, each on its own scale, see ``MemberMean``;
    ``Spread``, the last of the scores, is how far they disagree. Logged terms are means over the members.

    Args:
        input_shape: Of one prepared sample; the command line takes it from the data.
        member: What each is, an ``Autoencoder``, ``VAE`` or ``IWAE`` whose network is an ``MLP``: the model itself, or
            what makes it of an ``input_shape``.
        members: K.
        orders: ``shared``: all are given the same samples at each step; ``own``: each goes through them in its own
            order.
        scores: What counts as anomalous; None: the member's, as for all arguments below.
        threshold: From scores to a decision.
        preprocessing: From raw samples to what the networks see.
        optimizer: Of all weights. It must treat each weight separately, as Adam and SGD do.
        lr_scheduler: As for other models.

    Raises:
        UserError: When there is no member, or its network is not an MLP.
    """

    def __init__(
        self,
        input_shape: list[int],
        member: Callable[[list[int]], AnomalyModel],
        members: int = 8,
        orders: Literal["shared", "own"] = "shared",
        scores: list[Score] | None = None,
        threshold: Threshold | None = None,
        preprocessing: Preprocessing | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        if members < 1:
            raise UserError(f"model.init_args.members = {members} must be at least 1")
        one = member if isinstance(member, AnomalyModel) else member(input_shape)
        if list(one.input_shape) != list(input_shape):
            raise UserError(f"Ensemble: the member takes {one.input_shape}, and input_shape = {list(input_shape)}")
        self.members, self.orders = members, range(members if orders == "own" else 1)
        self._apart = [_drawn(one, k) for k in range(members)]  # a list, for their weights are the stack's
        given = one.arguments
        super().__init__(
            input_shape,
            given.get("scores") if scores is None else scores,
            threshold or given.get("threshold"),
            preprocessing or given.get("preprocessing"),
            optimizer or one.optimizer,
            lr_scheduler or one.lr_scheduler,
        )
        self.stack = self._stack()
        self._noises = [Noise(k) for k in range(members)]
        whole = {name: MemberMean(score, members) for name, score in self.scores.items()}
        first = next(iter(whole))
        self.scores = cast(dict[str, Score], nn.ModuleDict({**whole, "Spread": Spread(whole[first])}))
        self.thresholds["Spread"] = copy.deepcopy(self.thresholds[first])
        if self.preprocessing is not None:
            self.prepare_for(self.preprocessing)

    # What a model is

    @property
    def recipe(self) -> dict[str, Any]:
        recipe = describe(self, (*TRAINING_ONLY, "member"))
        recipe["init_args"]["member"] = self._apart[0].recipe
        return recipe

    def check_scores(self) -> None:
        for score in self.scores.values():
            score.check(self._apart[0])

    def beta_at(self, step: int, steps_per_epoch: int) -> float:
        return self._apart[0].beta_at(step, steps_per_epoch)

    @property
    def final_beta(self) -> float:
        return self._apart[0].final_beta

    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        """Means over the members; with own orders and in training, x are the K · B samples of all of them."""
        with self._at_once(x) as rows:
            terms = self.stack.objective(rows, beta)
        return {name: term.unflatten(0, (self.members, -1)).mean(0) for name, term in terms.items()}

    def minimised(self, loss: Tensor) -> Tensor:
        return self.members * loss.mean()  # of the sum each member's gradient is its own

    def reconstruct(self, x: Tensor) -> Tensor:
        """The members' mean."""
        return torch.stack([member.reconstruct(x) for member in self.apart()]).mean(0)


def _drawn(one: AnomalyModel, k: int) -> Any:
    """Another one like it, with the weights that a seed larger by k draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + k)
        return one.again().eval()
