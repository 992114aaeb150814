"""What an installed package brings, and what a log without a terminal holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from vae_lightning import VAE, Arrays, Trainer
from vae_lightning.commands import main
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
        about = next(name for name in names if name.endswith("dist-info/METADATA"))
        assert "\nVersion: 0.2.0\n" in wheel.read(about).decode(), "no git there, and no tag"
    shipped = {f"vae_lightning/configs/{file.relative_to(ROOT / 'configs')}" for file in ROOT.glob("configs/**/*.yaml")}
    assert shipped <= names
    assert {
        f"vae_lightning/{path.relative_to(ROOT / 'vae_lightning')}" for path in ROOT.glob("vae_lightning/**/*.py")
    } <= names


def test_the_version_is_that_of_the_last_tag(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)

    def git(*args: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True)

    def version() -> str:
        line = [sys.executable, "setup.py", "--version"]
        return subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()[-1]

    assert version() == "0.2.0"
    git("init")
    git("commit", "--allow-empty", "-m", "one")
    assert version() == "0.2.0"
    git("tag", "v1.4.2")
    assert version() == "1.4.2"
    git("commit", "--allow-empty", "-m", "two")
    assert re.fullmatch(r"1\.4\.3\.dev1\+g[0-9a-f]+", version())
    (tmp_path / "PKG-INFO").write_text("Name: a\nVersion: 1.4.1\n")
    assert version() == "1.4.1", "a source archive knows what it is"


def test_a_shell_completes_commands_options_and_configurations(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)

    def complete(*words: str) -> set[str]:
        line = f"COMP_WORDS=(vae-lightning {' '.join(words)}); COMP_CWORD={len(words)}; _shtab_vae_lightning"
        line = f"source {script}; {line}; echo ${{COMPREPLY[@]}}"
        return set(subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True).stdout.split())

    assert complete("sw") == {"sweep"}
    assert complete("fit", "--config", "mnist_b") == {"mnist_beta_vae"}
    assert complete("sweep", "--config", "sweeps/synth") == {"sweeps/synthetic", "sweeps/synthetic_scores"}
    assert complete("fit", "--trainer.max") == {"--trainer.max_epochs", "--trainer.max_steps", "--trainer.max_time"}
    assert complete("predict", "--out") == {"--output"}
    assert main(["completion", "fish"]) == 2
    assert "give one of bash, zsh, tcsh" in capsys.readouterr().err


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
