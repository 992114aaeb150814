"""What survives: kills, odd input, tables of all kinds."""

from __future__ import annotations

from collections.abc import Iterator

from sections.common import figures, rows, table


def faults() -> Iterator[str]:
    yield from kills()
    yield from odd_input()
    yield from any_table()


def kills() -> Iterator[str]:
    found = rows("kills.csv")
    equal = sum(row["resumed"] == "equal" for row in found)
    yield (
        f"**Killed and resumed** (`tests/faults/test_kill_and_resume.py`): {len(found)} runs, "
        f"{sum(int(row['kills']) for row in found)} SIGKILLs while training, validating and writing, by optimizer, "
        f"scheduler, accumulation, precision and number of processes. {equal} of them ended like a run that nobody "
        "killed, to the bit: weights, optimizer, schedulers, metrics, results.json and TensorBoard's points.\n"
    )


def odd_input() -> Iterator[str]:
    found = figures("fuzz.json")
    if found is None:
        return
    cases = sum(sum(became.values()) for became in found.values())
    good = sum(became.get("done", 0) + became.get("refused", 0) for became in found.values())
    yield (
        f"**Odd input** (`tests/faults/test_fuzz.py`): {cases:,} command lines, configurations, tables, sweeps, run "
        f"folders and checkpoints, with something wrong in most of them. {good:,} did what was asked, or were refused "
        "in one line with nothing written.\n"
    )
    head = ["done", "refused", "failed"]
    body = [[kind, *(str(became.get(name, 0)) for name in head)] for kind, became in found.items()]
    yield from table(["what is odd", *head], body)


def any_table() -> Iterator[str]:
    found = figures("any_table.json")

    def total(what: str) -> int:
        return sum(count for key, count in found.items() if key.startswith(what))

    yield (
        f"**Generated tables** (`tests/test_any_table.py`): {total('tables')} tables, CSV and Parquet, of any "
        f"types, names, gaps and numbers. {total('scored')} were trained on and scored, from the file as "
        f"in memory; {total('refused')} were refused in one line; {total('no ')} the format itself could not hold.\n"
    )
