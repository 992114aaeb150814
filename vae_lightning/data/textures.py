"""Textures with small defects, drawn from a seed, with the truth for each pixel: what image recipes are measured on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..detection.preprocessing import Images
from ..errors import UserError
from .base import AnomalyDataModule
from .splits import Part

Texture = Literal["stripes", "noise", "weave"]
DEFECTS = "scratch", "blob", "missing"
PERIOD = 8.0  # pixels from one thread to the next


class Drawn(NamedTuple):
    """Textures: ``x`` uint8 (N, 1, H, W); ``mask`` bool (N, H, W), where each is defective; ``target`` int64 (N,)."""

    x: Tensor
    mask: Tensor
    target: Tensor


class SyntheticTextures(AnomalyDataModule):
    """Grey textures; some of the test part have a defect, whose pixels are known.

    ======= ========================================= =================================================================
    stripes parallel threads, somewhat wavy           no two images are alike: threads are shifted and turned by up to
    weave   two sets of threads, over and under        4°, their distance varies by 3 %, the light by place and image,
    noise   grain without a direction                  and each pixel has noise
    ======= ========================================= =================================================================

    Class 0 is ``good``. A ``scratch`` is a thin line, a ``blob`` a spot with soft edges, both lighter or darker; where
    threads (or grain) are ``missing``, what lies below them is seen. The training part is normal, as in MVTec AD.

    Args:
        texture: Which of them.
        size: Height and width in pixels.
        train: Normal images in the training part.
        test: Images of each class in the test part.
        data_seed: Of the images.
        **kwargs: The split, see ``AnomalyDataModule``.

    Raises:
        UserError: When the size or a number is out of range.
    """

    preprocessing = Images()
    has_masks = True

    def __init__(
        self,
        texture: Texture = "weave",
        size: int = 128,
        train: int = 400,
        test: int = 60,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        if texture not in get_args(Texture):
            raise UserError(f"SyntheticTextures: texture = {texture} is none of {', '.join(get_args(Texture))}")
        if not 32 <= size <= 1024:
            raise UserError(f"SyntheticTextures: size = {size} is not in 32 to 1024 pixels")
        for key, number in (("train", train), ("test", test)):
            if number < 1:
                raise UserError(f"SyntheticTextures: {key} = {number} must be at least 1")
        self.texture, self.size, self.train, self.test, self.data_seed = texture, size, train, test, data_seed
        self.input_shape, self.classes = [1, size, size], ["good", *DEFECTS]
        self._drawn: tuple[Drawn, Drawn] | None = None
        super().__init__(**kwargs)

    @property
    def default_anomaly_classes(self) -> list[int]:
        return [1, 2, 3]

    def drawn(self) -> tuple[Drawn, Drawn]:
        """Training and test part with their masks; drawn once."""
        if self._drawn is None:
            targets = torch.zeros(self.train, dtype=torch.int64), torch.arange(4).repeat_interleave(self.test)
            seeds = np.random.SeedSequence(self.data_seed).spawn(2)
            train, test = (self._draw(target, seed) for target, seed in zip(targets, seeds, strict=True))
            self._drawn = train, test
        return self._drawn

    def load(self) -> tuple[Part, Part]:
        train, test = self.drawn()
        return Part(train.x, train.target), Part(test.x, test.target)

    def mask(self, row: int) -> Tensor:
        return self.drawn()[1].mask[row]

    def write(self, folder: str | Path) -> None:
        """Write the images as PNG files in MVTec AD's layout, for ``Images``."""
        for part, drawn in zip(("train", "test"), self.drawn(), strict=True):
            for i, (x, mask, target) in enumerate(zip(*drawn, strict=True)):
                name = self.classes[int(target)]
                _save(Path(folder) / part / name / f"{i:04}.png", x[0])
                if part == "test" and target:
                    _save(Path(folder) / "ground_truth" / name / f"{i:04}_mask.png", mask.byte() * 255)

    def _draw(self, target: Tensor, seed: np.random.SeedSequence) -> Drawn:
        rngs = map(np.random.default_rng, seed.spawn(len(target)))
        found = [_image(self.texture, self.size, int(c), rng) for c, rng in zip(target, rngs, strict=True)]
        images, masks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*found, strict=True))
        return Drawn(images[:, None], masks, target)


def _save(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path)


def _image(texture: Texture, size: int, c: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image, uint8 (H, W), of class c, and where it is defective, bool (H, W)."""
    y, x = np.mgrid[:size, :size].astype(np.float32) - size / 2
    angle = math.radians(rng.uniform(-4, 4))
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    period = PERIOD * rng.uniform(0.97, 1.03)
    u, v = (u / period + rng.uniform(), v / period + rng.uniform())  # in threads
    where = np.zeros((size, size), bool)
    if texture == "noise":
        grain = rng.normal(size=(size, size))
        grain = gaussian_filter(grain, 1.0, mode="wrap") - gaussian_filter(grain, 3.0, mode="wrap")
        grain *= 0.06 / grain.std()
        if c == 3:
            where = _spot(size, rng, rng.uniform(7, 14)) > 0.5
        image = 0.5 + np.where(where, 0.2, 1.0) * grain
    else:
        u = u + 0.12 * np.sin(2 * math.pi * (v / 11 + rng.uniform()))
        if c == 3:  # a part of one thread, near the centre
            thread, middle = round(rng.uniform(-size / 3, size / 3) / period), rng.uniform(-size / 3, size / 3)
            where = (np.floor(u) == thread) & (np.abs(v * period - middle) < rng.uniform(8, 30))
        image = (_stripes if texture == "stripes" else _weave)(u, v, where)
    if c in (1, 2):
        strength = rng.choice([-1, 1]) * rng.uniform(0.12, 0.3)
        shape = _line(size, rng) if c == 1 else _spot(size, rng, rng.uniform(3, 8))
        image, where = image + strength * shape, shape > 0.5
    light = rng.uniform(-0.04, 0.04) + (x * rng.uniform(-0.06, 0.06) + y * rng.uniform(-0.06, 0.06)) / size
    image = image + light + 0.02 * rng.normal(size=image.shape)
    return (255 * image.clip(0, 1)).round().astype(np.uint8), where


def _stripes(u: np.ndarray, v: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Threads along v, each light in its middle."""
    return 0.3 + np.where(missing, 0.0, 0.4) * np.abs(np.sin(math.pi * u))


def _weave(u: np.ndarray, v: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Threads along v over and under threads along u; where one of the former is missing, the latter are seen."""
    over = ((np.floor(u) + np.floor(v)) % 2 == 0) & ~missing
    return 0.3 + np.where(over, 0.4 * np.abs(np.sin(math.pi * u)), 0.25 * np.abs(np.sin(math.pi * v)))


def _line(size: int, rng: np.random.Generator) -> np.ndarray:
    """A thin line somewhat bent, 1 at its middle, soft at its edges."""
    y, x = np.mgrid[:size, :size] - rng.uniform(0.2 * size, 0.8 * size, (2, 1, 1))
    angle = rng.uniform(0, math.pi)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    length, width = rng.uniform(15, 50), rng.uniform(0.8, 1.6)
    across = across - rng.uniform(-0.008, 0.008) * along**2
    return np.exp(-0.5 * (across / width) ** 2) * (np.abs(along) < length / 2)


def _spot(size: int, rng: np.random.Generator, radius: float) -> np.ndarray:
    """A spot of uneven outline, 1 within, soft at its edge."""
    y, x = np.mgrid[:size, :size] - rng.uniform(0.2 * size, 0.8 * size, (2, 1, 1))
    angle, reach = np.arctan2(y, x), 1.0
    for k in (2, 3):
        reach = reach + rng.uniform(0, 0.15) * np.sin(k * angle + rng.uniform(0, 2 * math.pi))
    return 1 / (1 + np.exp(2 * (np.hypot(x, y) / reach - radius)))
