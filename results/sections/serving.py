"""What leaves the laboratory: parity of exported files, throughput, load, processes killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sections.common import HERE, figures, rows, table


def parity() -> Iterator[str]:
    if not (HERE / "parity.csv").exists():
        return
    lines = rows("parity.csv")
    compared = [line for line in lines if line["samples"]]
    differ = sum(int(line["decisions_that_differ"]) for line in compared)
    decisions = sum(int(line["samples"]) for line in compared)
    yield (
        f"**Exported files beside their detectors** (`python results/parity.py`): {len(compared)} files, {decisions:,} "
        f"decisions, of which {differ} differ. The largest relative difference of a score, ONNX / pt2; – where a score "
        "does not go with the model, *refused* where `export` says that it cannot be exported, or that the file is not "
        "the detector; inf where a score near the end of float32, above 1e35, is infinite in the file.\n"
    )
    models = list(dict.fromkeys(line["model"] for line in lines))
    cells = {(line["score"], line["model"], line["format"]): line for line in lines}

    def cell(score: str, model: str) -> str:
        if not any(line["score"] == score and line["model"] == model for line in lines):
            return "*not run*"
        found = [cells.get((score, model, form)) for form in ("onnx", "pt2")]
        if not any(found):
            return "–"
        return " / ".join(line["largest_difference"] or "*refused*" if line else "–" for line in found)

    scores = list(dict.fromkeys(line["score"] for line in lines))
    yield from table(["score", *models], [[score, *(cell(score, model) for model in models)] for score in scores])


def throughput() -> Iterator[str]:
    found = figures("throughput.json")
    if found is None:
        return
    yield (
        f"**Rows a second** of card payments, 11 columns, a small VAE (`python benchmarks/throughput.py`; "
        f"{found['machine']}; before and after, {found['load before']} and {found['load after']} processes wanted a "
        "core, others' among them).\n"
    )
    body = [[name, f"{rate:,}", "", ""] for name, rate in found["one core, rows/s"].items()]
    for name, way in found.items():
        if name.startswith("score"):
            steady = way["rows/s without the start"]
            peak = f"{way['peak MB small']} → {way['peak MB large']}"
            body.append([f"`{name}`", f"{way['rows/s']:,}", f"{steady:,}" if steady else "–", peak])
        elif name.startswith("serve"):
            body.append(
                [f"`serve`{name.removeprefix('serve')}, {way['clients']} clients", f"{way['rows/s']:,}", "", ""]
            )
    yield from table(["way", "rows/s", "without its start", "peak MB for a quarter → all of the rows"], body)
    rate, size, cores = found["score"]["rows/s without the start"], found["row bytes"], 100 * 16
    seconds = 1e12 / size / rate / cores
    yield (
        f"At {rate:,} rows a second and core and {size} bytes a row, 1 TB of such Parquet, {1e3 / size:.0f} billion "
        f"rows, would take 100 machines of 16 cores {seconds / 60:.1f} minutes, if the storage delivers "
        f"{1e3 / seconds:.1f} GB/s. That is an estimate: nothing has been run on more than one machine.\n"
    )


def load() -> Iterator[str]:
    found = figures("serve_load.json")
    if found is None:
        return
    yield (
        f"**The server under load** (`python benchmarks/serve_load.py`; {found['machine']}, which server and clients "
        f"share; before and after, {found['load before']} and {found['load after']} processes wanted a core).\n"
    )
    head = ["clients", "rows a request", "as", "requests/s", "rows/s", "p50 ms", "p99 ms"]
    runs = [*found["load"], found["long run"]]
    yield from table([*head, "refused"], [[*(_plain(run[name]) for name in head), refused(run)] for run in runs])
    bare = ", ".join(f"{rate:,} in batches of {rows}" for rows, rate in found["bare onnxruntime, rows/s"].items())
    memory = found["resident MB"]
    yield (
        f"Bare onnxruntime: {bare} rows/s. The server's memory in the long run: {memory['after a fifth']} MB after its "
        f"first fifth ({memory['before']:,} requests), {memory['at the end']} MB at its end "
        f"({memory['requests in between']:,} requests later).\n"
    )


def refused(run: dict[str, Any]) -> str:
    return str(sum(count for status, count in run["answers"].items() if status != "200"))


def kills() -> Iterator[str]:
    found = figures("ray_kills.json")
    if found is None:
        return
    yield (
        f"**Killed by SIGKILL** (`{found['command']}`): {found['files']} files, {found['rows']:,} rows, "
        "`score --engine ray --jobs 2`; the driver's run is started again.\n"
    )
    head = ["outputs when it was killed", "outputs", "rows lost", "rows doubled", "decisions that differ"]
    body = [[what, *(str(found[what][name]) for name in head)] for what in ("a worker killed", "the driver killed")]
    yield from table(["", *head], body)


def serving() -> Iterator[str]:
    """All of them that have been measured."""
    for part in (parity, throughput, load, kills):
        yield from part()


def _plain(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
