"""Every configuration is built, and one tiny batch goes through each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CONFIGS

NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_goes_through(name, run, mnist_files: Path):
    """Training, validation and calibration of one batch each; nothing is written."""
    content = yaml.safe_load((CONFIGS / name).read_text())
    root = f" --data.init_args.root {mnist_files}" if "MNIST" in content["data"]["class_path"] else ""
    if "anomalies_from" in content["data"].get("init_args", {}):
        root += f" --data.init_args.anomalies_from.init_args.root {mnist_files}"
    if content["data"]["class_path"] == "Table":
        np.savetxt(
            "rows.csv", np.random.default_rng(0).normal(size=(100, 5)), delimiter=",", header="a,b,c,d,e", comments=""
        )
    if content["data"]["class_path"] == "SyntheticTextures":
        root = " --data.init_args.size 32 --data.init_args.train 40 --model.init_args.latent_dim 512"
    before = set(Path().iterdir())
    line = f"fit --config {{configs}}/{name} --trainer.fast_dev_run true --trainer.accelerator cpu{root}"
    line += " --data.init_args.val_fraction 0.3 --data.init_args.batch_size 4"  # some scores need a few samples
    assert run(line + " --trainer.enable_progress_bar false") == 0
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_it_is_run(name):
    assert f"vae-lightning fit --config {Path(name).stem}" in (CONFIGS / name).read_text()
