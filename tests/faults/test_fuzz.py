"""Odd input of all kinds: each case ends with what was asked for, or with one line, exit code 2 and nothing written.

FAULTS=nightly takes ten times as many; FUZZ=FILE keeps the counts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import odd
import pytest
import torch
from harness import NIGHTLY

from vae_lightning.commands import main
from vae_lightning.detection import Detector, storage
from vae_lightning.errors import UserError

ROWS = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
CASES = {"options": 40, "configs": 40, "tables": 40, "sweeps": 40, "finished": 6}
SECONDS = 300 if NIGHTLY else 60  # of a case; some plans of the long fuzz are sound, and are trained
MEMORY = 4 << 30  # bytes more than there are at the start: what asks for more is refused, as on a smaller machine


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    """So many seconds a case, and no more memory than the machine can spare."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    handler = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"it takes more than {SECONDS} s"))
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(words: list[str]) -> tuple[int, list[str], str]:
    """Exit code, what standard error shows, and standard output, of a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    environment = dict(os.environ)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_default_dtype(torch.float32)
    return code, err.getvalue().splitlines(), out.getvalue()


def judge(words: list[str], folder: Path) -> str:
    """``done`` or ``refused``; anything else fails."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, said, out = outcome(words)
    made = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    if code == 0:
        for file in made:
            if file.name == "results.json":
                assert {"epochs", "seconds", "metrics"} <= json.loads(file.read_text()).keys(), words
        return "done"
    if words[0] == "sweep" and code == 1 and " failed: " in out:  # of a plan that is sound, each trial says why
        return "done"
    assert code == 2, (words, code, said)
    if any("the training loss became" in line for line in said):  # it had begun
        return "refused"
    assert len(said) == 1, (words, said)
    assert said[0].startswith("error: "), (words, said)
    assert not out.strip(), (words, out)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }, (words, said)
    assert set(folder.rglob("*")) == set(before), (words, said)
    return "refused"


def record(kind: str, counts: Counter[str]) -> None:
    print(kind, dict(counts))
    if file := os.environ.get("FUZZ"):
        there = json.loads(Path(file).read_text()) if Path(file).exists() else {}
        Path(file).write_text(json.dumps({**there, kind: dict(counts)}, indent=2) + "\n")


@pytest.mark.parametrize("kind", CASES)
def test_a_command_does_what_it_is_asked_or_says_why_not(
    kind: str, finished: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    make: Callable[..., list[str]] = getattr(odd, kind)
    counts, failures = Counter[str](), []
    for case in range(CASES[kind] * (10 if NIGHTLY else 1)):
        folder = tmp_path / f"case_{case}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        draw = random.Random(f"{kind} {case}")
        words = make(draw, folder, finished) if kind == "finished" else make(draw, folder)
        try:
            became = judge([word.replace("{run}", str(finished)) for word in words], folder)
        except Exception as error:  # the others are tried nevertheless
            became = "failed"
            failures.append(f"case {case}: {error!r}")
        counts[became] += 1
        shutil.rmtree(folder)
    record(kind, counts)
    assert not failures, "\n".join(failures)
    assert counts["refused"] > 0.15 * counts.total()


def test_a_checkpoint_is_read_or_refused_in_a_line(finished: Path, tmp_path: Path) -> None:
    """What is read has as many scores as rows, and all of them are numbers."""
    content, file, counts = storage.load(finished / "checkpoints/best.ckpt"), tmp_path / "odd.ckpt", Counter[str]()
    for case in range(1000 if NIGHTLY else 60):
        draw = random.Random(case)
        torch.save(odd.checkpoint(draw, content), file)
        try:
            detector = Detector.load(file)
            scores = detector.score(ROWS)
        except UserError as error:
            counts["refused" if len(str(error).splitlines()) == 1 else "more than a line"] += 1
        else:
            answers = scores, detector.p_values(ROWS), detector.predict(ROWS)
            good = all(np.isfinite(answer).all() and answer.shape == (50,) for answer in answers)
            counts["done" if good else "no numbers"] += 1
            if not good:
                print("case", case, "gives no numbers")
    record("checkpoints", counts)
    assert not counts["more than a line"] + counts["no numbers"]
    assert counts["refused"] > 0.4 * counts.total()


def test_an_array_of_eighty_terabytes_in_a_small_file(finished: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "odd")
    (tmp_path / "odd/test_scores.npz").unlink()
    with zipfile.ZipFile(tmp_path / "odd/test_scores.npz", "w") as archive:
        for name in ("score", "labels"):
            header = io.BytesIO()
            about = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
            np.lib.format.write_array_header_1_0(header, about)
            archive.writestr(f"{name}.npy", header.getvalue() + b"\0" * 100)
    assert judge(["compare", "odd"], tmp_path) == "refused"
