"""A folder of images as a data set: what is in which part, what is kept of it, and what is wrong with one in a line."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vae_lightning as vl
from vae_lightning.data import Images
from vae_lightning.data.augmentation import moved
from vae_lightning.data.decoded import decode_files
from vae_lightning.decoding import Decoder
from vae_lightning.errors import UserError
from vae_lightning.imagefiles import images_below


def table(file: Path, rows: list[dict[str, Any]]) -> Path:
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path)))[None]


def check(data: Images, part: int, which: list[Path]) -> None:
    """The part holds just these images, in this order, and its rows lead to their files."""
    found, name = data.load()[part], ("train", "test")[part]
    assert found.row is not None
    assert [data.pictures[name][i].path for i in found.row.tolist()] == which
    assert all(torch.equal(x, pixels(path)) for x, path in zip(found.x, which, strict=True))
    labels = [data.pictures[name][i].label for i in found.row.tolist()]
    assert [data.classes[c] for c in found.target.tolist()] == labels


# Where the images come from


def test_mvtec_s_layout(image_folder: Path) -> None:
    data = Images(str(image_folder), 8)
    assert (data.input_shape, data.classes, data.division()) == ([1, 8, 8], ["good", "scratch"], ([0], [1]))
    check(data, 0, images_below(image_folder / "train"))
    check(data, 1, images_below(image_folder / "test"))
    for picture in data.pictures["test"]:
        masks = image_folder / "ground_truth" / picture.label / f"{picture.path.stem}_mask.png"
        assert picture.mask == (masks if picture.label == "scratch" else None)


def test_normal_images_may_lie_in_train_itself_and_there_may_be_no_test_part(image_folder: Path) -> None:
    shutil.rmtree(image_folder / "test")
    for path in images_below(image_folder / "train" / "good"):
        path.rename(image_folder / "train" / path.name)
    data = Images(str(image_folder), 8)
    assert (len(data.load()[0].x), len(data.load()[1].x)) == (69, 0)
    assert data.classes == ["good", "scratch"]
    assert not data.has("test")


def test_any_other_folder_a_pattern_and_a_table_give_a_random_test_part(image_folder: Path, tmp_path: Path) -> None:
    folder = image_folder / "train"
    rows = [{"path": path.relative_to(tmp_path), "label": path.parent.name} for path in images_below(folder)]
    sources = [str(folder), str(table(tmp_path / "parts.csv", rows))]
    for data in [Images(source, 8, test_fraction=0.25, seed=3) for source in sources]:
        parts = data.load()
        rows_of = [[data.pictures["train"][i].path for i in part.row.tolist()] for part in parts]
        assert sorted(rows_of[0] + rows_of[1]) == images_below(folder)
        assert [(part.target == 1).sum().item() for part in parts] == [7, 2]  # a quarter of 9
        assert len(rows_of[1]) == 15 + 2
        for part in (0, 1):
            check(data, part, rows_of[part])
    other = Images(str(folder), 8, test_fraction=0.25, seed=4)
    assert other.load()[1].row.tolist() != data.load()[1].row.tolist()
    pattern = Images(f"{folder}/**/*.png", 8, test_fraction=0)
    assert pattern.classes == ["good"]
    check(pattern, 0, images_below(folder))


def test_a_table_says_label_split_and_mask(image_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"split": path.parts[-3], "path": path, "label": {"good": 0}.get(path.parent.name, 1), "mask": ""}
        for path in images_below(image_folder)
        if "ground_truth" not in path.parts
    ]
    rows[0]["mask"] = image_folder / "ground_truth" / "scratch" / "000_mask.png"
    data = Images(str(table(tmp_path / "x.csv", rows)), [8, 8], normal=["0"])
    assert data.classes == ["0", "1"]
    check(data, 0, images_below(image_folder / "train"))
    check(data, 1, images_below(image_folder / "test"))
    assert data.pictures["test"][0].mask == rows[0]["mask"]


def test_several_classes_may_be_normal(image_folder: Path) -> None:
    data = Images(str(image_folder), 8, normal=["scratch", "good"])
    assert (data.classes, data.division()) == (["scratch", "good"], ([0, 1], []))


# Decoded once


def test_a_memory_map_is_made_once_and_again_when_a_file_changes(image_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def load() -> Images:
        data = Images(str(image_folder), 8, memory=0, cache=str(cache))
        data.load()
        return data

    def written() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}

    for part in (0, 1):
        check(load(), part, images_below(image_folder / ("train", "test")[part]))
    first = written()
    assert len(first) == 2
    load()
    assert written() == first
    changed = images_below(image_folder / "test")[3]
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(changed)
    os.utime(changed, ns=(0, 0))  # whatever the clock's grain
    check(load(), 1, images_below(image_folder / "test"))
    assert len(written()) == 4


def test_a_map_keeps_what_was_skipped(image_folder: Path, tmp_path: Path) -> None:
    bad = images_below(image_folder / "train")[5]
    bad.write_text("no image")
    for _ in range(2):
        data = Images(str(image_folder), 8, memory=0, cache=str(tmp_path / "cache"), on_error="skip")
        with pytest.warns(UserWarning, match=rf"1 of 104 files are skipped: {bad}: is no PNG"):
            data.setup()
        check(data, 0, [path for path in images_below(image_folder / "train") if path != bad])
        check(data, 1, images_below(image_folder / "test"))
        assert data.skipped[0][0] == bad


def test_worker_processes_give_the_same(image_folder: Path) -> None:
    alone, helped = (Images(str(image_folder), 8, workers=n).load() for n in (0, 2))
    assert all(torch.equal(a.x, b.x) and torch.equal(a.row, b.row) for a, b in zip(alone, helped, strict=True))


def test_a_disk_too_small_is_known_beforehand(image_folder: Path, tmp_path: Path) -> None:
    decoder = Decoder((2048, 2048), 3)
    files = [images_below(image_folder)[0]] * (shutil.disk_usage(tmp_path).free // 3 // 2048**2 + 1000)
    with pytest.raises(UserError, match=r"cache: .* GB are needed for the decoded images and .* GB are free"):
        decode_files(files, decoder, 0, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_file_that_changes_meanwhile_is_named(image_folder: Path) -> None:
    paths = images_below(image_folder / "test")

    class Slow(Decoder):
        def decode(self, path: str | Path) -> tuple[np.ndarray, int]:
            os.utime(paths[3], ns=(0, 0))
            return super().decode(path)

    with pytest.raises(UserError, match=f"{paths[3]}: changed while the images were read"):
        decode_files(paths, Slow((8, 8), 1), 0, None)


# Augmentation


def test_images_are_shifted_and_flipped_within_bounds_and_all_ways_are_equally_likely() -> None:
    image = torch.arange(35, dtype=torch.uint8).view(1, 1, 5, 7)
    padded = np.pad(image[0, 0].numpy(), 1, mode="edge")
    expected = {}
    for dy in range(3):
        for dx in range(3):
            for v in (1, -1):
                for h in (1, -1):
                    expected[padded[dy : dy + 5, dx : dx + 7][::v, ::h].tobytes()] = 0
    found = moved(image.expand(3600, 1, 5, 7), torch.Generator().manual_seed(0), 1, "both")
    for one in found:
        expected[one.numpy().tobytes()] += 1  # a KeyError for anything else
    assert len(expected) == 36
    assert min(expected.values()) > 50  # 100 ± 10
    assert max(expected.values()) < 150
    only = moved(image.expand(50, 1, 5, 7), torch.Generator().manual_seed(0), 0, "horizontal")
    assert {one.numpy().tobytes() for one in only} == {image.numpy().tobytes(), image.flip(3).numpy().tobytes()}


def test_training_images_are_moved_anew_each_epoch_and_again_after_a_resume(image_folder: Path) -> None:
    torch.manual_seed(0)
    data, plain = (Images(str(image_folder), 8, shift=shift, batch_size=10, seed=1) for shift in (2, 0))
    loader = data.train_dataloader()
    first = [batch.x for batch in loader]
    loader.set_epoch(1)
    iterator = iter(loader)
    next(iterator)
    state, resumed = (
        loader.state_dict(),
        Images(str(image_folder), 8, shift=2, batch_size=10, seed=1).train_dataloader(),
    )
    resumed.set_epoch(1)
    resumed.load_state_dict(state)
    rest = [batch.x for batch in iterator]
    assert all(torch.equal(a, b.x) for a, b in zip(rest, resumed, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[1:], rest, strict=True))
    for split in ("val", "calibration", "test"):
        assert all(torch.equal(a.x, b.x) for a, b in zip(data.loader(split), plain.loader(split), strict=True))
    for a, b in zip(data.reference_dataloader(), plain.reference_dataloader(), strict=True):
        assert torch.equal(a.x, b.x)  # what scores are fitted on


# From file to scored file


def test_the_detector_reads_files_as_training_did(image_folder: Path, tmp_path: Path) -> None:
    images = [path for path in images_below(image_folder) if "ground_truth" not in path.parts]
    for path in images:  # another size and colour than the network's
        Image.open(path).resize((20, 30)).convert("RGB").save(path)
    data = Images(str(image_folder), [6, 10], channels=1, resize="pad", interpolation="bicubic", val_fraction=0.3)
    run = vl.fit(vl.Autoencoder([1, 6, 10], latent_dim=2), data, max_epochs=2, verbose=False, folder=tmp_path / "run")
    assert run.metrics["test/auroc"] >= 0
    detector = vl.Detector.load(tmp_path / "run")
    said = {"size": [6, 10], "channels": 1, "resize": "pad", "interpolation": "bicubic", "white": 65_535}
    assert detector.model.trained_on["images"] == said
    expected = run.detector.score(data.load()[1].x.numpy())
    paths = images_below(image_folder / "test")
    for given in (
        paths,
        [str(path) for path in paths],
        tuple(paths),
        image_folder / "test",
        str(image_folder / "test"),
    ):
        assert np.array_equal(detector.score(given), expected)
    assert np.allclose(detector.score(paths[3]), expected[3], rtol=1e-5)
    assert detector.predict(paths).dtype == bool
    paths[1].write_bytes(b"")
    for given in (paths, tmp_path / "none.png", image_folder / "test" / "none"):
        with pytest.raises(UserError, match=r"is empty|No such file"):
            detector.score(given)


def test_a_detector_of_other_samples_says_that_it_reads_no_files(image_folder: Path) -> None:
    run = vl.fit(vl.Autoencoder([1, 8, 8], latent_dim=2), vl.Digits(), max_epochs=1, verbose=False)
    with pytest.raises(UserError, match="reads no image files: it was trained on Digits, which does not say how"):
        run.detector.score([image_folder / "test" / "good" / "000.png"])


def test_the_commands(run: Callable[[str], int], image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"fit --config {{configs}}/autoencoder.yaml --data Images --data.init_args.root {image_folder}"
    line += " --data.init_args.size [16,16] --data.init_args.val_fraction 0.2"
    line += " --trainer.max_epochs 1 --trainer.accelerator cpu --trainer.enable_progress_bar false"
    assert run(line) == 0
    assert run("test --ckpt_path best --trainer.accelerator cpu") == 0
    assert run("predict --ckpt_path best --trainer.accelerator cpu") == 0
    detector = vl.Detector.load("best")
    with (Path("lightning_logs") / "autoencoder" / "version_0" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(35))
    found = detector.score(image_folder / "test", "ReconstructionError")
    assert np.allclose([float(row["ReconstructionError"]) for row in rows], found, rtol=1e-6)
    capsys.readouterr()
    assert run(f"{line} --data.init_args.normal [fine]") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "no image of" in message


# What is wrong is said in one line


def several_channels(root: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "train" / "good" / "077.png")


def without_images(root: Path) -> None:
    for path in images_below(root / "train"):
        path.unlink()


def fewer_normals(root: Path) -> None:
    for path in images_below(root / "train" / "good")[3:]:
        path.unlink()


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda root: (root / "test/good/009.png").write_text("text"), r"test/good/009.png: is no PNG, JPEG"),
    "zero": (lambda root: (root / "train/good/000.png").write_bytes(b""), r"train/good/000.png: is empty, 0 bytes"),
    "channels": (several_channels, r"077.png: has 3 channels and others have 1: give channels = 1 or 3"),
    "empty": (without_images, r"parts/train: holds no images: their names end in .png"),
    "few": (fewer_normals, r"the training part's 3 normal samples are too few, 4 are needed: 1 to validate"),
    "no train": (lambda root: shutil.rmtree(root / "train"), r"folder test in it, but no folder train"),
    "no folder": (shutil.rmtree, r"parts: there is no such folder: give one, a pattern such as"),
    "loose": (
        lambda root: (root / "test/good/000.png").rename(root / "test/000.png"),
        r"test/000.png: is in no class: put it into .*test/good, or into a folder of its defect's name",
    ),
    "no good": (
        lambda root: [(root / part / "good").rename(root / part / "fine") for part in ("train", "test")],
        r"no image of .*parts is good: say in normal which are, of fine, scratch",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_is_none_is_refused_in_one_line(image_folder: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(image_folder)
    with pytest.raises(UserError, match=message) as error:
        Images(str(image_folder), 8).setup()
    assert "\n" not in str(error.value)


def test_given_channels_mixed_ones_are_converted(image_folder: Path) -> None:
    several_channels(image_folder)
    assert [Images(str(image_folder), 8, channels=n).load()[0].x.shape[1] for n in (1, 3)] == [1, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x.csv: has no columns: expected path and"),
        (b"file,label\na.png,good\n", r"x.csv: has the columns file, label: expected path"),
        (b"path;label\na.png;good\n", r"has the columns path;label \(is ; the delimiter\? , is expected\)"),
        (b"path,path\n", r"has the columns path, path: expected path"),
        (b"path\n", r"x.csv: holds no rows"),
        (b"path,label\na.png,good\nb.png,good,1\n", r"line 3: has 3 fields, the first line has 2"),
        (b"path,label\na.png,good\nb.png,good\n", r"line 3: path = b.png: there is no such file in"),
        (b"path,label\n,good\n", r"line 2: path is empty"),
        (b"path,label\na.png,\n", r"line 2: label is empty: write good for a normal image"),
        (b"path,split\na.png,dev\n", r"line 2: split = dev is neither train nor test"),
        (b"path\na.png\nsub/../a.png\n", r"line 3: path = sub/../a.png is that of line 2, too"),
        (b"path,mask\na.png,m.png\n", r"line 2: mask = m.png: there is no such file"),
        (b"path\n\xe9.png\n", r"is no CSV file in UTF-8"),
        (b"path,label\na.png,crack\n", r"is good: say in normal which are, of crack"),
        (None, r"x.csv: there is no such file"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    (tmp_path / "sub").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        Images(str(tmp_path / "x.csv"), 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, r"Images: size = \[0, 0\] is not \[height, width\]"),
        ({"size": [8]}, r"Images: size = \[8\] "),
        ({"size": 8, "channels": 4}, "Images: channels = 4: give 1 for grey"),
        ({"size": 8, "white": 0}, "Images: white = 0"),
        ({"size": 8, "test_fraction": 1.0}, "Images: test_fraction = 1.0 is not a share"),
        ({"size": 8, "shift": 8}, "Images: shift = 8 must be at least 0"),
        ({"size": 8, "shift": -1}, "Images: shift = -1 must be at least 0"),
        ({"size": 8, "normal": []}, "Images: normal is empty"),
        ({"size": 8, "root": "*.gif"}, "no image file has such a name"),
    ],
)
def test_a_wrong_argument_is_named(image_folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Images(**{"root": str(image_folder), **arguments})


def test_files_of_which_none_can_be_read(image_folder: Path) -> None:
    for path in images_below(image_folder):
        path.write_text("no image")
    with pytest.raises(UserError, match=r"none of the files of .* can be read"):
        Images(str(image_folder), 8, on_error="skip")
