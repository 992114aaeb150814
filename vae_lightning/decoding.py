"""An image file as pixels: the one way in which data modules, the detector and commands read one."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import UserError

FORMATS = "PNG", "JPEG", "TIFF", "BMP", "WEBP"  # no others: some of PIL's start programs
LARGEST = 100_000_000  # pixels of a file; a few kilobytes can claim to be billions
LARGEST_SIDE = 2048  # of what it is resized to

Resize = Literal["stretch", "crop", "pad"]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What becomes of an image file: its size, channels and scale of grey, the same at each place that reads one.

    Pixels are turned as EXIF says, transparent ones lie on black, and what is scaled down is smoothed first.

    Args:
        size: Height and width in pixels.
        channels: 1 for grey, 3 for red, green and blue. An image of the other kind is converted.
        resize: ``stretch`` to the size; ``crop`` to its proportions, around the centre, and then scale; scale to fit
            into it and ``pad`` with black.
        interpolation: Between pixels.
        white: What is white in grey images of 16 bits: 4095 for a camera of 12 bits.

    Raises:
        UserError: For what cannot be meant.
    """

    size: tuple[int, ...]
    channels: int
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    white: int = 65_535

    def __post_init__(self) -> None:
        size = list(self.size) if isinstance(self.size, (list, tuple)) else []
        if len(size) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in size):
            raise UserError(
                f"size = {size or self.size} is not [height, width] in pixels, each from 1 to {LARGEST_SIDE}"
            )
        object.__setattr__(self, "size", tuple(size))
        if self.channels not in (1, 3):
            raise UserError(f"channels = {self.channels}: give 1 for grey or 3 for colour")
        for key, known in (("resize", Resize), ("interpolation", Interpolation)):
            if (value := getattr(self, key)) not in get_args(known):
                raise UserError(f"{key} = {value} is none of {', '.join(get_args(known))}")
        if type(self.white) is not int or not 1 <= self.white <= 65_535:
            raise UserError(f"white = {self.white} is not a 16-bit grey value, 1 to 65535")

    @classmethod
    def of(cls, primitives: Any) -> Decoder:
        """The decoder that ``primitives`` gave these of.

        Raises:
            UserError: When they are of no decoder.
        """
        try:
            return cls(**primitives)
        except TypeError:
            expected = ", ".join(field.name for field in dataclasses.fields(cls))
            raise UserError(f"{primitives} does not say how images are read: expected {expected}") from None

    def primitives(self) -> dict[str, Any]:
        """What a checkpoint can hold."""
        return {**dataclasses.asdict(self), "size": list(self.size)}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded image, (channels, height, width)."""
        return (self.channels, *self.size)

    def __call__(self, path: str | Path) -> np.ndarray:
        """An image file as uint8 (channels, height, width).

        Raises:
            UserError: When it is none, is damaged or too large; the message starts with the path.
        """
        return self.decode(path)[0]

    def decode(self, path: str | Path, content: bytes | None = None) -> tuple[np.ndarray, int]:
        """The same, and how many channels the file itself has: 1 or 3.

        Args:
            path: The file, or what messages call it.
            content: Of the file, where it lies in memory.
        """
        with _opened(path, content) as image:
            own = channels_of(image)
            image.draft(None, (2 * max(self.size),) * 2)  # a large JPEG is decoded at a half, a quarter or an eighth
            image = _eight_bits(ImageOps.exif_transpose(image), self.white)
            image = image.convert("L" if self.channels == 1 else "RGB")
            pixels = np.asarray(self._resized(image, self.interpolation))
        return np.ascontiguousarray(pixels.reshape(*self.size, self.channels).transpose(2, 0, 1)), own

    def mask(self, path: str | Path) -> np.ndarray:
        """A mask's file as bool (height, width): a pixel is in it if at least half of what it stands for is not black.

        Raises:
            UserError: As for an image.
        """
        with _opened(path) as image:
            image = _eight_bits(ImageOps.exif_transpose(image), 1).convert("L").point(lambda value: 255 * (value > 0))
            return np.asarray(self._resized(image, "box")) >= 128

    def _resized(self, image: Image.Image, interpolation: Interpolation) -> Image.Image:
        size, method = (self.size[1], self.size[0]), Image.Resampling[interpolation.upper()]
        if self.resize == "stretch":
            return image.resize(size, method)
        return (ImageOps.fit if self.resize == "crop" else ImageOps.pad)(image, size, method)


def channels_of(image: Image.Image) -> int:
    """How many channels an image has, its transparency apart: 1 or 3. A palette's colours are 3."""
    return 1 if image.mode[0] in "1LIF" and image.mode != "LAB" else 3


def own_channels(path: str | Path) -> int:
    """The same of a file, whose pixels are not decoded for that.

    Raises:
        UserError: When it is no image.
    """
    with _opened(path) as image:
        return channels_of(image)


def _eight_bits(image: Image.Image, white: int) -> Image.Image:
    """The same pixels with 8 bits for each channel, on black where they are transparent."""
    if image.mode[0] == "I":  # 16 bits, which some versions of PIL keep as 32
        pixels = np.asarray(image)
        if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65_535:
            raise UserError("has pixels of 32 bits: save it with 8 or 16")
        return Image.fromarray((pixels.astype(np.float32) * (255 / white) + 0.5).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise UserError("has floating-point pixels: save it with 8 or 16 bits")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image


@contextlib.contextmanager
def _opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong with it within is said in one line, which starts with its path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, on what is decided here
            with Image.open(path if content is None else io.BytesIO(content), formats=FORMATS) as image:
                if image.size[0] * image.size[1] > LARGEST:
                    raise Image.DecompressionBombError
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format != "MPO":  # whose others are a camera's previews
                    raise UserError(f"holds {frames} images: save each as a separate file")
                yield image
    except Exception as error:  # PIL has no error of its own for the many ways in which a file can be none
        empty = not (Path(path).stat().st_size if content is None and Path(path).is_file() else content)
        raise UserError(f"{path}: {_reason(error, empty)}") from error


def _reason(error: Exception, empty: bool) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {LARGEST:,} pixels, as a decompression bomb has: scale it down, or leave it out"
    if isinstance(error, UnidentifiedImageError):
        if empty:
            return "is empty, 0 bytes: replace it, or leave it out"
        return "is no PNG, JPEG, TIFF, BMP or WebP image: replace it, or leave it out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"is damaged ({' '.join(str(error).split()) or type(error).__name__}): replace it, or leave it out"
