"""The code and the commands of README.md and of the pages in docs/, and the figures of the results."""

from __future__ import annotations

import importlib
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIGS, SMALL

from vae_lightning import MLP, fit
from vae_lightning.commands.help import reference

ROOT = CONFIGS.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
TEXT = "\n".join(PAGES.values())
COMMANDS = [line.split("  #")[0].strip() for line in re.findall(r"^python -m vae_lightning (.*)$", TEXT, re.M)]
OWN = re.findall(r"^```python\n# (\w+)\.py\n", TEXT, re.M)


@pytest.mark.parametrize("module", OWN)
def test_a_class_of_ones_own_needs_no_registration(run, tmp_path: Path, monkeypatch, module):
    (code,) = re.findall(rf"```python\n# {module}\.py\n(.*?)```", TEXT, re.S)
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (command,) = [line for line in COMMANDS if f"{module}." in line]
    small = SMALL.replace("--data.init_args.samples 600", "") if module == "mine" else SMALL
    assert run(command.replace("configs/", "{configs}/") + small) == 0
    assert (tmp_path / "lightning_logs/beta_vae/version_0/results.json").is_file()


def test_every_config_named_is_there_and_every_config_is_named():
    named = set(re.findall(r"`(\w+\.yaml)`", TEXT)) - {"config.yaml"}  # a run's own
    assert named == {path.name for path in CONFIGS.glob("*.yaml")}


def test_overrides_and_lookups_of_the_readme_run(run, fitted, mnist_files):
    for command in COMMANDS:
        if "gpu" in command or "--help" in command or any(f"{module}." in command for module in OWN):
            continue
        if not command.startswith(("fit", "test", "predict", "validate")):
            continue
        files = f" --data.init_args.root {mnist_files}" if "mnist" in command else ""
        assert run(command.replace("configs/", "{configs}/") + files + " --trainer.max_epochs 3") == 0, command


@pytest.mark.usefixtures("fitted")  # the newest run, which some load
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "```python\n" in text])
def test_its_python_runs_from_top_to_bottom(page: str):
    table = importlib.import_module("pandas").DataFrame(np.random.default_rng(1).normal(size=(20, 10)))
    table.to_csv("new.csv", index=False)
    names: dict[str, Any] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)```", PAGES[page], re.S | re.M):
        exec(code, names)
    if "new" in names and "run" in names:  # the last five rows are strange
        assert names["run"].detector.predict(names["new"])[-5:].all()


def test_every_link_leads_somewhere():
    for name, text in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def test_the_pages_on_commands_are_those_of_help():
    assert PAGES["docs/reference/commands.md"] == reference()


def test_the_front_page_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


def test_the_examples_for_contributors_run():
    names: dict[str, Any] = {"__name__": "contributing"}
    for code in re.findall(r"^```python\n(.*?)```", (CONFIGS.parent / "CONTRIBUTING.md").read_text(), re.S | re.M):
        exec(code, names)
    model = names["Tilted"]([2], MLP([8]), latent_dim=1, scores=[names["WorstFeature"]()])
    run = fit(model, names["Rings"](normal_classes=[0]), max_epochs=1, verbose=False)
    assert 0 <= run.metrics["test/auroc"] <= 1


def test_the_results_are_those_of_the_files():
    report = runpy.run_path(str(ROOT / "results" / "report.py"))
    start, end = report["MARKERS"]
    for path, expected in report["written"]().items():
        assert path.read_text().partition(start)[2].partition(end)[0] == expected, path
