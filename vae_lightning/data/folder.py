"""Your own images: a folder, a pattern, or a table of paths and labels."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..decoding import Decoder, Interpolation, Resize, own_channels
from ..detection import preprocessing
from ..errors import UserError
from ..imagefiles import Skipped, cores
from .augmentation import Flip, moved
from .base import AnomalyDataModule
from .decoded import decode_files
from .listing import listing
from .loader import Loader, Redraw
from .splits import Part, stratified

FEW = 64  # files that are decoded before other processes would have started


class Images(AnomalyDataModule):
    """Image files: PNG, JPEG, TIFF, BMP and WebP, of 8 or 16 bits, grey or in colour.

    ========================== ======================================================================================
    ``root``                   holds
    ========================== ======================================================================================
    a folder, as MVTec AD      ``train/good/*.png``, or ``train/*.png``: normal; ``test/good``: normal;
                               ``test/<defect>``: anomalous, with masks ``ground_truth/<defect>/<name>_mask.png``
    any other folder           images that are normal; those in a folder of its own are of the class of that name
    a pattern, ``parts/*.png`` normal images
    a table, ``parts.csv``     ``path``, from the table's folder on; ``label``, the class; ``split``, train or test;
                               ``mask``, a file. All but ``path`` can be left out
    ========================== ======================================================================================

    If the source has no test part, ``test_fraction`` of each class becomes one. All images are decoded once to the same
    size, by worker processes, and kept as uint8. A detector trained on them reads files the same way:
    ``detector.score(["new.png"])``.

    Args:
        root: See the table.
        size: Height and width in pixels that images are scaled to, or one number for both.
        channels: 1 for grey, 3 for colour, to which all are converted. None: what the images have, all the same.
        resize: ``stretch`` to the size; ``crop`` to its proportions, around the centre; or ``pad`` with black.
        interpolation: Between pixels.
        white: What is white in grey images of 16 bits: 4095 for a camera of 12 bits.
        normal: The classes that are normal; all others are anomalous.
        test_fraction: In [0, 1); 0: no test part.
        on_error: For a file that cannot be read: ``raise`` an error, or ``skip`` it with a warning.
        shift: Training images are moved by up to so many pixels, anew in each epoch; 0: they are not.
        flip: Along which axes training images may be flipped, anew in each epoch.
        workers: Processes that decode. None: as many as there are cores; 0: none but this one.
        memory: Gigabytes that decoded images may take in memory; more lie in a memory map in ``cache``.
        cache: Folder of memory maps, each named by its files, their sizes and times; may be removed at any time.
            None: ``~/.cache/vae_lightning``.
        **kwargs: The split, see ``AnomalyDataModule``; its ``seed`` draws the test part as well.

    Attributes:
        pictures: The files of the parts ``train`` and ``test``, with their classes and masks; a batch's ``row`` is a
            place in these.
        skipped: The files that were left out, with the reason.

    Raises:
        UserError: When there are no images or no normal ones; for a file that cannot be read, or that has other
            channels than the first one where ``channels`` is None.
    """

    preprocessing = preprocessing.Images()

    def __init__(
        self,
        root: str,
        size: int | list[int] = 128,
        channels: int | None = None,
        resize: Resize = "stretch",
        interpolation: Interpolation = "bilinear",
        white: int = 65_535,
        normal: list[str] = ["good"],  # noqa: B006 (never changed; a signature that reads as the configuration does)
        test_fraction: float = 0.2,
        on_error: Literal["raise", "skip"] = "raise",
        shift: int = 0,
        flip: Flip = "none",
        workers: int | None = None,
        memory: float = 2.0,
        cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= test_fraction < 1:
            raise UserError(f"Images: test_fraction = {test_fraction} is not a share: give a number from 0 to below 1")
        self.size, self.channels = [size, size] if isinstance(size, int) else list(size), channels
        if not 0 <= shift < max(1, min(self.size, default=1)):
            raise UserError(f"Images: shift = {shift} must be at least 0, and less than size = {size}")
        if not normal:
            raise UserError("Images: normal is empty: name the classes that are normal")
        self.root, self.normal, self.test_fraction, self.on_error = str(root), list(normal), test_fraction, on_error
        self.shift, self.flip, self.workers, self.memory, self.cache = shift, flip, workers, memory, cache
        self.skipped: Skipped = []
        train, test = listing(self.root, self.normal[0])
        self.pictures = {"train": train, "test": train if test is None else test}
        self._drawn = test is None
        found = {picture.label for part in self.pictures.values() for picture in part}
        if not found & set(normal):
            classes = _some(sorted(found))
            raise UserError(
                f"Images: no image of {root} is {' or '.join(normal)}: say in normal which are, of {classes}"
            )
        self.classes = [*(name for name in normal if name in found), *sorted(found - set(normal))]
        try:
            self.decoder = Decoder(tuple(self.size), channels or self._first_channels(), resize, interpolation, white)
        except UserError as error:
            raise UserError(f"Images: {error}") from None
        self.input_shape = list(self.decoder.shape)
        normals = [i for i, name in enumerate(self.classes) if name in normal]
        super().__init__(normal_classes=normals, **kwargs)
        self._loaded: tuple[Part, Part] | None = None

    def _first_channels(self) -> int:
        """Of the first file that can be read: decoding compares the others with it."""
        for picture in [*self.pictures["train"], *self.pictures["test"]]:
            try:
                return own_channels(picture.path)
            except UserError:
                if self.on_error == "raise":
                    raise
        raise UserError(f"none of the files of {self.root} can be read")

    @property
    def redraw(self) -> Redraw | None:
        if not self.shift and self.flip == "none":
            return None
        return partial(moved, shift=self.shift, flip=self.flip)

    def reference_dataloader(self) -> Loader:
        loader = super().reference_dataloader()
        loader.redraw = None  # scores are fitted on images as they are, as thresholds are calibrated
        return loader

    def about(self) -> dict[str, Any]:
        return {**super().about(), "images": self.decoder.primitives()}

    @property
    def has_masks(self) -> bool:  # type: ignore[override]
        return any(picture.mask for picture in self.pictures["test"])

    def mask(self, row: int) -> Tensor | None:
        path = self.pictures["test"][row].mask
        return None if path is None else torch.from_numpy(self.decoder.mask(path))

    def prepare_data(self) -> None:
        if self.anomalies_from is not None:
            self.anomalies_from.prepare_data()

    def load(self) -> tuple[Part, Part]:
        if self._loaded is None:
            self._loaded = self._decoded()
        return self._loaded

    def _decoded(self) -> tuple[Part, Part]:
        rows, pictures = self._rows(), self.pictures
        chosen = [pictures[name][i] for name, which in rows.items() for i in which.tolist()]
        found = decode_files(
            [picture.path for picture in chosen],
            self.decoder,
            self._workers(len(chosen)),
            self._on_disk(len(chosen)),
            skip=self.on_error == "skip",
            channels=self.decoder.channels if self.channels is None else None,
        )
        self.skipped = found.skipped
        if found.skipped:
            reasons = [reason for _, reason in found.skipped]
            warnings.warn(
                f"Images: {len(reasons)} of {len(chosen)} files are skipped: {_some(reasons, 3)}", stacklevel=2
            )
        target = torch.tensor([self.classes.index(picture.label) for picture in chosen])[found.kept]
        row, n = torch.cat(list(rows.values()))[found.kept], int((found.kept < len(rows["train"])).sum())
        return Part(found.x[:n], target[:n], row[:n]), Part(found.x[n:], target[n:], row[n:])

    def _rows(self) -> dict[str, Tensor]:
        """Which of the pictures are of which part."""
        if not self._drawn:
            return {name: torch.arange(len(found)) for name, found in self.pictures.items()}
        target = torch.tensor([self.classes.index(picture.label) for picture in self.pictures["train"]])
        return dict(zip(("train", "test"), stratified(target, self.test_fraction, self.seed), strict=True))

    def _workers(self, files: int) -> int:
        if self.workers is not None:
            return self.workers
        return cores() if files >= FEW else 0

    def _on_disk(self, files: int) -> Path | None:
        if files * math.prod(self.decoder.shape) <= self.memory * 1e9:
            return None
        if self.cache is not None:
            return Path(self.cache)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae_lightning"


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
