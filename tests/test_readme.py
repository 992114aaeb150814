"""The code and the commands of README.md and of the pages in docs/, and the figures of the results."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIGS, command, environment

from vae_lightning import MLP, fit
from vae_lightning.commands import main
from vae_lightning.commands.help import reference

ROOT = CONFIGS.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
}
TEXT = "\n".join(PAGES.values())


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of each block of a page's code, with continued lines as one."""
    for kind, code in re.findall(r"^```(python|bash)\n(.*?)^```", PAGES[page], re.S | re.M):
        yield kind, code.replace("\\\n", " ")


def small(command: str, images: Path) -> str:
    """A command of a page, brought down to seconds."""
    if command.startswith(("fit", "validate", "test")) or (command.startswith("predict") and "--input" not in command):
        command += " --trainer.enable_progress_bar false"
        if re.search("conv_vae|config images|config table", command):  # validates at its last step alone
            command += " --trainer.max_steps 40 --trainer.val_check_interval 40"
            command += " --model.init_args.lr_scheduler.init_args.total_steps 40"
        else:
            command += " --trainer.max_epochs 3"
        if "--config" in command and "beta_vae" in command and not re.search("--data |mnist", command):
            command += " --data.init_args.samples 1500"
        command += f" --data.init_args.root {images}" if "mnist" in command else ""
    return command


@pytest.fixture
def servers() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that a page starts: they end with it, in good order."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for server in started:
        server.terminate()
        assert server.wait(30) == 0


def serve(args: list[str]) -> subprocess.Popen[str]:
    """A server, once it listens."""
    line = [sys.executable, "-m", "vae_lightning", *args]
    server = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert "serving" in server.stdout.readline() + server.stdout.readline()
    return server


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def execute(args: list[str]) -> int:
    """The exit code of a command."""
    if "ddp_fork" in args:  # a process that has trained already cannot fork
        return command(Path.cwd(), args).returncode
    return main(args)


@pytest.mark.usefixtures("fitted")  # the newest run, which some load
@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if re.search("^```(python|bash)", text, re.M)])
def test_a_page_runs_from_top_to_bottom(page: str, run, mnist_files, servers, tmp_path: Path, monkeypatch):
    table = importlib.import_module("pandas").DataFrame(np.random.default_rng(1).normal(size=(20, 10)))
    table.to_csv("new.csv", index=False)
    monkeypatch.syspath_prepend(tmp_path)  # the working directory, where modules of one's own lie
    names: dict[str, Any] = {"__name__": "page"}
    port = str(free_port())
    for kind, code in blocks(page):
        code = code.replace("8000", port) if "serve" in page else code
        if kind == "python" and (module := re.match(r"# (\w+\.py)\n", code)):
            (tmp_path / module[1]).write_text(code)
        elif kind == "python":
            exec(code, names)
        else:
            for line in re.findall(r"^vae-lightning (.*?)(?:  #.*)?$", code, re.M):
                if line.startswith("serve "):
                    servers.append(serve(shlex.split(line)))
                elif not re.search("^(sweep|benchmark|compare)|gpu|--help", line):
                    assert execute(shlex.split(small(line, mnist_files))) == 0, line
    if "new" in names and "run" in names:  # the last five rows are strange
        assert names["run"].detector.predict(names["new"])[-5:].all()


def test_every_config_named_is_there_and_every_config_is_named():
    named = set(re.findall(r"`(\w+\.yaml)`", TEXT)) - {"config.yaml"}  # a run's own
    assert named == {path.name for path in CONFIGS.glob("*.yaml")}


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
