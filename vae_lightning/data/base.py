"""The splits: what is normal, what is not, and who may see it when."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ..batch import ANOMALY, NORMAL, Batch
from ..errors import UserError
from .loader import Chain, Loader, Split, binarized


class Part(NamedTuple):
    """One of the two parts in which a data set comes: its training part or its test part.

    Attributes:
        x: (N, *input_shape), uint8 images or float32 features.
        target: int64 (N,), the class of each sample.
    """

    x: Tensor
    target: Tensor


class AnomalyDataModule(LightningDataModule):
    """A data set divided into normal and anomalous, without a leak between training, validation and test.

    ===== =========================================================================================================
    train normal samples of the training part (and, with ``contamination``, a share of anomalies among them)
    val   normal samples held out of train, and anomalies out of the training part
    test  the data set's own test part: normal samples and anomalies
    ===== =========================================================================================================

    A subclass gives ``classes``, ``input_shape`` and ``load()``. The split depends on the arguments and ``seed`` alone,
    so that models trained with different seeds of their own are compared on the same samples.

    Args:
        normal_classes: What is normal, ``[0]`` for one-class, nine of ten for leave-one-class-out. None: every class
            that is not in ``anomaly_classes``, or every class if there is another source of anomalies.
        anomaly_classes: What is anomalous. None: every class that is not normal.
        anomalies_from: Another data set that supplies the anomalies, all of it: its training part for validation, its
            test part for test. ``anomaly_classes`` must then be left out; how that data set itself is split is ignored.
        val_fraction: Share of the training part's normal samples held out for validation, in (0, 1).
        val_anomalies: Validation anomalies for each normal validation sample, as far as the training part goes.
        test_anomalies: Share of the test part's anomalies that is injected into the test split, in (0, 1].
        contamination: Share of the training split that consists of anomalies, in [0, 1). 0 is clean training.
        batch_size: Samples a training step and process.
        eval_batch_size: Samples a batch in validation, test and prediction.
        num_workers: Processes that read ahead; 0, the fastest for data in memory, indexes tensors directly.
        on_device: Keep the data set on the accelerator.
        seed: Of the split.

    Raises:
        UserError: When the classes are out of range, empty, overlap, or leave no anomalies.
    """

    input_shape: list[int]
    classes: list[str]
    binarize: bool = False  # of images; see MNIST

    def __init__(
        self,
        normal_classes: list[int] | None = None,
        anomaly_classes: list[int] | None = None,
        anomalies_from: AnomalyDataModule | None = None,
        val_fraction: float = 0.1,
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
        self.val_fraction, self.val_anomalies = val_fraction, val_anomalies
        self.test_anomalies, self.contamination = test_anomalies, contamination
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.on_device, self.seed = num_workers, on_device, seed
        self.mean: Tensor | None = None
        self.std: Tensor | None = None
        self._splits: dict[str, Split | Chain] = {}
        self._check()

    @abstractmethod
    def load(self) -> tuple[Part, Part]:
        """The data set's training part and test part."""

    @property
    def standardize(self) -> bool:
        """Whether features are standardised by statistics of the training split; images are not."""
        return False

    @property
    def default_anomaly_classes(self) -> list[int]:
        """Anomalous when the arguments choose no classes at all; data sets without such classes have none."""
        return []

    def _check(self) -> None:
        name = type(self).__name__
        for key, low, high in (("val_fraction", 0, 1), ("test_anomalies", 0, 1.0001), ("contamination", -1e-9, 1)):
            if not low < (value := getattr(self, key)) < high:
                raise UserError(f"{name}: {key} = {value} is not a share: give a number between 0 and 1")
        for key in ("batch_size", "eval_batch_size"):
            if (value := getattr(self, key)) < 1:
                raise UserError(f"{name}: {key} = {value} must be at least 1")
        if not 0 < self.val_anomalies < math.inf:
            raise UserError(f"{name}: val_anomalies = {self.val_anomalies} must be positive: metrics need anomalies")
        everything = range(len(self.classes))
        for key in ("normal_classes", "anomaly_classes"):
            chosen = getattr(self, key)
            if chosen is not None and (not chosen or not set(chosen) <= set(everything)):
                raise UserError(
                    f"{name}: {key} = {chosen} must name at least one class out of 0 to {len(self.classes) - 1}"
                )
        normal, anomalous = self.division()
        if both := sorted(set(normal) & set(anomalous)):
            raise UserError(
                f"{name}: class {both[0]} is in normal_classes and in anomaly_classes: it can only be in one"
            )
        if self.anomalies_from is not None:
            if self.anomaly_classes is not None:
                raise UserError(f"{name}: anomaly_classes and anomalies_from are both given: leave one of them out")
            if list(self.anomalies_from.input_shape) != list(self.input_shape):
                raise UserError(
                    f"{name}: anomalies_from {type(self.anomalies_from).__name__} has shape "
                    f"{list(self.anomalies_from.input_shape)}, not {list(self.input_shape)}"
                )

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
        """Build the three splits, once: Lightning calls this for each stage."""
        if self._splits:
            return
        normal, anomalous = self.division()
        if self.anomalies_from:
            anomalous = list(range(len(self.anomalies_from.classes)))
        if not normal or not anomalous:
            raise UserError(
                f"{type(self).__name__}: normal_classes = {normal} leaves no anomalies: leave a class out, or name "
                "another data set in anomalies_from"
            )
        train, test, other_train, other_test = self._parts()
        generator, draws = (torch.Generator().manual_seed(self.seed) for _ in range(2))

        def pick(part: Part, classes: list[int]) -> Tensor:
            """Rows of ``part`` in ``classes``, shuffled."""
            rows = torch.isin(part.target, torch.tensor(classes)).nonzero().flatten()
            return rows[torch.randperm(len(rows), generator=generator)]

        def split(part: Part, rows: Tensor, label: int) -> Split:
            rows = rows.sort().values  # neighbours in memory are faster to gather
            # another data set's classes are not this one's
            target = part.target[rows] if part is train or part is test else torch.full_like(rows, -1)
            return Split(part.x, rows, torch.full_like(rows, label), target)

        def fixed(part: Split) -> Split:
            """What is drawn anew each epoch in training is drawn once and for all here."""
            if not self.binarize:
                return part
            x = (binarized(part.x[part.rows] / 255, draws) * 255).to(torch.uint8)
            return Split(x, torch.arange(len(x)), part.label, part.target)

        rows, strange = pick(train, normal), pick(other_train, anomalous)
        n_val = max(1, round(self.val_fraction * len(rows)))
        if n_val >= len(rows):
            raise UserError(f"{type(self).__name__}: {len(rows)} normal samples are too few to train and validate on")
        n_strange = min(len(strange), max(1, round(self.val_anomalies * n_val)))
        n_leaked = round((len(rows) - n_val) * self.contamination / (1 - self.contamination))
        if n_leaked > len(strange) - n_strange:
            raise UserError(
                f"{type(self).__name__}: contamination = {self.contamination} needs {n_leaked} anomalies, and the "
                f"training part has {len(strange) - n_strange} beside the validation split's: lower it or val_anomalies"
            )
        normals = split(train, rows[n_val:], NORMAL)
        injected = pick(other_test, anomalous)
        if not len(strange) or not len(injected):
            where = "test" if len(strange) else "training"
            raise UserError(f"{type(self).__name__}: the {where} part has no anomalies (no sample of {anomalous})")
        injected = injected[: max(1, round(self.test_anomalies * len(injected)))]
        calibration = fixed(split(train, rows[:n_val], NORMAL))
        self._splits = {
            # contamination is trained on as if it were normal: the label tells the truth, and no model reads it
            "train": _join(normals, split(other_train, strange[n_strange : n_strange + n_leaked], ANOMALY)),
            "calibration": calibration,
            "val": _join(calibration, fixed(split(other_train, strange[:n_strange], ANOMALY))),
            "test": _join(fixed(split(test, pick(test, normal), NORMAL)), fixed(split(other_test, injected, ANOMALY))),
        }
        if self.standardize and self.mean is None:  # a checkpoint brings its own
            x = normals.x[normals.rows]
            # a feature that is constant in training is only centred: its standard deviation would be rounding error
            self.mean, self.std = x.mean(0), torch.where(x.amax(0) > x.amin(0), x.std(0), 1.0)

    def _parts(self) -> tuple[Part, Part, Part, Part]:
        """Training and test part of this data set, and of the one that supplies the anomalies."""
        train, test = self.load()
        other_train, other_test = self.anomalies_from.load() if self.anomalies_from else (train, test)
        if other_train.x.dtype != train.x.dtype:
            raise UserError(
                f"{type(self).__name__}: anomalies_from {type(self.anomalies_from).__name__} holds "
                f"{other_train.x.dtype}, not {train.x.dtype}: images go with images, features with features"
            )
        for part in (train, test, other_train, other_test):
            if part.x.is_floating_point() and not part.x.isfinite().all():
                row = int((~part.x.isfinite()).flatten(1).any(1).nonzero()[0])
                raise UserError(f"{type(self).__name__}: sample {row} holds NaN or infinity: mend it or leave it out")
        return train, test, other_train, other_test

    def state_dict(self) -> dict[str, Tensor | None]:
        """The standardisation travels in the checkpoint: new data is seen as the training data was."""
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        self.mean, self.std = state["mean"], state["std"]

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

    def calibration_dataloader(self) -> Loader:
        """The normal validation samples, all of them on every rank: what scores and thresholds are fitted on."""
        return self._whole("calibration")

    def reference_dataloader(self) -> Loader:
        """The training samples, all of them on every rank: what scores are fitted on that need many samples."""
        return self._whole("train")

    def _whole(self, split: str) -> Loader:
        loader = self.loader(split)
        loader.rank, loader.world = 0, 1
        return loader

    def loader(self, split: str, batch_size: int | None = None, shuffle: bool = False) -> Loader:
        """A loader of ``split``: train, val, test or calibration."""
        self.setup()
        device = self.trainer.strategy.root_device if self.trainer else None
        if self.on_device and device is not None:
            self._splits[split] = self._splits[split].to(device)
        return Loader(
            self._splits[split],
            batch_size or self.eval_batch_size,
            shuffle=shuffle,
            seed=torch.initial_seed(),
            device=device,
            num_workers=self.num_workers,
            mean=self.mean,
            std=self.std,
            binarize=self.binarize and split == "train",
        )


def _join(normal: Split, anomalous: Split) -> Split | Chain:
    """Both as one split; where they lie in the same tensor, without a second gather for each batch."""
    if not len(anomalous):
        return normal
    if normal.x is not anomalous.x:
        return Chain([normal, anomalous])
    columns = zip(
        (normal.rows, normal.label, normal.target), (anomalous.rows, anomalous.label, anomalous.target), strict=True
    )
    return Split(normal.x, *(torch.cat(pair) for pair in columns))
