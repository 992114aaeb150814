"""Where in an image the score comes from: heat maps over images, as PNG files."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ..errors import UserError
from .explanation import Explanation


def heat(explanation: Explanation) -> np.ndarray:
    """What each place adds to the score, over the channels; what lowers the score counts as 0: float32 (N, H, W)."""
    if explanation.contributions.ndim != 4:
        raise UserError(f"samples of shape {list(explanation.contributions.shape[1:])} are not images")
    return explanation.contributions.sum(1).clip(min=0)


def overlay(image: np.ndarray, heat: np.ndarray, ceiling: float) -> np.ndarray:
    """An image in grey under its heat: black through red to yellow, the more opaque the hotter.

    Args:
        image: uint8 (C, H, W), with 1, 3 or 4 channels.
        heat: (H, W), at least 0.
        ceiling: The heat that is shown in full.

    Returns:
        uint8 (H, W, 3).
    """
    from matplotlib import colormaps

    grey = image[:3].astype(np.float32).mean(0)[..., None]
    share = np.nan_to_num(heat / max(ceiling, 1e-30), nan=1.0).clip(0, 1)
    colour = 255 * colormaps["inferno"](0.25 + 0.65 * share)[..., :3]
    opacity = (np.sqrt(share) * 0.9)[..., None]  # the root: what is half as hot is to be seen as well
    return (grey * (1 - opacity) + colour * opacity).round().astype(np.uint8)


def png(pixels: np.ndarray, scale: int = 1) -> bytes:
    """The content of a PNG file: uint8 (H, W) or (H, W, 3), each pixel scale × scale large."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    image.save(buffer := io.BytesIO(), "PNG", optimize=True)
    return buffer.getvalue()
