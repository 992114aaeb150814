"""Tables from files: the same rows whatever they lie in, and one line for everything that can be wrong with them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet
from pyarrow import ipc as arrow_ipc

from vae_lightning.data.readers import Source, open_table
from vae_lightning.errors import UserError

N = 150_000  # rows: three batches, and several blocks of a file


def table(n: int = 100) -> pa.Table:
    rng = np.random.default_rng(0)
    number = rng.normal(size=n).round(4)
    word = rng.choice(["red", "green", 'naïve, “quoted” "text"\nof two lines', "日本"], n)
    return pa.table({"number": pa.array(number), "with space": pa.array(np.arange(n)), "word": pa.array(word)})


def whole(source: Source, **kwargs: Any) -> pa.Table:
    return pa.Table.from_batches(source.batches(**kwargs))


def _stream(found: pa.Table, path: Path) -> None:
    with arrow_ipc.new_stream(path, found.schema) as writer:
        writer.write_table(found)


FILES: dict[str, Callable[[pa.Table, Path], Any]] = {
    "rows.parquet": parquet.write_table,
    "rows.feather": lambda found, path: feather.write_feather(found, str(path)),
    "rows.arrow": _stream,
}


@pytest.mark.parametrize("name", FILES)
def test_a_typed_file_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    FILES[name](table(N), tmp_path / name)
    source = open_table(tmp_path / name)
    assert source.names == ["number", "with space", "word"]
    assert source.rows in (N, None)
    sizes = [len(batch) for batch in source.batches()]
    assert sum(sizes) == N
    assert max(sizes) <= 65_536
    assert whole(source).equals(table(N))
    assert whole(source, columns=["word", "number"]).equals(table(N).select(["word", "number"]))
    assert max(len(batch) for batch in source.batches(1000)) == 1000


@pytest.mark.parametrize(
    ("name", "delimiter", "n"), [("rows.csv", None, N), ("rows.tsv", None, 100), ("rows.csv", ";", 100)]
)
def test_delimited_text_is_what_pandas_reads(name: str, delimiter: str | None, n: int, tmp_path: Path) -> None:
    path = tmp_path / name
    found = table(n).to_pandas()
    found.to_csv(path, index=False, sep=delimiter or {"csv": ",", "tsv": "\t"}[name[-3:]])
    source = open_table(path, delimiter)
    assert source.rows is None
    expected = pandas.read_csv(path, dtype=str, sep=delimiter or {"csv": ",", "tsv": "\t"}[name[-3:]])
    assert whole(source).to_pandas().equals(expected)


def test_blanks_gaps_and_a_mark_of_byte_order_are_no_part_of_a_value(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b'\xef\xbb\xbf\n a , b\n 1 ,x y \n\n?, NA\r\n,"  "\n')
    assert whole(open_table(tmp_path / "rows.csv")).to_pydict() == {"a": ["1", None, None], "b": ["x y", None, None]}
    other = open_table(tmp_path / "rows.csv", missing=["x y"])
    assert whole(other).to_pydict() == {"a": ["1", "?", None], "b": [None, "NA", None]}


def test_compressed_text(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert whole(open_table(tmp_path / "rows.csv.gz")).to_pydict() == {"a": ["1"], "b": ["2"]}


def test_numpy_files(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(N, 2)), np.arange(N) % 2
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "columns.npy", np.asfortranarray(x))
    np.savez(tmp_path / "x.npz", X=x, y=y)
    np.savez(tmp_path / "names.npz", first=x[:, 0], second=y)
    for name in ("x.npy", "columns.npy", "x.npz"):
        source = open_table(tmp_path / name)
        assert np.array_equal(np.stack([whole(source)[f"x{i}"].to_numpy() for i in range(2)], 1), x)
        assert source.rows == N
    assert open_table(tmp_path / "x.npz").label == "y"
    assert np.array_equal(whole(open_table(tmp_path / "x.npz"))["y"].to_numpy(), y)
    assert open_table(tmp_path / "names.npz").names == ["first", "second"]
    assert open_table(tmp_path / "names.npz").label is None


def test_dataframes() -> None:
    frame = table().to_pandas().set_index(np.arange(100) + 7)
    for given in (table(), frame, polars.from_arrow(table()), table().to_batches()[0], frame.to_dict("list")):
        source = open_table(given)
        assert source.names == ["number", "with space", "word"]
        assert whole(source).to_pydict() == table().to_pydict()
        assert source.signature() == []


def parts(folder: Path, *tables: dict[str, Any]) -> Path:
    (folder / "parts").mkdir()
    for i, part in enumerate(tables):
        parquet.write_table(pa.table(part), folder / "parts" / f"part-{i}.parquet")
    (folder / "parts" / "_SUCCESS").touch()
    return folder / "parts"


def test_parts_are_one_table(tmp_path: Path) -> None:
    """Columns in any order, numbers of any kind, a part where a column is missing throughout."""
    gone, words = pa.nulls(1), pa.array(["y"]).dictionary_encode()
    folder = parts(tmp_path, {"a": [1], "b": gone}, {"b": ["x"], "a": [2.5]}, {"a": gone, "b": words})
    source = open_table(folder)
    assert source.rows == 3
    assert whole(source).to_pydict() == {"a": [1.0, 2.5, None], "b": [None, "x", "y"]}
    assert len(source.signature()) == 3


def test_what_is_made_of_a_batch_knows_its_file_and_row(tmp_path: Path) -> None:
    folder = parts(tmp_path, {"a": [1, 2]}, {"a": [3, 4, 5]})

    def refuse(batch: pa.RecordBatch, first_row: int) -> int:
        if 4 in batch.column(0).to_pylist():
            raise UserError(f"row {first_row}: four")
        return first_row

    with pytest.raises(UserError, match=r"part-1\.parquet: row 1: four$"):
        list(open_table(folder).apply(refuse, rows=1))


# What is wrong, in one line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b,c\n1,2,3\n1,2\n", "row 1 has 2 values where the header has 3 columns"),
        (b"a,b\n" + b"1,2\n" * 48_213 + b"1,2,3\n", "row 48213 has 3 values where the header has 2 columns"),
        (b"a;b\n1,5;2\n", "is not divided by ',', it looks like ';': give delimiter = ';'"),
        (b"a\tb\n1\t2\n", r"it looks like '\\t'"),
        (b"5.1,red\n4.9,blue\n", "has no header, its first row is 5.1, red: put names above it"),
        (b"1,2\n3,4\n", "has no header"),
        (b"a,b,a\n1,2,3\n", "column 'a' appears more than once"),
        (b"a,b, a\n1,2,3\n", "column 'a' appears more than once"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        ("a,b\n1,2\n3,é\n".encode("latin1"), "line 3: byte 0xe9 is no UTF-8: save it as UTF-8"),
        (b"a,b\n" + b"1,2\n" * 300_000 + b"3,\xe9\n", "row 300000, column 'b' is no UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16, not UTF-8"),
        (b'a,b\n1,"2\n' + b"3,4\n" * 2_000_000, "a quote is opened and not closed again"),
        (b'a,b\n1,2\n1,"2\n3,4\n', "a quote is opened and not closed again: in the last row, column 'b' begins '2.n3"),
        (b'a,b\n1,2\n"1,2\n3,4\n', "row 1 has 1 values where the header has 2 columns: it may lack quotes"),
    ],
)
def test_text_that_is_no_table(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    refused(lambda: whole(open_table(tmp_path / "rows.csv")), f"rows.csv.*{message}")


def test_a_value_of_several_lines_may_be_the_last(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('a,b\n1,"2\n3"\n')
    assert whole(open_table(tmp_path / "rows.csv")).to_pydict() == {"a": ["1"], "b": ["2\n3"]}


def test_the_column_that_is_no_utf_8_is_named_among_some(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"a,b,c\n" + b"1,2,3\n" * 200_000 + b"1,\xe9,3\n")
    for columns in (["c", "b"], ["b"], ["a", "b"]):
        refused(
            lambda columns=columns: whole(open_table(tmp_path / "rows.csv"), columns=columns), "column 'b' is no UTF"
        )


def test_years_are_names(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("country,2020,2021\nx,1,2\n")
    assert open_table(tmp_path / "rows.csv").names == ["country", "2020", "2021"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.feather", "rows.arrow", "x.npz", "x.npy"])
@pytest.mark.parametrize("left", [0, 3, 1000])
def test_a_truncated_file(name: str, left: int, tmp_path: Path) -> None:
    path = tmp_path / name
    if name in FILES:
        FILES[name](table(1000), path)
    else:
        (np.savez if name.endswith("z") else np.save)(path, np.ones((1000, 3)))
    path.write_bytes(path.read_bytes()[:left])
    refused(lambda: whole(open_table(path)), f"{name}: is truncated or no")


def test_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(table(1000), path)
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    refused(lambda: whole(open_table(path)), r"rows\.parquet: is truncated or no Parquet file")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([{"a": [1], "b": [1]}, {"a": [1]}], r"part-1\.parquet: lacks the column 'b', which part-0\.parquet has"),
        ([{"a": [1]}, {"a": [1], "c": [1]}], r"part-0\.parquet: lacks the column 'c', which part-1\.parquet has"),
        ([{"a": [1]}, {"a": ["x"]}], r"part-1\.parquet: column 'a' is string, and int64 in part-0\.parquet"),
        (
            [{"a": pa.nulls(1)}, {"a": [1.5]}, {"a": [True]}],
            r"part-2\.parquet: column 'a' is bool, and double in part-1\.parquet",
        ),
    ],
)
def test_parts_that_do_not_go_together(tables: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    refused(lambda: open_table(parts(tmp_path, *tables)), message)


def test_no_table_at_all(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nowhere.csv", r"nowhere\.csv: there is no such file"),
        (tmp_path / "nowhere.parquet", r"nowhere\.parquet: there is no such file"),
        (tmp_path / "nowhere", "nowhere: is of no known kind: give one of .csv"),
        (tmp_path, "holds no table: expected files that end in .csv"),
    ):
        refused(lambda path=path: open_table(path), message)
    (tmp_path / "a.csv").write_text("a\n1\n")
    np.save(tmp_path / "b.npy", np.ones((2, 2)))
    refused(lambda: open_table(tmp_path), "holds parts of 2 kinds")
    np.save(tmp_path / "object.npy", np.array([[None]]))
    refused(lambda: open_table(tmp_path / "object.npy"), "object.npy: is truncated or no NumPy file")
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    refused(lambda: open_table(tmp_path / "cube.npy"), r"holds an array of shape \[2, 2, 2\]")
    np.savez(tmp_path / "odd.npz", X=np.ones((3, 2)), y=np.ones(2))
    refused(lambda: open_table(tmp_path / "odd.npz"), r"holds X \[3, 2\], y \[2\]: expected")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((2, 2)), "train is a ndarray: give a file, a folder of parts, or a DataFrame"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "train: column 'a' appears more than once"),
        ({"a": [1, 2], "b": [1]}, "train: .*unequal length"),
    ],
)
def test_what_is_no_dataframe(given: Any, message: str) -> None:
    refused(lambda: open_table(given, name="train"), message)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_file_that_changes_while_it_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (csv.write_csv if name.endswith("csv") else parquet.write_table)(table(N).drop(["word"]), path)

    def read() -> None:
        for i, _ in enumerate(open_table(path).batches(10_000)):
            if i == 1:
                with path.open("ab") as file:
                    file.write(b"1,2\n")

    refused(read, f"{name}: changed while it was read: start again once it is complete")


def refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
