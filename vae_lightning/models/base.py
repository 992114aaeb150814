"""The base class of models: preprocessing, a network, scores and thresholds, and a recipe to store it in a file."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from ..batch import Batch
from ..detection import storage
from ..detection.detector import Detector
from ..detection.preprocessing import Preprocessing
from ..detection.thresholds import Conformal, Threshold
from ..errors import UserError
from ..recipe import Recorded, describe, same
from ..scores import ReconstructionError, Score
from .steps import Steps

TRAINING_ONLY = "optimizer", "lr_scheduler"  # no part of what a checkpoint can be built from again


class AnomalyModel(Recorded, Steps):
    """A model that trains on normal samples and, with its scores and thresholds, detects all others.

    Batches hold raw samples, which the model prepares first. A subclass provides ``objective`` and, as far as it has
    them, ``encode``, ``decode`` and ``reconstruct``, all for prepared samples.

    Args:
        input_shape: Of one prepared sample; the command line takes it from the data.
        scores: What counts as anomalous; the first one decides. Copied.
        threshold: From scores of normal calibration samples to a decision. Copied, once for each score.
        preprocessing: From raw samples to what the network sees; None takes the data module's. Copied.
        optimizer: Of all parameters. Optimisers that have a fused implementation use it.
        lr_scheduler: Stepped once an epoch, OneCycleLR and CyclicLR at each optimiser step; None keeps the rate.
    """

    orders: Sequence[int] = (0,)  # of which seeds it is given the training samples, see Loader

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
        self.rng_at_construction = torch.get_rng_state()  # to tell drawn weights from trained ones, and draw them anew
        self.save_hyperparameters(self.recipe["init_args"], logger=False)
        self.input_shape = list(input_shape)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.preprocessing: Preprocessing | None
        self.register_module("preprocessing", copy.deepcopy(preprocessing))  # None keeps its place, too
        self.scores = _named([ReconstructionError()] if scores is None else scores)
        threshold = Conformal() if threshold is None else threshold
        self.thresholds = cast(
            dict[str, Threshold], nn.ModuleDict({name: copy.deepcopy(threshold) for name in self.scores})
        )
        self.check_scores()
        self.trained_on: dict[str, Any] = {}  # what the data module said of itself
        self.canary: Tensor | None = None  # a few raw calibration samples, see Draw

    @abstractmethod
    def reconstruct(self, x: Tensor) -> Tensor:
        """x̂, the shape of x."""

    @property
    def detector(self) -> Detector:
        """Raw samples in, decisions out."""
        return Detector(self)

    def prepare_for(self, preprocessing: Preprocessing) -> None:
        """Called with the preprocessing once that is fitted."""

    def check_scores(self) -> None:
        """Raise a UserError if the model lacks what a score needs."""
        for score in self.scores.values():
            score.check(self)

    # To a file and back

    @property
    def recipe(self) -> dict[str, Any]:
        """What the model is made of, as primitives: see ``recipe``."""
        return describe(self, TRAINING_ONLY)

    def about(self) -> dict[str, Any]:
        """What a file says about the model, besides its weights."""
        recipe = self.recipe
        if self.preprocessing is not None:
            recipe["init_args"]["preprocessing"] = describe(self.preprocessing)
        return {
            "format": storage.FORMAT,
            "versions": storage.versions(),
            "model": recipe,
            "trained_on": self.trained_on,
            "canary": self.canary,
        }

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        trust: Sequence[type] = (),
        weights_only: bool = True,
    ) -> AnomalyModel:
        """The model of a checkpoint, in evaluation mode. No code in the file is executed; Lightning's own loader would.

        Args:
            checkpoint_path: A ``.ckpt`` file.
            map_location: The device.
            trust: See ``load``.
            weights_only: As Lightning's own; never less than that.

        Raises:
            UserError: When the file is damaged, or holds another kind of model than this class.
        """
        path = storage.find(checkpoint_path)
        model = storage.restore(storage.read(path), trust, str(path))
        if not isinstance(model, cls):
            raise UserError(f"{path}: holds a {type(model).__name__}, which is no {cls.__name__}")
        return model.to(map_location)

    # What a detector is made of

    def forward(self, raw: Tensor) -> Tensor:
        return self.reconstruct(self.prepared(raw))

    def prepared(self, raw: Tensor) -> Tensor:
        """Raw samples as the network sees them, float32 (B, *input_shape)."""
        if self.preprocessing is None:
            raise UserError("the model has no preprocessing: give it one, or train it with an AnomalyDataModule")
        return self.preprocessing(raw)

    def setup(self, stage: str) -> None:
        self.share_seed()
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.preprocessing is None and not hasattr(data, "preprocessing"):
            raise UserError("the model has no preprocessing: give it one, or an AnomalyDataModule")
        if hasattr(data, "reference_dataloader"):
            data.orders = self.orders
            self.adopt(data, again=stage == "fit")

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
            self.prepare_for(self.preprocessing)
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

    # In a checkpoint

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.keep_place(checkpoint)
        checkpoint["beta"] = self.beta
        checkpoint[storage.KEY] = self.about()
        checkpoint.pop("hyper_parameters", None)  # Lightning's way back calls whatever they name
        if self._stale:  # thresholds belong to the weights that they were fitted for
            for name, threshold in copy.deepcopy(self.thresholds).items():
                threshold.reset()
                checkpoint["state_dict"].update(threshold.state_dict(prefix=f"thresholds.{name}."))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.beta = checkpoint.get("beta", self.final_beta)
        self.take_place(checkpoint)
        self.canary = checkpoint[storage.KEY].get("canary")
        # other scores than the checkpoint's start out unfitted
        arguments = checkpoint[storage.KEY]["model"]["init_args"]
        mine = self.recipe["init_args"]
        if not all(same(arguments.get(key), mine.get(key)) for key in ("scores", "threshold")):
            state = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith(("scores.", "thresholds."))}
            own = {k: v for k, v in self.state_dict().items() if k.startswith(("scores.", "thresholds."))}
            checkpoint["state_dict"] = state | own


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
    for i, score in enumerate(scores):
        if any(same(describe(score), describe(other)) for other in scores[:i]):
            raise UserError(f"model.init_args.scores: {type(score).__name__} is given twice: leave one of them out")
    names = [type(score).__name__ for score in scores]
    names = [name if names.index(name) == i else f"{name}_{i + 1}" for i, name in enumerate(names)]
    # a ModuleDict is a dict of modules to everyone but the type checker
    return cast(dict[str, Score], nn.ModuleDict(dict(zip(names, copy.deepcopy(scores), strict=True))))
