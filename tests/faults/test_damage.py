"""Damaged checkpoints and signals: nothing is lost, and one line says what happened."""

from __future__ import annotations

import csv
import json
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, SMALL
from harness import NIGHTLY, assert_equal, content, forked

from vae_lightning.commands import main
from vae_lightning.detection import storage
from vae_lightning.errors import UserError
from vae_lightning.models.steps import Steps

FIT = f"fit --config {CONFIGS}/beta_vae.yaml{SMALL}"
QUIET = " --trainer.enable_progress_bar false --trainer.enable_model_summary false"


def damaged(data: bytes, draw: random.Random) -> bytes:
    """One bit flipped, a stretch zeroed, or the end cut off."""
    found, place = bytearray(data), draw.randrange(len(data))
    kind = draw.choice(["bit", "zeros", "cut"])
    if kind == "bit":
        found[place] ^= 1 << draw.randrange(8)
    elif kind == "zeros":
        found[place : place + 1000] = bytes(len(found[place : place + 1000]))
    else:
        del found[place:]
    return bytes(found)


def read(file: Path) -> tuple[str, dict[str, Any] | None]:
    """Why a checkpoint was refused, or what is in it."""
    try:
        return "", content(file)
    except UserError as error:
        return str(error), None


def test_a_damaged_checkpoint_is_refused_or_says_the_same(fitted: Path) -> None:
    """What the damage has not changed, as between two tensors, is read as it was written."""
    whole = fitted / "checkpoints/last.ckpt"
    data, expected, refused = whole.read_bytes(), content(whole), 0
    file, draw = fitted / "damaged.ckpt", random.Random(0)
    cases = 2000 if NIGHTLY else 200
    for _ in range(cases):
        file.write_bytes(damaged(data, draw))
        said, found = read(file)
        refused += found is None
        assert found is not None or re.fullmatch(rf"{re.escape(str(file))}: \S.*", said)
        if found is not None:
            assert_equal(found, expected)
    assert refused > 0.6 * cases


def test_last_falls_back_to_the_best_epoch(fitted: Path, run: Callable[[str], int], capsys: Any) -> None:
    last, best = fitted / "checkpoints/last.ckpt", fitted / "checkpoints/best.ckpt"
    last.write_bytes(last.read_bytes()[:-2000])
    capsys.readouterr()
    assert run(f"fit --ckpt_path {last}" + QUIET) == 2
    assert f"{last}: damaged, truncated or no checkpoint" in (said := capsys.readouterr().err)
    assert f"give another one, such as {best}" in said
    assert run("fit --ckpt_path last --trainer.max_epochs 3" + QUIET) == 0
    assert "checkpoints/last.ckpt: truncated or damaged: " in (said := capsys.readouterr().err)
    assert "checkpoints/best.ckpt is taken" in said
    assert storage.read(last)["epoch"] == 2


def ended_by(happens: Callable[[], Any]) -> int:
    """Of a run to which something happens in its second epoch."""
    step, steps = Steps.training_step, 0

    def training_step(self: Any, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            happens()
        return step(self, *args)

    Steps.training_step = training_step  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(FIT.split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_run_that_a_signal_ends_does_not_end_well(
    number: int, code: int, run: Callable[[str], int], tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert forked(lambda: ended_by(lambda: signal.raise_signal(number))) == code
    assert "interrupted: resume with the same command and --ckpt_path last" in capfd.readouterr().err
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    assert not (folder / "results.json").exists()
    assert storage.read(folder / "checkpoints/last.ckpt")["epoch"] == 0
    assert run("fit --ckpt_path last" + QUIET) == 0
    assert (folder / "results.json").is_file()


def test_no_room_for_a_checkpoint_is_one_line_and_the_last_good_one_is_whole(
    run: Callable[[str], int], tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    no_room = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    assert forked(lambda: ended_by(no_room)) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    (error,) = [line for line in said.splitlines() if "error" in line]
    assert "File too large" in error
    assert error.endswith(("the previous file is intact", "and continue with --ckpt_path last)"))
    assert storage.read(folder / "checkpoints/last.ckpt")["epoch"] == 0
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    assert run("fit --ckpt_path last" + QUIET) == 0
    assert storage.read(folder / "checkpoints/last.ckpt")["epoch"] == 1


def test_a_folder_that_is_removed_is_one_line(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert forked(lambda: ended_by(partial(shutil.rmtree, tmp_path / "lightning_logs"))) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert re.search(rf"\nerror: {tmp_path}/lightning_logs/beta_vae/version_0\S*: \S.*\n$", said)


def test_what_killed_writes_have_left_goes_at_the_next_start(fitted: Path, run: Callable[[str], int]) -> None:
    left = [fitted / f"{name}.{'0f' * 16}" for name in ("checkpoints/.last.ckpt", ".results.json")]
    mine = fitted / "checkpoints/.mine"
    for path in (*left, mine):
        path.write_text("half")
    assert run("fit --ckpt_path last --trainer.max_epochs 3" + QUIET) == 0
    assert [path.exists() for path in (*left, mine)] == [False, False, True]


def test_a_clock_that_goes_back_changes_nothing(fitted: Path, run: Callable[[str], int], monkeypatch: Any) -> None:
    """The run's own time comes from a clock that cannot; files are told apart by more than their dates."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86_400)
    assert run("fit --ckpt_path last --trainer.max_epochs 3" + QUIET) == 0
    assert storage.read(fitted / "checkpoints/last.ckpt")["epoch"] == 2
    assert json.loads((fitted / "results.json").read_text())["seconds"] > 0


def test_another_logger_will_do(run: Callable[[str], int], tmp_path: Path) -> None:
    assert run(FIT + QUIET + " --trainer.logger CSVLogger --trainer.logger.save_dir logs") == 0
    (file,) = tmp_path.glob("logs/**/metrics.csv")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert sum(row["train/loss"] != "" for row in rows) == 2
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    assert "test/auroc" in json.loads((folder / "results.json").read_text())["metrics"]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
