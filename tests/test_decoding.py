"""One image file: its pixels against arrays that were saved with known values; what is wrong with one, in a line."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vae_lightning.decoding import Decoder, own_channels
from vae_lightning.errors import UserError
from vae_lightning.imagefiles import batches, images_below, in_order

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
grey, colour = Decoder((20, 30), 1), Decoder((20, 30), 3)


def save(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_pixels_are_those_that_were_saved(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", COLOUR, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(colour(path), COLOUR.transpose(2, 0, 1))
    assert own_channels(path) == colour.decode(path)[1] == 3
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(grey(path)[0] - luma).max() <= 1
    if suffix != "webp":  # which has no grey
        path = save(tmp_path / f"grey.{suffix}", GREY)
        assert np.array_equal(grey(path)[0], GREY)
        assert np.array_equal(colour(path), np.stack([GREY] * 3))
        assert own_channels(path) == 1


def test_a_jpeg_is_near_what_was_saved_and_a_large_one_is_scaled_down(tmp_path: Path) -> None:
    y, x = np.mgrid[:1024, :1024] / 1024
    smooth = (255 * np.stack([x, y, x * y], 2)).astype(np.uint8)
    path = save(tmp_path / "x.jpg", smooth, quality=95)
    expected = smooth.reshape(32, 32, 32, 32, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(Decoder((32, 32), 3)(path) - expected).max() < 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("white", "top"), [(65_535, 65_535), (4095, 4095), (1000, 4095)])
def test_sixteen_bits_are_scaled_by_what_is_white(tmp_path: Path, suffix: str, white: int, top: int) -> None:
    pixels = RNG.integers(0, top + 1, (20, 30)).astype(np.uint16)
    found = Decoder((20, 30), 1, white=white)(save(tmp_path / f"x.{suffix}", pixels))[0]
    assert np.abs(found - np.minimum(pixels / white, 1) * 255).max() <= 0.51


def test_transparent_pixels_lie_on_black(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (20, 30, 1), dtype=np.uint8)
    path = save(tmp_path / "x.png", np.concatenate([COLOUR, alpha], 2))
    assert np.abs(colour(path).transpose(1, 2, 0) - COLOUR * (alpha / 255)).max() <= 1
    path = save(tmp_path / "y.png", np.concatenate([GREY[..., None], alpha], 2))
    assert np.abs(grey(path)[0] - GREY * (alpha[..., 0] / 255)).max() <= 1
    assert (own_channels(tmp_path / "x.png"), own_channels(path)) == (3, 1)


def test_palettes_and_black_and_white(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY % 4, "L").convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    palette.putdata((GREY % 4).flatten().tolist())
    palette.save(tmp_path / "x.png")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]])
    assert np.array_equal(colour(tmp_path / "x.png").transpose(1, 2, 0), colours[GREY % 4])
    Image.fromarray(GREY > 99).save(tmp_path / "y.png")
    assert np.array_equal(grey(tmp_path / "y.png")[0], 255 * (GREY > 99))


# What each value of EXIF's tag 274 says of the first row and column, as numpy undoes it
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: x.T[:, ::-1],
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: x.T[::-1],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_as_their_camera_was_held(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    expected = UPRIGHT[orientation](GREY)
    found = Decoder(expected.shape, 1)(save(tmp_path / "x.png", GREY, exif=exif))[0]
    assert np.array_equal(found, expected)


def test_the_rule_of_resizing(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80), np.uint8)
    pixels[:, 20:60], pixels[:, 60:] = 100, 200  # a quarter black, a half grey, a quarter white
    path = save(tmp_path / "x.png", pixels)
    stretched, cropped, padded = (
        Decoder((8, 8), 1, how, "box")(path)[0]
        for how in ("stretch", "crop", "pad")  # type: ignore[arg-type]
    )
    assert np.array_equal(stretched, np.repeat([[0, 0, 100, 100, 100, 100, 200, 200]], 8, 0))
    assert (cropped == 100).all()
    assert np.array_equal(padded[2:6], stretched[2:6])
    assert not padded[:2].any()
    assert not padded[6:].any()
    fine = save(tmp_path / "fine.png", np.tile(np.array([[0, 255]], np.uint8), (64, 32)))
    assert np.abs(Decoder((8, 8), 1)(fine)[0][:, 1:-1] - 127.5).max() < 3  # smoothed, not every eighth pixel
    assert set(np.unique(Decoder((8, 8), 1, interpolation="nearest")(fine))) <= {0, 255}


def test_a_mask_is_in_the_same_place_as_its_image(tmp_path: Path) -> None:
    where = np.zeros((40, 80), bool)
    where[10:20, 40:60] = True
    for values in (where.astype(np.uint8) * 255, where.astype(np.uint8), where.astype(np.uint16) * 40_000):
        path = save(tmp_path / "x_mask.png", values)
        for how in ("stretch", "crop", "pad"):
            decoder = Decoder((20, 20), 1, how, "box")  # type: ignore[arg-type]
            image = decoder(save(tmp_path / "x.png", where.astype(np.uint8) * 255))[0]
            found = decoder.mask(path)
            assert found.dtype == bool
            assert (np.abs(found * 255.0 - image) <= 128).all()
            assert found.any()


def test_a_decoder_is_primitives_and_back() -> None:
    decoder = Decoder((3, 4), 1, "crop", "lanczos", 4095)
    said = decoder.primitives()
    assert said == {"size": [3, 4], "channels": 1, "resize": "crop", "interpolation": "lanczos", "white": 4095}
    assert Decoder.of(said) == decoder
    for damaged in ({}, {"size": [3, 4]}, [1], None, {**said, "scale": 2}):
        with pytest.raises(UserError, match="does not say how images are read"):
            Decoder.of(damaged)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 4)}, r"size = \[0, 4\] is not \[height, width\] in pixels, each from 1 to 2048"),
        ({"size": (4,)}, "size = "),
        ({"size": (4, 4000)}, "size = "),
        ({"size": 4}, "size = 4 "),
        ({"size": "ab"}, "size = ab "),
        ({"channels": 2}, "channels = 2: give 1 for grey or 3"),
        ({"resize": "fit"}, "resize = fit is none of stretch, crop, pad"),
        ({"interpolation": "cubic"}, "interpolation = cubic is none of nearest, box, bilinear"),
        ({"white": 0}, "white = 0 "),
        ({"white": 65_536}, "white = 65536 "),
    ],
)
def test_a_decoder_that_cannot_be_meant_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Decoder(**{"size": (4, 4), "channels": 1, **arguments})


def bomb(path: Path) -> None:
    """40,000 × 40,000 pixels in a header; the first rows of them packed a thousandfold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6), 9)) + chunk(b"IEND", b""))


def truncated(path: Path, suffix: str) -> None:
    whole = save(path.with_name(f"whole.{suffix}"), COLOUR).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text.png": (lambda path: path.write_text("no pixels"), "is no PNG, JPEG, TIFF, BMP or WebP image"),
    "zero.png": (lambda path: path.write_bytes(b""), "is empty, 0 bytes"),
    "bomb.png": (bomb, "has more than 100,000,000 pixels"),
    "half.png": (partial(truncated, suffix="png"), "is damaged"),
    "half.jpg": (partial(truncated, suffix="jpg"), "is damaged"),
    "half.tif": (partial(truncated, suffix="tif"), "is damaged"),
    "half.webp": (partial(truncated, suffix="webp"), "is damaged|is no PNG"),
    "head.png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "is damaged|is no PNG"),
    "float.tif": (lambda path: save(path, RNG.random((4, 4), np.float32)), "has floating-point pixels"),
    "int.tif": (lambda path: save(path, np.full((4, 4), 70_000, np.int32)), "has pixels of 32 bits"),
    "two.tif": (
        lambda path: save(path, GREY, save_all=True, append_images=[Image.fromarray(GREY)]),
        "holds 2 images: save each as a separate file",
    ),
    "gif.png": (lambda path: save(path, GREY, format="GIF"), "is no PNG"),
    "script.png": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "is no PNG"),
    "absent.png": (lambda path: None, "No such file"),
    "folder.png": (lambda path: path.mkdir(), "Is a directory"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    path, (make, message) = tmp_path / name, BAD[name]
    make(path)
    with pytest.raises(UserError, match=message) as error:
        grey(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert not recwarn.list


# Many files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """70 images of one value each, in three folders, beside what is none."""
    root = tmp_path / "many"
    for i in range(70):
        save(root / "abc"[i % 3] / f"{i:02}.PNG", np.full((5, 5), i, np.uint8))
    (root / "readme.txt").write_text("no image")
    (root / ".hidden").mkdir()
    save(root / ".hidden" / "x.png", GREY)
    save(root / "._x.png", GREY)
    (root / "a" / "above").symlink_to(root)
    return root


def test_images_below_a_folder_are_in_the_order_of_their_paths(folder: Path) -> None:
    found = images_below(folder)
    assert found == sorted(folder / "abc"[i % 3] / f"{i:02}.PNG" for i in range(70))
    with pytest.raises(UserError, match="there is no such folder"):
        images_below(folder / "none")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no images: their names end in .png"):
        images_below(folder / "empty")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_order_whoever_decodes_them(folder: Path, workers: int) -> None:
    paths, decoder = images_below(folder), Decoder((2, 2), 1)
    found = list(batches(iter(paths), decoder, 16, workers))
    assert [len(names) for names, _ in found] == [16, 16, 16, 16, 6]
    assert [name for names, _ in found for name in names] == paths
    x = np.concatenate([x for _, x in found])
    assert x.dtype == np.uint8
    assert x.shape == (70, 1, 2, 2)
    assert x[:, 0, 0, 0].tolist() == [int(path.stem) for path in paths]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_fatal_or_noted(folder: Path, workers: int) -> None:
    paths, decoder = images_below(folder), Decoder((2, 2), 1)
    paths[40].write_bytes(b"")
    with pytest.raises(UserError, match=f"{paths[40]}: is empty"):
        list(batches(paths, decoder, 16, workers))
    skipped: list[tuple[Path, str]] = []
    kept = [name for names, _ in batches(paths, decoder, 16, workers, skipped) for name in names]
    assert kept == [path for path in paths if path != paths[40]]
    assert [path for path, _ in skipped] == [paths[40]]
    assert "is empty" in skipped[0][1]


def test_only_what_is_asked_for_is_read(folder: Path) -> None:
    """An endless source is no problem: workers keep a bounded number of files ahead."""
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            for path in images_below(folder):
                taken += 1
                yield path

    found = batches(endless(), Decoder((2, 2), 1), 16, workers=2)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert taken <= 300


def _die(chunk: list[int]) -> int:
    if 3 in chunk:
        os._exit(1)
    return len(chunk)


def test_a_process_that_dies_is_said_with_the_files_that_it_had() -> None:
    with pytest.raises(UserError, match="was killed: there is too little memory"):
        list(in_order(_die, [[1, 2], [3, 4], [5]], 1))
