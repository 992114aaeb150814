"""MNIST, Fashion-MNIST and scikit-learn's digits, as uint8 images."""

from __future__ import annotations

import gzip
import math
import shutil
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torch.nn.functional as F
import torchvision.datasets
from torch import Tensor
from torchvision.datasets.utils import check_integrity, download_url

from ..detection.preprocessing import Images
from ..errors import UserError
from .base import AnomalyDataModule
from .splits import Part


class MNIST(AnomalyDataModule):
    """The 70,000 handwritten digits of LeCun et al., 28×28, one channel.

    Read from the four original ``.gz`` files in ``<root>/MNIST/raw``, checked against their MD5 sums, or from the
    unpacked files. Missing files are downloaded once.

    Args:
        root: Folder of data sets, laid out as torchvision does.
        binarize: Draw black and white pixels, with the grey value as probability: again in each epoch of
            training, once for validation and test (as in Burda et al. 2016). The Bernoulli is then a proper likelihood.
        **kwargs: The split, see ``AnomalyDataModule``.

    Raises:
        UserError: When a file is damaged, or missing and cannot be downloaded.
    """

    preprocessing = Images()
    source: type[torchvision.datasets.MNIST] = torchvision.datasets.MNIST

    def __init__(self, root: str = "data", binarize: bool = False, **kwargs: Any) -> None:
        self.root, self.binarize = Path(root), binarize
        self.input_shape = [1, 28, 28]
        self.classes = list(self.source.classes)
        super().__init__(**kwargs)

    @property
    def folder(self) -> Path:
        return self.root / self.source.__name__ / "raw"

    def prepare_data(self) -> None:
        """Download what is missing. Lightning calls this on one process of each machine."""
        for name, md5 in self.source.resources:
            if not (self.folder / name).exists() and not (self.folder / name).with_suffix("").exists():
                self._download(name, md5)
        if self.anomalies_from:
            self.anomalies_from.prepare_data()

    def _download(self, name: str, md5: str) -> None:
        for mirror in self.source.mirrors:
            with tempfile.TemporaryDirectory() as folder:  # a failure leaves nothing in the folder of data sets
                try:
                    download_url(mirror + name, folder, name, md5)
                except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError):
                    continue  # the next mirror
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    shutil.move(f"{folder}/{name}", self.folder / name)
                except OSError as error:
                    raise UserError(f"data.init_args.root = {self.root} cannot be written: {error}") from error
                return
        names = ", ".join(name for name, _ in self.source.resources)
        raise UserError(
            f"{self.folder / name} is absent and cannot be downloaded: put {names} into {self.folder}, "
            "or use a config that needs no network: configs/beta_vae.yaml, configs/digits_beta_vae.yaml"
        )

    def load(self) -> tuple[Part, Part]:
        self.prepare_data()
        images_train, labels_train, images_test, labels_test = (
            _read_idx(self.folder / name, md5) for name, md5 in self.source.resources
        )
        return self._part(images_train, labels_train), self._part(images_test, labels_test)

    def _part(self, images: Tensor, labels: Tensor) -> Part:
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
            raise UserError(
                f"{self.folder}: images of shape {list(images.shape)} do not go with labels of shape "
                f"{list(labels.shape)}: delete the files to have them downloaded again"
            )
        return Part(images[:, None], labels.long())


class FashionMNIST(MNIST):
    """The 70,000 images of clothing of Xiao et al. (2017), in MNIST's format. Arguments as for ``MNIST``."""

    source = torchvision.datasets.FashionMNIST


class Digits(AnomalyDataModule):
    """The 1,797 handwritten digits that come with scikit-learn, 8×8: no network, seconds to train.

    They have no test part; a stratified fifth, the same for every seed, is used as one.

    Args:
        size: Height and width in pixels that the images are resized to (bilinear).
        **kwargs: The split, see ``AnomalyDataModule``.
    """

    preprocessing = Images()

    def __init__(self, size: int = 8, **kwargs: Any) -> None:
        if size < 1:
            raise UserError(f"Digits: size = {size} must be at least 1 pixel")
        self.input_shape = [1, size, size]
        self.classes = [str(digit) for digit in range(10)]
        super().__init__(**kwargs)

    def load(self) -> tuple[Part, Part]:
        from sklearn.datasets import load_digits  # half a second of every start, that other data need not take
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        x = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
        if self.input_shape != [1, 8, 8]:
            x = F.interpolate(x, size=self.input_shape[1:], mode="bilinear", align_corners=False)
        x, target = x.round().to(torch.uint8), torch.from_numpy(digits.target).long()
        train, test = train_test_split(torch.arange(len(x)), test_size=0.2, stratify=target, random_state=0)
        return Part(x[train], target[train]), Part(x[test], target[test])


def _read_idx(path: Path, md5: str) -> Tensor:
    """The uint8 tensor in an IDX file, packed or not: 0, 0, 8, the number of dimensions, big-endian sizes, bytes."""
    unpacked = path.with_suffix("")
    if path.exists():
        if not check_integrity(path, md5):
            raise UserError(f"{path} is damaged (its MD5 is not {md5}): delete it to have it downloaded again")
        content = bytearray(gzip.decompress(path.read_bytes()))
    else:
        path, content = unpacked, bytearray(unpacked.read_bytes())
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if not dimensions:
        raise UserError(f"{path} is no IDX file of bytes (it starts with {content[:4].hex(' ')}): delete it")
    if len(content) != (size := start + math.prod(shape)):
        what = "truncated" if len(content) < size else "too long"
        raise UserError(f"{path} is {what} ({len(content)} bytes of {size}): delete it to have it downloaded")
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(shape)
