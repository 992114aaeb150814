"""The base class of data modules: what is normal, what is not, and a loader for each split."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ..batch import Batch
from ..detection.preprocessing import Preprocessing
from ..errors import UserError
from ..recipe import Recorded, describe
from .checks import check_arguments, check_sources
from .loader import Chain, Loader, Redraw, Split, binarized
from .splits import Part, Shares, Sources, make_splits


class AnomalyDataModule(Recorded, LightningDataModule):
    """A data set of normal samples and anomalies, split without leaks.

    =========== =======================================================================================================
    train       normal samples of the training part (and, with ``contamination``, a share of anomalies among them)
    val         normal samples held out of train, and anomalies from the training part, if it has any
    calibration normal samples held out of train, used only for p-values and thresholds
    test        the data set's own test part, which may be empty: normal samples and anomalies
    =========== =======================================================================================================

    A subclass provides ``classes``, ``input_shape``, ``preprocessing`` and ``load()``. The splits depend only on the
    arguments and ``seed``, so models trained with other seeds are compared on the same samples. Normal data alone are
    enough: val and test then have no anomalies.

    Validation, calibration and test keep the order of their source; with ``anomalies_from``, this data set's samples
    come first.

    Args:
        normal_classes: What is normal, ``[0]`` for one-class, nine of ten for leave-one-class-out. None: every class
            that is not in ``anomaly_classes``, or every class if there is another source of anomalies.
        anomaly_classes: What is anomalous. None: every class that is not normal.
        anomalies_from: Another data set that supplies the anomalies, all of it: its training part for validation, its
            test part for test. ``anomaly_classes`` must then be left out; how that data set itself is split is ignored.
        val_fraction: Share of the training part's normal samples held out for validation, in (0, 1).
        calibration_fraction: Share of them held out for calibration, in [0, 1). None: as many as for validation.
            0: none; the validation's normal samples calibrate as well, for protocols that do so. Thresholds then
            promise less: their samples have chosen the epoch too, and the scores may be fitted on them.
        val_anomalies: Validation anomalies for each normal validation sample, as far as the training part goes.
        test_anomalies: Share of the test part's anomalies that is injected into the test split, in (0, 1].
        contamination: Share of the training split that consists of anomalies, in [0, 1). 0 is clean training.
        batch_size: Samples per training step and process.
        eval_batch_size: Samples per batch in validation, test and prediction.
        num_workers: Processes that read ahead. 0 indexes tensors directly, which is fastest for data in memory.
        on_device: Keep the data set on the accelerator.
        seed: Of the splits.

    Attributes:
        input_shape: Of one prepared sample; of a raw one, too, for most kinds of preprocessing.
        classes: The names of the classes, whose numbers are their positions.
        preprocessing: Turns raw samples into the network's input; not fitted yet: the model fits its own copy.

    Raises:
        UserError: When the classes are out of range, empty or overlap, a share is none, or ``preprocessing`` is absent;
            in ``setup`` when samples are not what ``preprocessing`` takes, not finite, or too few.
    """

    input_shape: list[int]
    classes: list[str]
    preprocessing: Preprocessing
    binarize: bool = False  # of images; see MNIST
    orders: Sequence[int] = (0,)  # that a model is given the training samples in at once, see Loader
    has_masks: bool = False  # whether it is known of some test images which pixels are anomalous; see mask

    def __init__(
        self,
        normal_classes: list[int] | None = None,
        anomaly_classes: list[int] | None = None,
        anomalies_from: AnomalyDataModule | None = None,
        val_fraction: float = 0.1,
        calibration_fraction: float | None = None,
        val_anomalies: float = 1.0,
        test_anomalies: float = 1.0,
        contamination: float = 0.0,
        batch_size: int = 128,
        eval_batch_size: int = 1024,
        num_workers: int = 0,
        on_device: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.normal_classes, self.anomaly_classes = normal_classes, anomaly_classes
        self.anomalies_from = anomalies_from
        self.val_fraction, self.calibration_fraction = val_fraction, calibration_fraction
        self.val_anomalies, self.test_anomalies = val_anomalies, test_anomalies
        self.contamination = contamination
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.on_device, self.seed = num_workers, on_device, seed
        self._splits: dict[str, Split | Chain] = {}
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}
        check_arguments(self)
        self.preprocessing = copy.deepcopy(self.preprocessing)  # a class attribute is every instance's

    @abstractmethod
    def load(self) -> tuple[Part, Part]:
        """The data set's training part and test part."""

    @property
    def default_anomaly_classes(self) -> list[int]:
        """Anomalous when the arguments choose no classes at all; data sets without such classes have none."""
        return []

    @property
    def redraw(self) -> Redraw | None:
        """What is drawn anew of the training samples in each epoch, see ``Loader``."""
        return binarized if self.binarize else None

    def division(self) -> tuple[list[int], list[int]]:
        """The normal and the anomalous classes, as the arguments choose them."""
        everything = range(len(self.classes))
        normal, anomalous = self.normal_classes, self.anomaly_classes
        if normal is None:
            normal = [c for c in everything if c not in (anomalous or self.default_anomaly_classes)]
        if self.anomalies_from is not None:
            anomalous = []
        elif anomalous is None:
            anomalous = [c for c in everything if c not in normal]
        return normal, anomalous

    def setup(self, stage: str | None = None) -> None:
        """Build the splits, once: Lightning calls this for each stage."""
        if self._splits:
            return
        own = self.load()
        sources = Sources(*own, *(self.anomalies_from.load() if self.anomalies_from is not None else own))
        check_sources(self, sources)
        self._splits = self.divide(sources)

    def divide(self, sources: Sources) -> dict[str, Split | Chain]:
        """The splits, by name, of what has been loaded."""
        normal, anomalous = self.division()
        if self.anomalies_from is not None:
            anomalous = list(range(len(self.anomalies_from.classes)))
        shares = Shares(*(getattr(self, name) for name in Shares._fields))
        try:
            return make_splits(sources, normal, anomalous, shares, self.seed, self.binarize)
        except UserError as error:
            raise UserError(f"{type(self).__name__}: {error}") from None

    def about(self) -> dict[str, Any]:
        """What a detector trained on it stores about it, as primitives."""
        normal, _ = self.division()
        return {
            "data": type(self).__name__,
            "samples": len(self._splits["train"]),
            "normal": [self.classes[c] for c in normal],
            "columns": getattr(self, "columns", None),
            "recipe": self.recipe(),
        }

    def recipe(self) -> Any:
        """The recipe to build it again from a file; None for arrays, which no detector stores, and for functions."""
        if any(isinstance(value, (Tensor, np.ndarray)) for value in self.arguments.values()):
            return None
        if self.anomalies_from is not None and self.anomalies_from.recipe() is None:
            return None
        try:
            return describe(self)
        except UserError:
            return None

    def mask(self, row: int) -> Tensor | None:
        """Which pixels of this row of the test part are anomalous, bool (H, W). None: unknown."""
        return None

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The loader has seen to it."""
        return batch

    def train_dataloader(self) -> Loader:
        return self.loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> Loader:
        return self.loader("val")

    def test_dataloader(self) -> Loader:
        return self.loader("test")

    def predict_dataloader(self) -> Loader:
        return self.loader("test")

    def reference_dataloader(self) -> Loader:
        """The training samples, all of them on every rank: preprocessing and scores are fitted on them."""
        return self._whole("train")

    def validation_normals_dataloader(self) -> Loader:
        """The normal validation samples, all of them on every rank: several scores are scaled on them."""
        return self._whole("val_normals")

    def calibration_dataloader(self) -> Loader:
        """The calibration split, all of it on every rank: p-values and thresholds are fitted on it."""
        return self._whole("calibration")

    def _whole(self, split: str) -> Loader:
        loader = self.loader(split)
        loader.rank, loader.world = 0, 1
        return loader

    def has(self, split: str) -> bool:
        """Whether there is anything in a split: a data set need not have a test part."""
        self.setup()
        return len(self._splits[split]) > 0

    def loader(self, split: str, batch_size: int | None = None, shuffle: bool = False) -> Loader:
        """A loader of ``split``: train, val, calibration, test or val_normals.

        Raises:
            UserError: When there is nothing in it, as in the test split of a data set without a test part.
        """
        self.setup()
        if not len(self._splits[split]):
            raise UserError(f"{type(self).__name__}: the {split} split is empty: the data set has no such samples")
        device = self.trainer.strategy.root_device if self.trainer else None
        if self.on_device and device is not None:
            self._splits[split] = self._splits[split].to(device, self._moved)
        return Loader(
            self._splits[split],
            batch_size or self.eval_batch_size,
            shuffle=shuffle,
            seed=torch.initial_seed(),
            device=device,
            num_workers=self.num_workers,
            redraw=self.redraw if split == "train" else None,
            orders=self.orders if shuffle else (0,),
        )
