"""What the scores in latent space look at: the code, and what the reconstruction leaves over."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import UserError
from .base import Score
from .pathway import LAYERS, differences, methods_for_layers

Feature = Literal["code", "difference", "errors", "blocks"]


def latent_features(model: Any, x: Tensor, features: list[Feature]) -> Tensor:
    """The features next to each other: (B, *input_shape) → (B, D)."""
    found = [model.encode(x)] if "code" in features else []
    if set(features) != {"code"}:
        layers = differences(model, x, LAYERS if "errors" in features else ["input", "latent"])
        found += [layers[-1]] if "difference" in features else []
        if "errors" in features:
            found.append(_log(torch.stack([d.square().sum(1) for d in layers], 1)))
        if "blocks" in features:
            squares = layers[0].square().view_as(x)
            found.append(_log(_blocks(squares.mean(1)).flatten(1) if x.ndim == 4 else squares))
    return torch.cat(found, 1)


def _blocks(images: Tensor, blocks: int = 7) -> Tensor:
    """The means of blocks × blocks parts of each image, whatever its size: (B, height, width) → (B, blocks, blocks).

    What adaptive_avg_pool2d gives, as two products with fixed matrices: file formats have those for every size.
    """
    rows, columns = (_block_means(size, blocks, images) for size in images.shape[1:])
    return rows @ images @ columns.T


def _block_means(size: int, blocks: int, like: Tensor) -> Tensor:
    """The matrix that takes the means of ``blocks`` stretches of ``size`` numbers: (blocks, size)."""
    block, place = torch.arange(blocks, device=like.device)[:, None], torch.arange(size, device=like.device)
    inside = (place >= block * size // blocks) & (place < -(-(block + 1) * size // blocks))
    return (inside / inside.sum(1, keepdim=True)).to(like)


def _log(errors: Tensor) -> Tensor:
    return errors.clamp_min(1e-9).log()


def methods_for_features(score: Score, features: list[Feature]) -> tuple[str, ...]:
    """What a model must have for these features."""
    known = get_args(Feature)
    if not features or not set(features) <= set(known):
        raise UserError(f"{type(score).__name__}: features = {features} must name at least one of {', '.join(known)}")
    if "errors" in features:
        return methods_for_layers(score, LAYERS)
    return ("encode",) if set(features) == {"code"} else ("encode", "reconstruct")
