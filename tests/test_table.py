"""Tables as a data set: what their columns are found to be, whose levels count, and what lies in a file."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from vae_lightning.data import Table
from vae_lightning.data.cache import Rows, check_space, stored
from vae_lightning.data.loader import Loader, Split
from vae_lightning.detection import Detector
from vae_lightning.errors import UserError
from vae_lightning.models import VAE
from vae_lightning.models.networks import MLP
from vae_lightning.training.fitting import fit

pytestmark = pytest.mark.filterwarnings("ignore:.*(left out|always the same|taken as|by its name):UserWarning")


def frame(n: int = 600, seed: int = 0) -> pandas.DataFrame:
    """Rows of two kinds, one in twenty anomalous; a gap in one row of ten, a word of its own in one of thirty."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    odd = np.arange(n) % 20 == 7
    amount = np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(kind + 1.0, 0.3))
    colour = np.where(rng.random(n) < 1 / 30, [f"shade {i}" for i in range(n)], np.array(["red", "blue"])[kind])
    return pandas.DataFrame(
        {
            "id": [f"row {i}" for i in range(n)],
            "day": pandas.date_range("2026-01-01", periods=n, freq="h").strftime("%Y-%m-%d %H:%M:%S"),
            "amount": amount.round(2),
            "size": np.where(odd, rng.integers(50, 99, n), 10 * kind + rng.integers(0, 9, n)),
            "colour": np.where(rng.random(n) < 0.1, None, colour),
            "odd": odd,
        }
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    frame().to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def raw(data: Table, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """x, label and row of a split."""
    data.setup()
    source = data.loader(split).split
    batch = source[torch.arange(len(source))]
    return batch.x, batch.label, batch.row


def refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# What columns are found to be

DAYS = pandas.date_range("2020-01-01", periods=40)
COLUMNS: dict[str, tuple[Any, str | None, str | None]] = {
    "a number": (np.random.default_rng(0).normal(size=40), "numeric", None),
    "with gaps": ([None, 1.5] * 20, "numeric", None),
    "few numbers": ([0, 1, 1, 2] * 10, "numeric", None),
    "years": ([2019, 2020] * 20, "numeric", None),
    "words": (["a", "b", "a", None] * 10, "categorical", None),
    "truth": ([True, False] * 20, "categorical", None),
    "codes": (["1", "2", "A3", "B4"] * 10, "categorical", "numbers and text"),
    "free text, twice each": ([f"text {i // 2}" for i in range(40)], "categorical", None),
    "names": ([f"name {i}" for i in range(40)], None, "an identifier"),
    "row number": (np.arange(1000, 1040), None, "an identifier"),
    "sorted, with jumps": (np.arange(40) ** 2, "numeric", None),
    "always 5": ([5] * 40, "numeric", "always the same"),
    "always a": (["a"] * 40, "categorical", "always the same"),
    "always a or missing": (["a", None] * 20, "categorical", None),
    "nothing": ([None] * 40, None, "no row that is trained on has a value"),
    "times": (DAYS, None, "dates"),
    "days as text": (DAYS.strftime("%d.%m.%Y").to_numpy()[np.arange(40) // 2], None, "dates"),
    "outlier": ([0, 1] * 20, "numeric", "like a label by its name"),
}


@pytest.mark.parametrize("form", ["csv", "parquet", "frame"])
def test_columns_are_found_to_be(form: str, tmp_path: Path) -> None:
    given = pandas.DataFrame({name: values for name, (values, *_) in COLUMNS.items()})
    path = tmp_path / f"rows.{form}"
    if form == "csv":
        given.to_csv(path, index=False)
    elif form == "parquet":
        given.to_parquet(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = Table(given if form == "frame" else path, test_fraction=0)
    said = [str(warning.message) for warning in caught]
    assert {column.name: column.kind for column in data.schema} == {
        name: kind for name, (_, kind, _) in COLUMNS.items() if kind
    }
    for name, (_, _, guess) in COLUMNS.items():
        about = [
            line for line in said if name in line.rpartition(": ")[0].split(": ")[1].split(", ") or f": {name}:" in line
        ]
        assert (guess is not None) == bool(about), (name, said)
        assert guess is None or guess in about[0]
    assert data.gaps == [data.columns.index(name) for name in ("with gaps", "words", "always a or missing")]


def test_a_declared_column_is_not_guessed_at() -> None:
    given = pandas.DataFrame(
        {name: COLUMNS[name][0] for name in ("names", "row number", "codes", "few numbers", "times")}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Table(
            given, numeric=["row number", "times"], categorical=["few numbers", "names"], ignore=["codes"], max_levels=2
        )
    assert [(column.name, column.kind, len(column.levels)) for column in data.schema] == [
        ("names", "categorical", 2),
        ("row number", "numeric", 0),
        ("few numbers", "categorical", 2),
        ("times", "numeric", 0),
    ]
    assert data.schema.columns[2].levels[0] == "1"
    assert data.schema.dtype == "float32"  # forty days, in seconds since 1970


def test_double_precision_is_for_columns_that_need_it() -> None:
    seconds = 1_767_225_600 + np.random.default_rng(0).permutation(300)
    assert Table({"x": seconds}).schema.dtype == "float64"
    assert Table({"x": 1000 * (seconds - seconds.min())}).schema.dtype == "float32"


def test_many_distinct_values_are_counted_in_bounded_memory() -> None:
    """Those that are there most come first: 120,000 rows, most of them with a value of their own."""
    rng = np.random.default_rng(0)
    common = np.array([f"common {i}" for i in range(5)])[rng.integers(0, 5, 10_000)]
    words = np.concatenate([np.arange(130_000).astype(str).astype(object) + " own", common])
    data = Table({"word": rng.permutation(words)}, test_fraction=0, max_levels=5)
    (column,) = data.schema
    assert {word.split()[0] for word in column.levels} == {"common"}
    assert len(column.rare) == 10_000


# Whose levels and gaps count


def test_levels_and_gaps_are_those_of_the_training_split(rows: Path) -> None:
    """What calibration and test alone hold is unknown to the detector, as it would be in what comes later."""
    data, original = Table(rows, label="odd", val_fraction=0.2), frame()
    assert data.columns == ["amount", "size", "colour"]
    x, label, row = raw(data, "train")
    assert not label.any()
    words = original["colour"].iloc[row.numpy()].dropna()
    counts = words.value_counts()
    column = data.schema.columns[2]
    assert sorted(column.levels) == sorted(counts.index)
    assert [counts[word] for word in column.levels] == sorted(counts, reverse=True)
    unknown = 0
    for split in ("val", "calibration", "test"):
        x, _, row = raw(data, split)
        there = original.iloc[row.numpy()]
        codes = [
            column.levels.index(w) if w in column.levels else len(column.levels) + 1 for w in there["colour"].dropna()
        ]
        assert np.array_equal(x[:, 2][~x[:, 2].isnan()].numpy(), codes)
        unknown += codes.count(len(column.levels) + 1)
        assert np.array_equal(x[:, :2].numpy(), there[["amount", "size"]].to_numpy(np.float32), equal_nan=True)
    assert unknown > 3
    assert data.gaps == [0, 2]


def test_unlabelled_rows_are_normal(rows: Path) -> None:
    data = Table(rows, ignore=["odd"])
    data.setup()
    assert (data.classes, data.division()) == (["normal"], ([0], []))
    assert not raw(data, "test")[1].any()


@pytest.mark.parametrize(
    ("values", "normal", "classes"),
    [
        ([0, 1, 0, 0], None, ["0", "1"]),
        ([0.0, 1.0, 0.0, 0.0], None, ["0", "1"]),
        ([False, True, False, False], None, ["false", "true"]),
        (["Normal", "dos", "Normal", "probe"], None, ["Normal", "dos", "probe"]),
        (["good", "dos", "fine", "fine"], ["good", "fine"], ["good", "fine", "dos"]),
        ([1, -1, 1, 1], [1], ["1", "-1"]),
        ([True, False, True, True], [True], ["true", "false"]),
    ],
)
def test_labels_say_what_is_normal(values: list[Any], normal: list[Any] | None, classes: list[str]) -> None:
    data = Table({"x": np.arange(80.0) ** 2, "kind": values * 20}, label="kind", normal_labels=normal)
    assert data.classes == classes
    expected = np.array(
        [str(v).removesuffix(".0").lower() in [c.lower() for c in classes[: data._normal]] for v in values]
    )
    for split in ("train", "val", "calibration", "test"):
        _, label, row = raw(data, split)
        assert np.array_equal(label.numpy() == 0, expected[row.numpy() % 4])


def test_a_test_part_of_its_own_may_hold_all_the_labels(tmp_path: Path) -> None:
    given = frame()
    given[~given["odd"]].drop(columns="odd").to_csv(tmp_path / "train.csv", index=False)
    given.iloc[:, ::-1].assign(more=1).to_parquet(tmp_path / "test.parquet")  # columns in another order, and one more
    data = Table(tmp_path / "train.csv", tmp_path / "test.parquet", label="odd")
    x, label, row = raw(data, "test")
    assert np.array_equal(label.numpy(), given["odd"].to_numpy())
    assert np.array_equal(x[:, 0].numpy(), given["amount"].to_numpy(np.float32), equal_nan=True)
    assert row.tolist() == list(range(len(given)))


def test_by_time_the_latest_rows_are_the_test_part(rows: Path) -> None:
    shuffled = frame().sample(frac=1, random_state=0)
    shuffled.to_csv(rows, index=False)
    data = Table(rows, label="odd", time="day", test_fraction=0.25)
    later = sorted(shuffled["day"])[450:]
    assert sorted(shuffled["day"].iloc[raw(data, "test")[2].numpy()]) == later
    assert not set(shuffled["day"].iloc[raw(data, "train")[2].numpy()]) & set(later)
    assert "day" not in data.columns


def test_ten_thousand_rows_calibrate() -> None:
    x = {"x": np.random.default_rng(0).normal(size=150_000)}
    assert len(raw(Table(x), "calibration")[0]) == 10_000
    assert len(raw(Table(x, calibration_fraction=0.2), "calibration")[0]) == 24_000
    assert len(raw(Table(frame(), label="odd"), "calibration")[0]) == len(
        raw(Table(frame(), label="odd"), "val_normals")[0]
    )


# In a file


def both(rows: Path, **kwargs: Any) -> tuple[Table, Table]:
    """In memory and in a file."""
    found = (
        Table(rows, label="odd", **kwargs),
        Table(rows, label="odd", memory=0, cache=str(rows.parent / "cache"), **kwargs),
    )
    for data in found:
        data.setup()
    return found


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a.numpy(), b.numpy(), equal_nan=True) for a, b in zip(one, other, strict=True))


def test_batches_out_of_a_file_are_those_out_of_memory(rows: Path) -> None:
    held, written = both(rows, batch_size=16)
    assert isinstance(held.loader("train").split.x, Tensor)
    assert isinstance(written.loader("train").split.x, Rows)
    for split in ("train", "val", "calibration", "test", "val_normals"):
        for rank, world, workers in ((0, 1, 0), (1, 3, 0), (0, 1, 2)) if split == "train" else ((0, 1, 0),):
            loaders = [data.loader(split, 16, shuffle=split == "train") for data in (held, written)]
            for loader in loaders:
                loader.rank, loader.world, loader.num_workers = rank, world, workers
            batches = [list(loader) for loader in loaders]
            assert len(batches[0]) == len(batches[1]) > 0
            assert all(same(a, b) for a, b in zip(*batches, strict=True))


def test_an_epoch_that_is_resumed_goes_on_with_the_very_row(rows: Path) -> None:
    _, written = both(rows, batch_size=16)
    loader = written.train_dataloader()
    loader.set_epoch(3)
    whole = list(loader)
    stopped = iter(loader)
    for _ in range(5):
        next(stopped)
    resumed = written.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert all(same(a, b) for a, b in zip(whole[5:], resumed, strict=True))


def test_the_weights_are_the_same(rows: Path) -> None:
    """Fit out of memory, out of a file that is written, and out of one that is there."""
    cache = str(rows.parent / "cache")
    states, touched = [], []
    for memory in (1.0, 0.0, 0.0):
        data = Table(rows, label="odd", memory=memory, cache=cache, batch_size=64)
        run = fit(VAE(data.input_shape, MLP([8]), 2), data, max_epochs=1, verbose=False)
        states.append(run.detector.model.state_dict())
        touched.append({path: path.stat().st_mtime_ns for path in Path(cache).glob("*")} if memory == 0 else {})
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)
    assert touched[1] == touched[2]
    assert sorted(path.suffix for path in touched[1]) == [".npy", ".npz", ".npz"]


def test_another_table_or_schema_has_a_file_of_its_own(rows: Path) -> None:
    cache = rows.parent / "cache"

    def files(**kwargs: Any) -> set[Path]:
        Table(rows, label="odd", memory=0, cache=str(cache), **kwargs).setup()
        return set(cache.glob("*.npy"))

    first = files()
    assert files(batch_size=7, seed=0) == first
    assert len(second := files(categorical=["size"])) == 2
    frame(seed=1).to_csv(rows, index=False)
    os.utime(rows, (1, 1))
    assert len(files() - second) == 1


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_store, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "written\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "x.npy"]


def _store(folder: Path) -> None:
    def batches() -> Iterator[Tensor]:
        with (folder / "log").open("a") as log:
            log.write("written\n")
        time.sleep(0.3)
        yield torch.arange(10.0)[:, None].expand(10, 3)

    found = stored(folder / "x.npy", (10, 3), np.dtype("float32"), batches)
    assert found[3].tolist() == [3.0] * 3


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def batches() -> Iterator[Tensor]:
        yield torch.zeros(5, 3)
        raise UserError("row 5 is no row")

    for given in (batches, lambda: iter([torch.zeros(9, 3)])):
        refused(lambda given=given: stored(tmp_path / "x.npy", (10, 3), np.dtype("float32"), given), "row 5|9 rows")
        assert not list(tmp_path.glob("x.npy")) + list(tmp_path.glob("*.tmp"))


def test_a_process_keeps_little_of_a_file(tmp_path: Path) -> None:
    """128 MB, gathered from all over; the pages of it that the process holds are counted by the system."""
    n = 500_000
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (n, 64))
    x[:, 0] = np.arange(n)
    x.flush()
    del x
    found = Rows(tmp_path / "x.npy")
    picked = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:50_000].int()
    before = _mapped()
    gathered = found.index_select(0, picked)
    assert _mapped() - before < 2**24
    assert torch.equal(gathered[:, 0].int(), picked)
    assert torch.equal(torch.load(_pickled(tmp_path, found), weights_only=False)[7], found[7])
    loader = Loader(Split(found, torch.arange(n), torch.zeros(n), torch.zeros(n)), 4096, shuffle=True)  # type: ignore[arg-type]
    assert sum(len(batch.x) for batch in loader) == n
    assert _mapped() - before < 2**24


def _mapped() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile"))
    return int(line.split()[1]) * 1024


def _pickled(folder: Path, found: Rows) -> Path:
    torch.save(found, folder / "rows.pt")
    assert (folder / "rows.pt").stat().st_size < 10_000
    return folder / "rows.pt"


def test_a_disk_that_is_too_small_is_noticed_beforehand(tmp_path: Path) -> None:
    refused(
        lambda: check_space(tmp_path, 10**18),
        r"the encoded table takes 1000000000\.0 GB, and .* GB of the disk are free",
    )
    check_space(tmp_path, 1000)


# What is wrong, in one line


def spoilt(**columns: Any) -> pandas.DataFrame:
    return frame().assign(**columns)


WRONG: dict[str, tuple[Callable[[], pandas.DataFrame], dict[str, Any], str]] = {
    "text among numbers": (
        lambda: spoilt(size=frame()["size"].astype(object).where(frame().index != 482, "abc")),
        {},
        "row 482, column 'size' is 'abc', not a number",
    ),
    "text in a column declared numeric": (
        frame,
        {"numeric": ["colour"]},
        "row 0, column 'colour' is '.*', not a number",
    ),
    "infinity": (
        lambda: spoilt(amount=frame()["amount"].where(frame().index != 482, np.inf)),
        {},
        "row 482, column 'amount' is inf: fill it in, or leave the row out",
    ),
    "no feature": (lambda: frame()[["id", "day", "odd"]], {}, "no column is left to train on"),
    "no such column": (frame, {"ignore": ["colours"]}, "has no column 'colours': did you mean 'colour'"),
    "no such label": (frame, {"label": "fraud"}, "has no column 'fraud', the label: it has id, day"),
    "unknown label": (
        frame,
        {"normal_labels": ["no"]},
        "normal_labels = 'no' is not a value .* 'odd' holds 'false', 'true'",
    ),
    "labels that do not say what is normal": (
        lambda: spoilt(odd=np.where(frame()["odd"], "bad", "fine")),
        {},
        "column 'odd' holds 'fine', 'bad': say with normal_labels which of them are normal",
    ),
    "only anomalies": (
        lambda: spoilt(odd=True),
        {"normal_labels": ["true"], "anomaly_classes": [0]},
        "leaves nothing normal",
    ),
    "a label that is missing": (
        lambda: spoilt(odd=frame()["odd"].astype(object).where(frame().index != 9)),
        {},
        "row 9, column 'odd' is missing: every row needs one",
    ),
    "a label that is none": (lambda: spoilt(odd=np.arange(600) * 7), {"label": "id"}, "holds 'row 0', .* and 592 more"),
    "a time that is none": (frame, {"time": "colour"}, "column 'colour' is '.*', not a number, nor a date like 2026"),
    "a time that is missing": (frame, {"time": "amount"}, r"row \d+, column 'amount' is missing"),
    "few normal rows": (lambda: frame(25).iloc[5:10], {}, "4 normal samples are too few|normal samples are too few"),
    "no rows": (lambda: frame().iloc[:0], {}, "has columns, and no rows"),
}


@pytest.mark.parametrize("form", ["csv", "frame"])
@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_cannot_be_trained_on(what: str, form: str, tmp_path: Path) -> None:
    make, arguments, message = WRONG[what]
    given: Any = make()
    if form == "csv":
        given.to_csv(tmp_path / "rows.csv", index=False)
        given = tmp_path / "rows.csv"
    refused(lambda: Table(given, **{"label": "odd", **arguments}).setup(), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 1.0}, "test_fraction = 1.0 is not a share"),
        ({"max_levels": 0}, "max_levels = 0 must be at least 1"),
        ({"anomalies_from": Table(frame())}, "anomalies_from is not for tables"),
        ({"val_fraction": 0}, "val_fraction = 0 is not a share"),
        ({"delimiter": "::"}, "delimiter = '::' is not a single character"),
    ],
)
def test_a_wrong_argument(arguments: dict[str, Any], message: str, rows: Path) -> None:
    refused(lambda: Table(rows, **arguments), message)


def test_normal_rows_are_needed(tmp_path: Path) -> None:
    given = {"x": np.arange(9.0) ** 2, "y": [1] * 9}
    refused(lambda: Table(given, {"x": [1.0], "y": [0]}, label="y"), "train: no row is normal: column 'y' holds '1'")


def test_a_test_part_must_go_with_the_training_part(rows: Path) -> None:
    refused(lambda: Table(rows, frame().drop(columns="odd"), label="odd"), "test: lacks the column 'odd', which says")
    refused(lambda: Table(rows, frame().drop(columns="size"), label="odd").setup(), "test: lacks the column size")
    worded = frame().assign(size="large")
    refused(lambda: Table(rows, worded, label="odd").setup(), "test: row 0, column 'size' is 'large', not a number")


def test_a_file_that_has_changed_since(rows: Path) -> None:
    data = Table(rows, label="odd")
    frame(seed=1).to_csv(rows, index=False)
    os.utime(rows, (1, 1))
    refused(data.setup, r"rows\.csv: changed since its columns were looked at: start again")


# From end to end


def test_fit_test_and_predict_of_a_file(run: Callable[[str], int], rows: Path, capsys: pytest.CaptureFixture) -> None:
    """A CSV with words and gaps; the detector scores a DataFrame of it as the command scores the file."""
    config = rows.parent / "mine.yaml"
    config.write_text(
        "model: {class_path: VAE, init_args: {network: {class_path: MLP, init_args: {hidden: [8]}}, latent_dim: 2, "
        "likelihood: Mixed}}\ntrainer: {max_epochs: 2, accelerator: cpu, enable_progress_bar: false}\n"
    )
    table = f"--data Table --data.init_args.train {rows} --data.init_args.label odd"
    assert run(f"fit --config {config} {table}") == 0
    assert "test" in capsys.readouterr().out
    folder = rows.parent / "lightning_logs" / "mine" / "version_0"
    assert run("test --ckpt_path best") == 0
    detector = Detector.load(folder)
    assert detector.schema is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns and categories that it does not know
        scores = detector(frame().iloc[:, ::-1]).score
    assert run("predict --ckpt_path best --trainer.enable_progress_bar false") == 0
    found = pandas.read_csv(folder / "predictions.csv")
    assert np.array_equal(scores[found["row"]], found["ReconstructionError"].to_numpy(np.float32))
    # the table has changed: with a configuration, its columns would be looked at anew
    frame().assign(colour=["green", "yellow"] * 300).to_csv(rows, index=False)
    assert run(f"test --config {config} {table} --ckpt_path best") == 2
    assert "colour: columns, or their levels, are not those that it was trained on" in capsys.readouterr().err
    assert run(f"fit --config {config} {table} --data.init_args.delimiter ;") == 2
    assert capsys.readouterr().err.startswith(f"error: {rows}: ")


def test_a_folder_of_parts(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    whole = frame()
    for i in range(3):
        parquet.write_table(pa.Table.from_pandas(whole[200 * i : 200 * i + 200]), tmp_path / "parts" / f"{i}.parquet")
    one, other = Table(whole, label="odd"), Table(tmp_path / "parts", label="odd")
    assert one.schema == other.schema
    assert same(raw(one, "train"), raw(other, "train"))
