"""K models computed as one: what an ensemble and the trials of a batched sweep have in common."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..detection.preprocessing import Preprocessing
from .noise import Noise
from .stacked import lend, stacked
from .steps import Steps


class Together(Steps):
    """K models whose weights are one stack: each pass serves all of them, and none changes another.

    Whoever extends it has the attributes below before it calls ``_stack``.

    Attributes:
        members: K.
        orders: By how much larger than the run's own the seeds are whose orders the members are given the training
            samples in; with a single one, all are given the same samples.
        stack: One model like the members, with the weights of all.
    """

    members: int
    orders: Sequence[int]
    stack: Any
    _apart: list[Any]
    _noises: list[Noise]

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

    @property
    def likelihood(self) -> Any:
        """Of each member."""
        return self.stack.likelihood

    def prepare_for(self, preprocessing: Preprocessing) -> None:
        for model in (self.stack, *self._apart):
            model.prepare_for(preprocessing)

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
        if not (self.training and len(self.orders) > 1):
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
