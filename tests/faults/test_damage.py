"""Damaged checkpoints and signals: nothing is lost, and one line says what happened."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable
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
    assert f"give another one, {best} for one" in said
    assert run("fit --ckpt_path last --trainer.max_epochs 3" + QUIET) == 0
    assert "checkpoints/last.ckpt: truncated or damaged: " in (said := capsys.readouterr().err)
    assert "checkpoints/best.ckpt is taken" in said
    assert storage.read(last)["epoch"] == 2


def ended_by(number: int) -> int:
    """Of a run that a signal reaches in its second epoch."""
    step, steps = Steps.training_step, 0

    def training_step(self: Any, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:
            signal.raise_signal(number)
        return step(self, *args)

    Steps.training_step = training_step  # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(FIT.split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_run_that_a_signal_ends_does_not_end_well(
    number: int, code: int, run: Callable[[str], int], tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert forked(lambda: ended_by(number)) == code
    assert "interrupted: resume with the same command and --ckpt_path last" in capfd.readouterr().err
    folder = tmp_path / "lightning_logs/beta_vae/version_0"
    assert not (folder / "results.json").exists()
    assert storage.read(folder / "checkpoints/last.ckpt")["epoch"] == 0
    assert run("fit --ckpt_path last" + QUIET) == 0
    assert (folder / "results.json").is_file()
