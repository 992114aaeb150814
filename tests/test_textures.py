"""Textures with defects: the same for a seed, true to their masks, and on disk as a folder of images has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vae_lightning.data import Images, SyntheticTextures
from vae_lightning.errors import UserError

TEXTURES = ["stripes", "noise", "weave"]


def textures(texture: Any = "weave", **kwargs: Any) -> SyntheticTextures:
    return SyntheticTextures(texture, **{"size": 64, "train": 12, "test": 4, **kwargs})


@pytest.mark.parametrize("texture", TEXTURES)
def test_images_are_a_function_of_the_seed_and_no_two_are_alike(texture: str) -> None:
    (train, test), again, other = (textures(texture, data_seed=seed).drawn() for seed in (0, 0, 1))
    assert torch.equal(train.x, again[0].x)
    assert torch.equal(test.x, again[1].x)
    assert torch.equal(test.mask, again[1].mask)
    x = torch.cat([train.x, test.x, other[0].x, other[1].x]).flatten(1)
    assert len(x.unique(dim=0)) == len(x) == 56
    assert train.x.dtype == torch.uint8
    assert list(test.x.shape) == [16, 1, 64, 64]
    assert test.target.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    more = textures(texture, train=13).drawn()[0]
    assert torch.equal(more.x[:12], train.x)  # more images are further ones


@pytest.mark.parametrize("texture", TEXTURES)
def test_masks_say_where_the_defects_are(texture: str) -> None:
    train, test = textures(texture, test=20).drawn()
    assert not train.mask.any()
    assert not test.mask[test.target == 0].any()
    share = test.mask[test.target > 0].float().mean((1, 2))
    assert (share > 0).all()
    assert share.max() < 0.2
    # what a defect does to brightness: lines and spots shift it, and what is missing takes contrast away
    x, mask = test.x[:, 0].float(), test.mask
    for c, measure in ((1, "mean"), (2, "mean"), (3, "std")):
        inside = torch.stack([getattr(x[i][mask[i]], measure)() for i in (test.target == c).nonzero().flatten()])
        outside = torch.stack([getattr(x[i][~mask[i]], measure)() for i in (test.target == c).nonzero().flatten()])
        if measure == "mean":
            assert (inside - outside).abs().mean() > 15
        else:
            assert (inside / outside).mean() < 0.9


@pytest.mark.parametrize("texture", TEXTURES)
def test_written_to_disk_they_are_the_same_data_set(texture: str, tmp_path: Path) -> None:
    data = textures(texture)
    data.write(tmp_path)
    files = Images(str(tmp_path), 64)
    assert files.has_masks
    (train, test), (_, drawn) = files.load(), data.drawn()
    assert torch.equal(train.x, data.load()[0].x)
    place = {picture.path.stem: i for i, picture in enumerate(files.pictures["test"])}
    for i, (x, mask, target) in enumerate(zip(*drawn, strict=True)):
        row = place[f"{i:04}"]
        assert torch.equal(test.x[row], x)
        assert files.classes[int(test.target[row])] == data.classes[int(target)]
        if target:
            found = files.mask(row)
            assert found is not None
            assert torch.equal(found, mask)
            assert torch.equal(data.mask(i), mask)
        else:
            assert files.mask(row) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texture": "wood"}, "SyntheticTextures: texture = wood is none of stripes, noise, weave"),
        ({"size": 16}, "SyntheticTextures: size = 16 is not in 32 to 1024"),
        ({"train": 0}, "SyntheticTextures: train = 0 must be at least 1"),
        ({"test": 0}, "SyntheticTextures: test = 0 must be at least 1"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        textures(**arguments)
