"""What an installed package brings, and what a log without a terminal holds."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from vae_lightning import VAE, Arrays, Trainer
from vae_lightning.commands.shipped import with_shipped
from vae_lightning.training.callbacks import progress

ROOT = Path(__file__).parents[1]


def test_a_wheel_holds_every_configuration(tmp_path: Path) -> None:
    line = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    copy = tmp_path / "source"  # what is built leaves traces beside its sources
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "configs", "vae_lightning"):
        (copy / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, *line, str(tmp_path), str(copy)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    shipped = {f"vae_lightning/configs/{file.relative_to(ROOT / 'configs')}" for file in ROOT.glob("configs/**/*.yaml")}
    assert shipped <= names
    assert {
        f"vae_lightning/{path.relative_to(ROOT / 'vae_lightning')}" for path in ROOT.glob("vae_lightning/**/*.py")
    } <= names


def test_a_shipped_configuration_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = str(ROOT / "configs" / "beta_vae.yaml")
    assert with_shipped(["fit", "--config", "beta_vae"]) == ["fit", "--config", expected]
    assert with_shipped(["fit", "--config=beta_vae", "-c", "beta_vae"])[1:] == [f"--config={expected}", "-c", expected]
    assert with_shipped(["fit", "--name", "beta_vae"])[2] == "beta_vae"
    (tmp_path / "beta_vae").write_text("a file of the user's own")
    assert with_shipped(["fit", "--config", "beta_vae"])[2] == "beta_vae"


def test_without_a_terminal_progress_is_few_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.05)
    data, model = Arrays(torch.randn(400, 3), batch_size=8), VAE([3], latent_dim=1)
    trainer = Trainer(max_epochs=30, logger=False, enable_checkpointing=False, enable_model_summary=False)
    started = time.monotonic()
    trainer.fit(model, data)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 2 + (time.monotonic() - started) / 0.05
    assert lines[0].startswith("epoch ")
    assert "train/loss" in lines[-1]
    assert sum(map(len, lines)) < 20_000
