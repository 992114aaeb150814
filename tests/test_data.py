"""The splits, as the table in AnomalyDataModule has them: one contract for every data module, and each one's own."""

import gzip
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import idx
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from torch import Tensor

from vae_lightning.data import (
    ANOMALY,
    MNIST,
    NORMAL,
    AnomalyDataModule,
    Arrays,
    Corrupted,
    Digits,
    FashionMNIST,
    Part,
    SyntheticMixture,
    Table,
)
from vae_lightning.data import Images as ImageFiles
from vae_lightning.detection import Columns
from vae_lightning.detection.preprocessing import Images, Preprocessing, Standardize, Unchanged
from vae_lightning.errors import UserError


class Numbers(AnomalyDataModule):
    """A data set of one's own: 300 + 100 samples in three classes, x their number; ``damage`` spoils it."""

    preprocessing = Unchanged()

    def __init__(self, damage: Callable[[Part, Part], Any] = lambda train, test: None, **kwargs: Any) -> None:
        self.input_shape, self.classes, self.damage = [2], ["a", "b", "c"], damage
        super().__init__(**kwargs)

    def load(self) -> tuple[Part, Part]:
        x = torch.stack([torch.arange(400.0), torch.full((400,), 1000.1)], 1)
        parts = Part(x[:300], torch.arange(300) % 3), Part(x[300:], torch.arange(100) % 3)
        self.damage(*parts)
        return parts


class StandardizedNumbers(Numbers):
    preprocessing: Preprocessing = Standardize()


def table(rows: int = 400) -> np.ndarray:
    """A table to tell rows apart, its first column a timestamp."""
    return np.stack([1.7e9 + np.arange(rows), np.random.default_rng(0).normal(size=rows)], 1)


def arrays(**kwargs: Any) -> Arrays:
    labels = np.arange(400) % 5 == 0
    return Arrays(table()[:300], labels[:300], table()[300:], labels[300:], **kwargs)


class Mixed(dict[str, np.ndarray]):
    """A table of numbers, words and gaps."""

    def to_csv(self, path: str) -> str:
        lines = zip(*self.values(), strict=True)
        text = "\n".join(",".join(map(str, line)) for line in [tuple(self), *lines])
        if not Path(path).exists():
            Path(path).write_text(text)
        return path


def mixed(rows: slice) -> Mixed:
    time, number = table().T
    number = np.where(np.arange(400) % 7 == 0, np.nan, number)
    colour, kind = (np.array(words)[np.arange(400) % 5] for words in (["red", "green"] * 2 + ["blue"], list("00001")))
    return Mixed(time=time[rows], number=number[rows], colour=colour[rows], kind=kind[rows])


LABEL: dict[str, Any] = {"label": "kind", "numeric": ["time"]}


# A new data module, or another way to divide one, costs one line here: root → data module.
DATA: dict[str, Callable[..., AnomalyDataModule]] = {
    "mixture": lambda root, **kwargs: SyntheticMixture(samples=500, anomaly_fraction=0.1, **kwargs),
    "mixture, one component": lambda root, **kwargs: SyntheticMixture(samples=500, normal_classes=[1], **kwargs),
    "one-class": lambda root, **kwargs: MNIST(root, normal_classes=[3], **kwargs),
    "several classes": lambda root, **kwargs: MNIST(root, normal_classes=[3, 5], anomaly_classes=[0, 9], **kwargs),
    "leave one out": lambda root, **kwargs: FashionMNIST(root, anomaly_classes=[7], **kwargs),
    "another data set": lambda root, **kwargs: MNIST(root, anomalies_from=FashionMNIST(root), **kwargs),
    "digits": lambda root, **kwargs: Digits(normal_classes=[0, 1, 2], **kwargs),
    "own": lambda root, **kwargs: Numbers(normal_classes=[0, 2], **kwargs),
    "own, standardised": lambda root, **kwargs: StandardizedNumbers(normal_classes=[0, 2], **kwargs),
    "binarized": lambda root, **kwargs: MNIST(root, normal_classes=[0, 1, 2, 3, 4, 5, 6], binarize=True, **kwargs),
    "corrupted": lambda root, **kwargs: Digits(anomalies_from=Corrupted(Digits()), **kwargs),
    "arrays": lambda root, **kwargs: arrays(**kwargs),
    "image files": lambda root, **kwargs: ImageFiles(f"{root}/parts", 8, **kwargs),
    "arrays, a random test part": lambda root, **kwargs: Arrays(table(), np.arange(400) % 5 == 0, **kwargs),
    "table": lambda root, **kwargs: Table(mixed(slice(300)), mixed(slice(300, 400)), **LABEL, **kwargs),
    "table, in a file": lambda root, **kwargs: Table(
        mixed(slice(400)).to_csv(f"{root}/rows.csv"), memory=0, cache=f"{root}/cache", **LABEL, **kwargs
    ),
}


@pytest.fixture(params=DATA)
def make(request: pytest.FixtureRequest, mnist_files: Path, image_folder: Path) -> Callable[..., AnomalyDataModule]:
    return lambda **kwargs: DATA[request.param](str(mnist_files), **kwargs)


SPLITS = ["train", "val", "calibration", "test"]


def samples(data: AnomalyDataModule, split: str) -> list[tuple[bytes, int, int, int]]:
    """What a split holds, as stored: (x, label, target, row)."""
    source = data.loader(split).split
    x, *columns = source[torch.arange(len(source))]
    return list(zip(map(_bytes, x), *(column.tolist() for column in columns), strict=True))


def _bytes(row: Tensor) -> bytes:
    return row.numpy().tobytes()


def rows_of(part: Part, classes: list[int]) -> list[int]:
    """Where the samples of these classes stand in their source."""
    rows = torch.isin(part.target, torch.tensor(classes)).nonzero().flatten()
    return (rows if part.row is None else part.row[rows]).tolist()


def labelled(found: list[tuple[bytes, int, int, int]], label: int) -> list[int]:
    """The rows of samples with this label."""
    return [row for _, of, _, row in found if of == label]


# The contract


@pytest.mark.parametrize("calibration", [None, 0.3, 0.0])
def test_the_splits_are_those_of_the_table(make: Callable[..., AnomalyDataModule], calibration: float | None) -> None:
    data = make(val_fraction=0.2, calibration_fraction=calibration)
    (train_part, test_part), (normal, anomalous) = data.load(), data.division()
    other_train, other_test = data.anomalies_from.load() if data.anomalies_from else (train_part, test_part)
    if data.anomalies_from:
        anomalous = list(range(10))
    train, val, held_out, test = (samples(data, split) for split in SPLITS)
    normals = rows_of(train_part, normal)
    assert {label for _, label, *_ in train + held_out} == {NORMAL}
    own = [] if calibration == 0 else labelled(held_out, NORMAL)
    assert sorted(labelled(train, NORMAL) + labelled(val, NORMAL) + own) == normals
    assert len(labelled(val, NORMAL)) == round(0.2 * len(normals))
    assert len(own) == round({None: 0.2}.get(calibration, calibration or 0.0) * len(normals))
    if calibration == 0:
        assert held_out == [sample for sample in val if sample[1] == NORMAL]
    strange = rows_of(other_train, anomalous)
    assert set(labelled(val, ANOMALY)) <= set(strange)
    assert len(labelled(val, ANOMALY)) == min(len(labelled(val, NORMAL)), len(strange))
    assert labelled(test, NORMAL) == rows_of(test_part, normal)
    assert labelled(test, ANOMALY) == rows_of(other_test, anomalous)
    for found in (train, val, test):  # the class of a sample is its own, −1 where it is another data set's
        for _, label, target, _ in found:
            assert target in (normal if label == NORMAL else [-1] if data.anomalies_from else anomalous)


def test_no_sample_is_in_two_splits_or_twice_in_one(make: Callable[..., AnomalyDataModule]) -> None:
    data = make(contamination=0.01)
    train, val, held_out, test = (samples(data, split) for split in SPLITS)
    # rows are those of the training part, and of another data set's, told apart by the label
    counts = Counter((row, label) for _, label, _, row in train + val + held_out)
    assert set(counts.values()) == {1}
    assert len({(row, label) for _, label, _, row in test}) == len(test)
    if not data.binarize:
        assert set(Counter(x for x, *_ in train + val + held_out + test).values()) == {1}


@pytest.mark.parametrize("seed", [0, 3])
def test_without_a_calibration_split_train_and_val_are_what_they_were(seed: int) -> None:
    """The draws of the three-way split that published runs were made with, made here once more."""
    data = Numbers(
        normal_classes=[0, 2],
        calibration_fraction=0.0,
        val_anomalies=0.5,
        test_anomalies=0.5,
        seed=seed,
        val_fraction=0.1,
    )
    train, test = (part.target for part in data.load())
    generator = torch.Generator().manual_seed(seed)
    shuffled = []
    for target, normal in ((train, True), (train, False), (test, False)):
        rows = ((target != 1) == normal).nonzero().flatten()
        shuffled.append(rows[torch.randperm(len(rows), generator=generator)].tolist())
    normals, strange, injected = shuffled
    val, found = samples(data, "val"), samples(data, "test")
    assert labelled(val, NORMAL) == sorted(normals[:20])
    assert labelled(val, ANOMALY) == sorted(strange[:10])
    assert labelled(samples(data, "train"), NORMAL) == sorted(normals[20:])
    assert labelled(samples(data, "calibration"), NORMAL) == sorted(normals[:20])
    assert labelled(found, ANOMALY) == sorted(injected[:16])
    # a calibration split is taken out of train, and val stays
    other = Numbers(normal_classes=[0, 2], calibration_fraction=0.25, val_anomalies=0.5, seed=seed)
    assert samples(other, "val") == val
    assert labelled(samples(other, "calibration"), NORMAL) == sorted(normals[20:70])
    assert labelled(samples(other, "train"), NORMAL) == sorted(normals[70:])


def test_rows_lead_back_to_the_source_in_its_order(make: Callable[..., AnomalyDataModule]) -> None:
    data = make(eval_batch_size=7, batch_size=5, contamination=0.01, on_device=True)
    parts = data.load()
    others = data.anomalies_from.load() if data.anomalies_from else parts
    for split in (*SPLITS, "val_normals"):
        which = split == "test"
        for world in (1, 3):
            found = []
            for rank in range(world):
                loader = data.loader(split, shuffle=split == "train")
                loader.rank, loader.world = rank, world
                found += [sample for batch in loader for sample in zip(*batch, strict=True)]
            for x, label, target, row in found:
                foreign = data.anomalies_from is not None and label == ANOMALY
                part = (others if foreign else parts)[which]
                place = int(row) if part.row is None else part.row.tolist().index(int(row))
                assert data.binarize or _bytes(x) == _bytes(part.x[place])
                assert int(target) == (-1 if foreign else int(part.target[place]))
        if split != "train":
            order = [(data.anomalies_from is not None and label, row) for _, label, _, row in samples(data, split)]
            assert order == sorted(order)


def test_what_a_model_is_fitted_with_holds_each_sample_on_every_rank(make: Callable[..., AnomalyDataModule]) -> None:
    data = make(contamination=0.01)

    def labels(loader: Any) -> list[int]:
        assert (loader.rank, loader.world) == (0, 1)
        return [label for batch in loader for label in batch.label.tolist()]

    train, val = samples(data, "train"), samples(data, "val")
    assert labels(data.reference_dataloader()) == [label for _, label, *_ in train]
    assert labels(data.validation_normals_dataloader()) == [NORMAL] * len(labelled(val, NORMAL))
    assert labels(data.calibration_dataloader()) == [NORMAL] * len(samples(data, "calibration"))
    assert samples(data, "val_normals") == [sample for sample in val if sample[1] == NORMAL]


def test_a_split_is_a_function_of_the_arguments_and_its_seed(make: Callable[..., AnomalyDataModule]) -> None:
    def everything(**kwargs: Any) -> list[list[tuple[bytes, int, int, int]]]:
        torch.manual_seed(torch.seed())  # the global generator has no say
        data = make(**kwargs)
        return [samples(data, split) for split in SPLITS]

    first = everything()
    assert everything() == first
    assert everything(batch_size=7, eval_batch_size=9, num_workers=0) == first
    other = everything(seed=1)
    data = make()
    if not data.binarize and getattr(data, "_test", "its own") is not None:
        assert other[3] == first[3]  # the test split is the data set's own
    assert sorted(other[0]) != sorted(first[0])


def test_batches_are_what_a_model_expects(make: Callable[..., AnomalyDataModule]) -> None:
    data = make(batch_size=16, eval_batch_size=50)
    data.preprocessing.fit(batch.x for batch in data.reference_dataloader())
    for loader, size in ((data.train_dataloader(), 16), (data.val_dataloader(), 50), (data.test_dataloader(), 50)):
        for batch in loader:
            data.preprocessing.check(batch.x, data.preprocessing.raw_shape(data.input_shape))
            x = data.preprocessing(batch.x)
            assert x.dtype == torch.float32
            assert list(x.shape[1:]) == data.input_shape
            assert batch.label.dtype == batch.target.dtype == batch.row.dtype == torch.int64
            assert len(x) == len(batch.label) == len(batch.target) == len(batch.row) <= size
            assert x.isfinite().all()
            if isinstance(data.preprocessing, Images):
                assert batch.x.dtype == torch.uint8
                assert x.min() >= 0
                assert x.max() <= 1
    predicted = torch.cat([batch.x for batch in data.predict_dataloader()])
    assert _bytes(predicted) == _bytes(torch.cat([batch.x for batch in data.test_dataloader()]))


def test_each_data_module_has_a_preprocessing_of_its_own(make: Callable[..., AnomalyDataModule]) -> None:
    data, other = make(), make()
    assert data.preprocessing is not other.preprocessing
    data.preprocessing.fit(batch.x for batch in data.reference_dataloader())
    assert other.preprocessing.fitted == (not isinstance(other.preprocessing, (Columns, Standardize)))


def test_setup_builds_the_splits_once(make: Callable[..., AnomalyDataModule]) -> None:
    data = make()
    data.setup("fit")
    split = data.val_dataloader().split
    data.setup("test")
    assert data.val_dataloader().split is split


# What the arguments do


@pytest.mark.parametrize("contamination", [0.0, 0.02, 0.2])
def test_contamination_is_the_share_of_anomalies_in_training(contamination: float) -> None:
    data = SyntheticMixture(samples=2000, anomaly_fraction=0.3, contamination=contamination)
    train, val = samples(data, "train"), samples(data, "val")
    assert len(labelled(train, ANOMALY)) / len(train) == pytest.approx(contamination, abs=0.5 / len(train))
    clean = samples(SyntheticMixture(samples=2000, anomaly_fraction=0.3), "train")
    assert labelled(train, NORMAL) == labelled(clean, NORMAL)
    assert not set(labelled(train, ANOMALY)) & set(labelled(val, ANOMALY))


@pytest.mark.parametrize(("val_anomalies", "expected"), [(0.5, 8), (1.0, 16), (3.0, 48), (100.0, 80)])
def test_val_anomalies_are_counted_by_normal_validation_samples(val_anomalies: float, expected: int) -> None:
    data = Numbers(normal_classes=[0, 2], anomaly_classes=[1], val_fraction=0.08, val_anomalies=val_anomalies)
    data.damage = lambda train, test: train.target[240:].fill_(0)  # 80 anomalies are left
    val = samples(data, "val")
    assert len(labelled(val, NORMAL)) == round(0.08 * 220) == 18
    assert len(labelled(val, ANOMALY)) == min(80, round(val_anomalies * 18))


@pytest.mark.parametrize(("share", "expected"), [(1.0, 33), (0.5, 16), (0.001, 1)])
def test_a_share_of_the_test_anomalies_is_injected(share: float, expected: int) -> None:
    data = Numbers(normal_classes=[0, 2], test_anomalies=share)
    test = samples(data, "test")
    assert len(labelled(test, ANOMALY)) == expected
    assert len(labelled(test, NORMAL)) == 67


@pytest.mark.parametrize(
    ("arguments", "normal", "anomalous"),
    [
        ({"normal_classes": [0]}, [0], [1, 2]),
        ({"anomaly_classes": [0]}, [1, 2], [0]),
        ({"normal_classes": [0], "anomaly_classes": [2]}, [0], [2]),
        ({"normal_classes": [0], "anomalies_from": Numbers()}, [0], []),
        ({"anomalies_from": Numbers()}, [0, 1, 2], []),
    ],
)
def test_the_classes_are_divided_as_asked(arguments: dict[str, Any], normal: list[int], anomalous: list[int]) -> None:
    assert Numbers(**arguments).division() == (normal, anomalous)


def test_images_stay_bytes_in_memory_and_are_not_copied_for_a_split(mnist_files: Path) -> None:
    data = MNIST(str(mnist_files), normal_classes=[0], on_device=True)
    train, val, calibration = (data.loader(split).split for split in ("train", "val", "calibration"))
    assert train.x.dtype == torch.uint8
    assert train.x.data_ptr() == val.x.data_ptr() == calibration.x.data_ptr()
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    assert train.to(torch.device("cpu"), moved).x is val.to(torch.device("cpu"), moved).x
    mixed = MNIST(str(mnist_files), anomalies_from=FashionMNIST(str(mnist_files))).loader("test").split
    assert [part.x.dtype for part in mixed.parts] == [torch.uint8, torch.uint8]


# The data sets


def test_the_mixture_is_drawn_from_its_density() -> None:
    """Its log-density is scipy's; its samples have the density's entropy, means and variances."""
    data = SyntheticMixture(samples=20_000, features=3)
    train, test = data.load()
    x, target = torch.cat([train.x, test.x]), torch.cat([train.target, test.target])
    normal = x[target < 3]
    means, covariance = data.means().numpy().astype(float), 0.5 * np.eye(3)
    density = logsumexp([multivariate_normal(mean, covariance).logpdf(normal) for mean in means], 0) - np.log(3)
    torch.testing.assert_close(data.density().log_prob(normal), torch.from_numpy(density).float(), rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    drawn = data.density().log_prob(data.density().sample((20_000,)))
    error = (density.var() / len(density) + float(drawn.var()) / len(drawn)) ** 0.5
    assert abs(density.mean() - float(drawn.mean())) < 4 * error
    for component in range(3):
        mine = x[target == component]
        assert (mine.mean(0) - data.means()[component]).abs().max() < 4 * (0.5 / len(mine)) ** 0.5
        assert (mine.var(0) / 0.5 - 1).abs().max() < 4 * (2 / len(mine)) ** 0.5
    strange = x[target == 3]
    assert len(strange) == 400
    assert (strange.mean(0) - data.anomaly_shift).abs().max() < 4 * (data.anomaly_variance / len(strange)) ** 0.5
    assert (strange.var(0) / data.anomaly_variance - 1).abs().max() < 4 * (2 / len(strange)) ** 0.5


def test_the_mixture_is_as_described() -> None:
    """10,000 samples, 10 features, 3 components of variance 0.5, 2 % anomalies, 80/20."""
    train, test = SyntheticMixture().load()
    assert train.x.shape == (8000, 10)
    assert test.x.shape == (2000, 10)
    assert (int((train.target == 3).sum()), int((test.target == 3).sum())) == (160, 40)
    assert SyntheticMixture().variance == 0.5


@pytest.mark.parametrize("data", [SyntheticMixture(samples=1003, anomaly_fraction=0.05), Digits()])
def test_the_test_part_is_a_stratified_fifth(data: AnomalyDataModule) -> None:
    train, test = (part.target for part in data.load())
    assert len(test) == -(-(len(train) + len(test)) // 5)
    for c in range(len(data.classes)):
        n = int((train == c).sum()), int((test == c).sum())
        assert abs(n[1] - sum(n) / 5) < 1


def test_data_seed_draws_other_data() -> None:
    one, same, other = (SyntheticMixture(samples=200, data_seed=seed).load()[0] for seed in (0, 0, 1))
    assert torch.equal(one.x, same.x)
    assert not torch.equal(one.x, other.x)


@pytest.mark.parametrize("size", [8, 28, 5])
def test_digits_are_scikit_learns(size: int) -> None:
    data, truth = Digits(size=size), load_digits()
    train, test = data.load()
    assert train.x.shape[1:] == (1, size, size)
    assert train.x.dtype == torch.uint8
    assert Counter(torch.cat([train.target, test.target]).tolist()) == Counter(truth.target.tolist())
    if size == 8:
        x = torch.cat([train.x, test.x]).flatten(1).numpy()
        expected = np.round(truth.data * 255 / 16).astype(np.uint8)
        assert Counter(map(bytes, x)) == Counter(map(bytes, expected))
    mean = torch.cat([train.x, test.x]).float().mean() / 255
    assert float(mean) == pytest.approx(truth.data.mean() / 16, abs=0.02)


@pytest.mark.parametrize("module", [MNIST, FashionMNIST])
def test_files_are_read_as_torchvision_reads_them(module: type[MNIST], mnist_files: Path) -> None:
    for part, train in zip(module(str(mnist_files)).load(), (True, False), strict=True):
        reference = module.source(mnist_files, train=train, download=True)  # unpacks the files beside the packed ones
        assert torch.equal(part.x[:, 0], reference.data)
        assert torch.equal(part.target, reference.targets)
    for packed in (mnist_files / module.__name__ / "raw").glob("*.gz"):
        packed.unlink()
    part = module(str(mnist_files)).load()[1]  # the unpacked files do as well
    assert torch.equal(part.x[:, 0], reference.data)


@pytest.fixture
def mirror(mnist_files: Path) -> Iterator[str]:
    """The address of a server that has MNIST's four files."""
    folder = str(mnist_files / "MNIST" / "raw")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_what_is_absent_is_downloaded(mnist_files: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second mirror, where the first does not answer."""
    monkeypatch.setattr(MNIST.source, "mirrors", ["http://127.0.0.1:9/", mirror])
    expected = MNIST(str(mnist_files)).load()
    for part, other in zip(MNIST(str(mnist_files / "new")).load(), expected, strict=True):
        assert torch.equal(part.x, other.x)
        assert torch.equal(part.target, other.target)


def test_the_real_files_are_named_as_torchvision_has_them() -> None:
    assert [name for name, _ in MNIST.source.resources] == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ]
    assert MNIST().folder == Path("data/MNIST/raw")
    assert FashionMNIST("x").folder == Path("x/FashionMNIST/raw")


# Damaged data


def replace(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> Path:
    """The training images made of ``content``, with a fitting MD5 sum."""
    path = folder / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content))
    rest = MNIST.source.resources[1:]
    monkeypatch.setattr(MNIST.source, "resources", [(path.name, hashlib.md5(path.read_bytes()).hexdigest()), *rest])
    return path


def test_absent_files_out_of_reach_are_named(mnist_files: Path) -> None:
    folder = mnist_files / "MNIST" / "raw"
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError) as error:
        MNIST(str(mnist_files)).prepare_data()
    message = str(error.value)
    for word in (folder, *(name for name, _ in MNIST.source.resources), "configs/beta_vae.yaml"):
        assert str(word) in message
    assert "\n" not in message


def test_absent_files_of_the_other_data_set_are_named(mnist_files: Path) -> None:
    (mnist_files / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="FashionMNIST/raw"):
        MNIST(str(mnist_files), anomalies_from=FashionMNIST(str(mnist_files))).prepare_data()


def test_a_folder_that_cannot_be_written_is_named(
    mnist_files: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST.source, "mirrors", [mirror])
    (mnist_files / "file").touch()
    with pytest.raises(UserError, match=r"data.init_args.root = .*/file cannot be written"):
        MNIST(str(mnist_files / "file")).prepare_data()


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:50] + b"\0" + b[51:], lambda b: b""])
def test_a_packed_file_is_checked_by_its_md5(damage: Callable[[bytes], bytes], mnist_files: Path) -> None:
    path = mnist_files / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{path} is damaged .*MD5"):
        MNIST(str(mnist_files)).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros((300, 28, 28), np.uint8))[:-1], "is truncated"),
        (idx(np.zeros((300, 28, 28), np.uint8)) + b"\0", "is too long"),
        (b"\0\0\x0d" + idx(np.zeros((300, 28, 28), np.uint8))[3:], "is no IDX file of bytes .*00 00 0d 03"),
        (b"", "is no IDX file of bytes"),
        (b"\0\0\x08\x03\0\0", "is truncated"),
        (b"not at all", "is no IDX file of bytes"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_idx_file_is_named(
    content: bytes, message: str, packed: bool, mnist_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = replace(mnist_files, monkeypatch, content)
    if not packed:
        path.unlink()
        path = path.with_suffix("")
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} {message}"):
        MNIST(str(mnist_files)).load()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((300, 28, 27), np.uint8), "28"),
        (np.zeros((299, 28, 28), np.uint8), "299"),
        (np.zeros((300,), np.uint8), "300"),
    ],
)
def test_an_idx_file_of_another_shape_is_named(
    array: np.ndarray, message: str, mnist_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = replace(mnist_files, monkeypatch, idx(array))
    with pytest.raises(UserError, match=f"{path.parent}.*{message}"):
        MNIST(str(mnist_files)).load()


# What a user can get wrong


def spoil(value: float, part: int = 0) -> Callable[[Part, Part], Tensor]:
    return lambda *parts: parts[part].x[7, 1].fill_(value)


def without(c: int, part: int, instead: int = 0) -> Callable[[Part, Part], Tensor]:
    return lambda *parts: parts[part].target.masked_fill_(parts[part].target == c, instead)


class Unsaid(Numbers):
    """It forgot to say what its samples are."""

    preprocessing = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Numbers(normal_classes=[]), r"normal_classes = \[\] .* 0 to 2"),
        (lambda: Numbers(normal_classes=[3]), r"normal_classes = \[3\] .* 0 to 2"),
        (lambda: Numbers(normal_classes=[-1]), r"normal_classes = \[-1\]"),
        (lambda: Numbers(anomaly_classes=[]), r"anomaly_classes = \[\]"),
        (lambda: Numbers(anomaly_classes=[0, 9]), r"anomaly_classes = \[0, 9\]"),
        (lambda: Numbers(normal_classes=[0, 1], anomaly_classes=[1, 2]), "class 1 is in normal_classes and in"),
        (lambda: Numbers(anomaly_classes=[1], anomalies_from=Numbers()), "anomaly_classes and anomalies_from"),
        (lambda: Numbers(anomalies_from=Digits()), r"Digits has shape \[1, 8, 8\], not \[2\]"),
        *((lambda v=v: Numbers(val_fraction=v), f"val_fraction = {v} ") for v in (0.0, 1.0, -0.5, float("nan"))),
        *((lambda v=v: Numbers(test_anomalies=v), f"test_anomalies = {v} ") for v in (0.0, 1.5, float("nan"))),
        *((lambda v=v: Numbers(contamination=v), f"contamination = {v} ") for v in (-0.1, 1.0, float("nan"))),
        *((lambda v=v: Numbers(val_anomalies=v), f"val_anomalies = {v} ") for v in (0.0, float("nan"), float("inf"))),
        *(
            (lambda v=v: Numbers(calibration_fraction=v), f"calibration_fraction = {v} ")
            for v in (-0.1, 1.0, float("nan"))
        ),
        (lambda: Numbers(anomaly_classes=[0, 1, 2]), r"anomaly_classes = \[0, 1, 2\] leaves nothing normal"),
        (lambda: Unsaid(), "Unsaid: preprocessing = None does not say .* Images.* Standardize"),
        (lambda: Numbers(batch_size=0), "batch_size = 0 "),
        (lambda: Numbers(eval_batch_size=-1), "eval_batch_size = -1 "),
        *(
            (lambda k=k, v=v: SyntheticMixture(**{k: v}), f"SyntheticMixture: {k} = {v} ")
            for k, v in [
                ("samples", 0),
                ("samples", 7),
                ("features", 0),
                ("components", 0),
                ("anomaly_fraction", 0.0),
                ("anomaly_fraction", 1.0),
                ("test_fraction", 1.0),
                ("variance", 0.0),
                ("variance", float("nan")),
                ("spread", -1.0),
                ("anomaly_variance", float("inf")),
            ]
        ),
        (lambda: Digits(size=0), "Digits: size = 0 "),
    ],
)
def test_a_wrong_argument_is_named(build: Callable[[], AnomalyDataModule], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Numbers(spoil(float("nan")), normal_classes=[0]), r"sample 7 holds NaN .*column 1 \(training part\)"),
        (
            Numbers(spoil(float("inf"), 1), normal_classes=[0]),
            r"sample 7 holds NaN or infinity in column 1 \(test",
        ),
        (Numbers(anomalies_from=Numbers(spoil(float("nan")))), "sample 7 holds NaN .*Numbers's training part"),
        (Numbers(normal_classes=[0], val_fraction=0.5), "100 normal samples are too few, 102 are needed: 50 to val"),
        (Numbers(normal_classes=[0], val_fraction=0.1, calibration_fraction=0.89), "100 normal .* 101 are needed"),
        (Numbers(normal_classes=[0], val_fraction=0.99, calibration_fraction=0.0), "101 are needed"),
        (Numbers(without(0, 0, 1), normal_classes=[0]), "0 normal samples are too few, 4 are needed"),
        (Numbers(normal_classes=[0], contamination=0.9), "contamination = 0.9 needs 720 anomalies"),
        (Numbers(contamination=0.1), "contamination = 0.1 needs 27 anomalies, and the training part has 0"),
        (Numbers(contamination=1e-9), "contamination = 1e-09 needs 0 anomalies, and the training part has 0"),
        (SyntheticMixture(samples=100, components=40), "samples = 100 are too few"),
        (SyntheticMixture(samples=100, test_fraction=0.01), "test_fraction = 0.01"),
    ],
)
def test_data_that_cannot_be_divided_is_refused(data: AnomalyDataModule, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        data.setup()
    assert "\n" not in str(error.value)


def test_anomalies_of_another_kind_are_refused() -> None:
    """Bytes and floats in one batch would be scaled alike."""

    class FloatDigits(Digits):
        preprocessing: Preprocessing = Unchanged()

        def load(self) -> tuple[Part, Part]:
            train, test = super().load()
            return Part(train.x / 255, train.target), Part(test.x / 255, test.target)

    with pytest.raises(UserError, match=r"FloatDigits holds torch\.float32, not torch\.uint8"):
        Digits(anomalies_from=FloatDigits()).setup()


@pytest.mark.parametrize(
    ("preprocessing", "convert", "message"),
    [
        (Images(), lambda x: x, r"training part .* Images takes uint8 from 0 to 255, not float32"),
        (Unchanged(), lambda x: x.double(), r"Unchanged takes float32, not float64"),
        (Standardize(), lambda x: x[:, :1], r"Standardize takes real numbers of shape \[samples, 2\], not \[300, 1\]"),
    ],
)
def test_samples_that_do_not_suit_the_preprocessing_are_refused(
    preprocessing: Preprocessing, convert: Callable[[Tensor], Tensor], message: str
) -> None:
    class Wrong(Numbers):
        def load(self) -> tuple[Part, Part]:
            train, test = super().load()
            return train._replace(x=convert(train.x)), test._replace(x=convert(test.x))

    data = Wrong()
    data.preprocessing = preprocessing
    with pytest.raises(UserError, match=message) as error:
        data.setup()
    assert "\n" not in str(error.value)


# Normal data alone


def test_normal_data_alone_is_data() -> None:
    data = Numbers()
    train, val, held_out, test = (samples(data, split) for split in SPLITS)
    assert (len(train), len(val), len(held_out), len(test)) == (240, 30, 30, 100)
    assert {label for _, label, *_ in train + val + held_out + test} == {NORMAL}


def test_anomalies_may_be_absent_from_either_part() -> None:
    data = Numbers(without(2, 0), normal_classes=[0], anomaly_classes=[2])
    assert not labelled(samples(data, "val"), ANOMALY)
    assert labelled(samples(data, "test"), ANOMALY)
    data = Numbers(without(2, 1), normal_classes=[0], anomaly_classes=[2])
    assert labelled(samples(data, "val"), ANOMALY)
    assert not labelled(samples(data, "test"), ANOMALY)


def test_an_empty_test_part_is_refused_when_it_is_asked_for() -> None:
    class NoTest(Numbers):
        def load(self) -> tuple[Part, Part]:
            train, test = super().load()
            return train, Part(test.x[:0], test.target[:0])

    data = NoTest()
    assert len(samples(data, "val")) == 30
    with pytest.raises(UserError, match="NoTest: the test split is empty"):
        data.test_dataloader()
    assert len(samples(NoTest(anomalies_from=Numbers()), "test")) == 100
