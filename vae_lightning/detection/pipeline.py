"""How samples go through a detector in batches, and how its scores and thresholds are fitted by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..batch import even_batches
from ..errors import UserError
from ..imagefiles import batches, paths_of
from .graph import Graph
from .modes import evaluating
from .profile import Profile
from .rows import Draw
from .samples import Samples

Function = Callable[[Tensor], dict[str, Tensor]]  # of a batch of raw samples
BATCH_SIZE = 1024  # samples at once; data modules evaluate with as many


class Pipeline(Profile):
    """What takes raw samples to the graph of a model, whatever they are given as.

    Args:
        model: A trained :class:`~vae_lightning.models.AnomalyModel`.
        batch_size: Samples that go through the network at once.
    """

    def __init__(self, model: Any, batch_size: int = BATCH_SIZE) -> None:
        super().__init__(model)
        self.batch_size, self.graph = batch_size, Graph(model)

    @torch.inference_mode(False)
    @torch.no_grad()
    def fit(self, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        """Fit the scores.

        Args:
            train: Batches of raw training samples (B, *raw_shape), to be gone through as often as needed.
            val: Of raw normal validation samples.
        """
        self._check_prepared()
        with evaluating(self.model):
            for score in self.model.scores.values():
                score.fit(self.model, _Prepared(self.model, train), _Prepared(self.model, val))

    @torch.inference_mode(False)
    @torch.no_grad()
    def calibrate(self, normal: Any) -> None:
        """Fit the thresholds. Some samples are kept as they are, see ``Draw``.

        Args:
            normal: Normal samples that neither weights nor scores have seen, as for scoring.

        Raises:
            UserError: When there are none, or a score of theirs is not finite.
        """
        for name, score in self.model.scores.items():
            if not score.fitted:
                raise UserError(f"{name} has not been fitted yet: fit the scores first, on training samples")
        draw = Draw()
        found = list(self.through(lambda raw: self.graph.scores(draw.see(raw)), normal))
        self.model.canary = draw.rows
        for name, threshold in self.model.thresholds.items():
            try:
                threshold.fit(joined(found)[name] if found else torch.empty(0))
            except UserError as error:
                raise UserError(f"{name}: {error}") from error

    @torch.no_grad()  # and no inference mode: what it gives can go on into any computation
    def through(self, function: Function, x: Any) -> Iterator[dict[str, Tensor]]:
        """What ``function`` gives for all of x, or for each of an iterable of batches, on the CPU."""
        self._check_prepared()
        if (paths := paths_of(x)) is not None:
            x = (images for _, images in batches(paths, self.decoder, self.batch_size))
        prepares = self.model.preprocessing
        samples = Samples(x, prepares, prepares.raw_shape(self.model.input_shape), self.columns, self.schema)
        with evaluating(self.model):
            for raw in samples:
                yield self._of(function, raw)

    def through_encoded(self, function: Function, raw: Any) -> dict[str, Tensor]:
        """The same of all of what ``Schema.encode`` or a ``Decoder`` gave: its numbers are not checked again."""
        raw = torch.as_tensor(raw)
        self.model.preprocessing.check(raw, self.model.preprocessing.raw_shape(self.model.input_shape))
        with evaluating(self.model):
            return self._of(function, raw)

    def _of(self, function: Function, raw: Tensor) -> dict[str, Tensor]:
        parts = raw.split(even_batches(len(raw), self.batch_size)) if len(raw) else [raw]
        device = self.device
        found = (function(part.to(device)) for part in parts)
        return joined([{name: tensor.cpu() for name, tensor in part.items()} for part in found])

    def _check_prepared(self) -> None:
        if self.model.preprocessing is None:
            raise UserError("the model has no preprocessing yet: give it one, or train it")


class _Prepared:
    """Raw batches as the network sees them, as often as they are asked for."""

    def __init__(self, model: Any, batches: Iterable[Tensor]) -> None:
        self.model, self.batches = model, batches

    def __iter__(self) -> Iterator[Tensor]:
        return (self.model.preprocessing(raw.to(self.model.device)) for raw in self.batches)


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, of consecutive samples, as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
