"""Several models of the same kind, trained at once."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
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
from .stacked import lend, stacked


class Ensemble(AnomalyModel):
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
        self.members, self.orders = members, members if orders == "own" else 1
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

    def _stack(self) -> Any:
        """One model like the members, whose weights are all of theirs; it takes K · B samples, member by member."""
        parts = [(member.encoder, member.decoder) for member in self._apart]
        whole = copy.deepcopy(self._apart[0])
        whole.scores, whole.thresholds = nn.ModuleDict(), nn.ModuleDict()
        whole.encoder, whole.decoder = (stacked(list(halves)) for halves in zip(*parts, strict=True))
        for path, parameter in list(whole.likelihood.named_parameters()):
            module, _, name = path.rpartition(".")
            several = torch.stack([parameter.detach()] * self.members)  # they all start alike
            setattr(whole.likelihood.get_submodule(module), name, nn.Parameter(several))
        whole.noise, whole.corrupted, whole.decode = self._noise, self._corrupted, self._decode
        return whole.train()

    # What a model is

    @property
    def recipe(self) -> dict[str, Any]:
        recipe = describe(self, (*TRAINING_ONLY, "member"))
        recipe["init_args"]["member"] = self._apart[0].recipe
        return recipe

    @property
    def likelihood(self) -> Any:
        """Of each member."""
        return self.stack.likelihood

    def check_scores(self) -> None:
        for score in self.scores.values():
            score.check(self._apart[0])

    def prepare_for(self, preprocessing: Preprocessing) -> None:
        for model in (self.stack, *self._apart):
            model.prepare_for(preprocessing)

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

    def apart(self) -> list[Any]:
        """The members, each a model by itself, in evaluation mode, with the present weights."""
        for k, member in enumerate(self._apart):
            lend(self.stack.encoder, k, member.encoder)
            lend(self.stack.decoder, k, member.decoder)
            for own, whole in zip(member.likelihood.modules(), self.likelihood.modules(), strict=True):
                vars(own)["_parameters"] = {name: p.detach()[k] for name, p in whole._parameters.items()}
                vars(own)["_buffers"] = whole._buffers
            member._modules["preprocessing"] = self.preprocessing
        return self._apart

    # What each member has of its own

    @contextlib.contextmanager
    def _at_once(self, x: Tensor) -> Iterator[Tensor]:
        """The samples of all members, (K · B, *input_shape); within, a likelihood's parameters are there row by row."""
        if not (self.training and self.orders > 1):
            x = x.expand(self.members, *x.shape).flatten(0, 1)
        parameters = [(m, n, p) for m in self.likelihood.modules() for n, p in m.named_parameters(recurse=False)]
        try:
            for module, name, parameter in parameters:  # an attribute of a module is found before its parameters are
                rows = parameter.repeat_interleave(len(x) // self.members, 0)
                vars(module)[name] = rows.view(-1, *[1] * (x.ndim - rows.ndim), *rows.shape[1:])
            yield x
        finally:
            for module, name, _ in parameters:
                vars(module).pop(name, None)

    def noise(self, *shape: int) -> Tensor:
        return cast(Tensor, type(self.stack).noise(self.stack, *shape))

    def _noise(self, *shape: int) -> Tensor:
        *first, rows, features = shape
        return torch.cat([self.noise(*first, rows // self.members, features) for _ in self._turns()], -2)

    def _corrupted(self, x: Tensor) -> Tensor:
        if not (self.stack.swap and self.stack.training):
            return x
        parts = zip(self._turns(), x.chunk(self.members), strict=True)
        return torch.cat([type(self.stack).corrupted(self.stack, part) for _, part in parts])

    def _decode(self, z: Tensor) -> Tensor:
        """As a member's, but that several draws (k, K · B, latent_dim) are put in the order of the members first."""
        if z.ndim == 2:
            return cast(Tensor, self.stack.decoder(z))
        by_member = z.unflatten(1, (self.members, -1)).transpose(0, 1)
        found = self.stack.decoder(by_member.flatten(0, 2)).unflatten(0, by_member.shape[:3])
        return cast(Tensor, found.transpose(0, 1).flatten(1, 2))

    def _turns(self) -> Iterator[int]:
        """Each member in turn: what is drawn then is drawn for it."""
        for k, noise in enumerate(self._noises):
            self.stack._noises = [noise]
            yield k


def _drawn(one: AnomalyModel, k: int) -> Any:
    """Another one like it, with the weights that a seed larger by k draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + k)
        return one.again().eval()
