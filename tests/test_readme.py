"""The README's own code and commands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from conftest import CONFIGS, SMALL

README = (CONFIGS.parent / "README.md").read_text()
COMMANDS = [line.split("  #")[0].strip() for line in re.findall(r"^python -m vae_lightning (.*)$", README, re.M)]


@pytest.mark.parametrize("module", ["mine", "tilted"])
def test_a_class_of_ones_own_needs_no_registration(run, tmp_path: Path, monkeypatch, module):
    (code,) = re.findall(rf"```python\n# {module}\.py\n(.*?)```", README, re.S)
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = [line for line in COMMANDS if f"{module}." in line]
    small = SMALL.replace("--data.init_args.samples 600", "") if module == "mine" else SMALL
    assert run(command.replace("configs/", "{configs}/") + small) == 0
    assert (tmp_path / "lightning_logs/beta_vae/version_0/results.json").is_file()


def test_every_config_named_is_there_and_every_config_is_named():
    named = set(re.findall(r"`(\w+\.yaml)`", README))
    assert named == {path.name for path in CONFIGS.glob("*.yaml")}


def test_overrides_and_lookups_of_the_readme_run(run, fitted, mnist_files):
    for command in COMMANDS:
        if "gpu" in command or "--help" in command or "mine." in command or "tilted." in command:
            continue
        if not command.startswith(("fit", "test", "predict", "validate")):
            continue
        files = f" --data.init_args.root {mnist_files}" if "mnist" in command else ""
        assert run(command.replace("configs/", "{configs}/") + files + " --trainer.max_epochs 3") == 0, command


def test_the_results_are_those_of_the_files():
    report = runpy.run_path(str(CONFIGS.parent / "results" / "report.py"))
    start, end = report["MARKERS"]
    assert README.partition(start)[2].partition(end)[0] == report["report"]()
