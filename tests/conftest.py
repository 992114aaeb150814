"""What several test modules share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vae_lightning.cli import main

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Runs a command line in an empty folder; ``{configs}`` in it is the folder of the configs."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> int:
        return main(line.format(configs=CONFIGS).split())

    return run


SMALL = (
    " --data.init_args.samples 600 --trainer.max_epochs 2 --trainer.accelerator cpu --trainer.enable_progress_bar false"
    " --trainer.enable_model_summary false"
)


@pytest.fixture
def fitted(run: Callable[[str], int], tmp_path: Path) -> Path:
    """The folder of a finished small run of configs/beta_vae.yaml."""
    assert run("fit --config {configs}/beta_vae.yaml" + SMALL) == 0
    return tmp_path / "lightning_logs" / "beta_vae" / "version_0"
