"""What several test modules share: one thread, a quiet trainer, small files in MNIST's format."""

import gc
import gzip
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of libraries that are yet to be loaded: two workers have two cores

import numpy as np
import pytest
import torch
import torchvision.datasets
from lightning.pytorch import Trainer
from PIL import Image

from vae_lightning.commands import main
from vae_lightning.data import MNIST, FashionMNIST

CONFIGS = Path(__file__).parent.parent / "configs"
BOUND = 400  # seconds: a machine full of other work is slow, and not broken


def pytest_collection_finish() -> None:
    """All that has been imported by now stays: to look through it for garbage takes a quarter of a second a time."""
    gc.collect()
    gc.freeze()
    # autograd counts devices at its first pass; after an export, a stand-in for a GPU is among them, and no fork of a
    # process with a thread for that could train
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums in one order: results are then equal to the bit, on any machine."""
    torch.set_num_threads(1)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A trainer on the CPU that says and writes nothing; keyword arguments are Trainer's."""

    def build(kind: type[Trainer] = Trainer, **kwargs: Any) -> Trainer:
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        return kind(**{"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, **quiet, **kwargs})

    return build


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def mnist_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with small random images as MNIST and FashionMNIST, out of reach of any mirror: 300 and 100 of each."""
    for offset, module in enumerate((MNIST, FashionMNIST)):
        rng, resources = np.random.default_rng(offset), []
        folder = tmp_path / module.__name__ / "raw"
        folder.mkdir(parents=True)
        for name, _ in module.source.resources:
            n = 300 if name.startswith("train") else 100
            array = rng.integers(0, 256, (n, 28, 28)) if "images" in name else rng.permutation(n) % 10
            packed = gzip.compress(idx(array.astype(np.uint8)), mtime=0)
            (folder / name).write_bytes(packed)
            resources.append((name, hashlib.md5(packed).hexdigest()))
        members = {"resources": resources, "mirrors": ["file:///nowhere/", "http://127.0.0.1:9/"]}
        source = type(module.__name__, (getattr(torchvision.datasets, module.__name__),), members)
        monkeypatch.setattr(module, "source", source)
    return tmp_path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Runs a command line in an empty folder; ``{configs}`` in it is the folder of the configs."""
    monkeypatch.chdir(tmp_path)
    gc.collect()  # an export leaves stand-ins behind, subclasses under the names of what they stand for

    def run(line: str) -> int:
        return main(line.format(configs=CONFIGS).split())

    return run


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Small images as MVTec AD lays them out; no two are the same. A scratch is a white line, its mask beside it."""
    root, rng = tmp_path / "parts", np.random.default_rng(0)
    for place, n in (("train/good", 60), ("train/scratch", 9), ("test/good", 20), ("test/scratch", 15)):
        (root / place).mkdir(parents=True)
        for i in range(n):
            pixels, mask = rng.integers(0, 100, (8, 8), dtype=np.uint8), np.zeros((8, 8), np.uint8)
            if "scratch" in place:
                mask[:, i % 8] = 255
            Image.fromarray(np.maximum(pixels, mask)).save(root / place / f"{i:03}.png")
            if place == "test/scratch":
                (root / "ground_truth" / "scratch").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / "ground_truth" / "scratch" / f"{i:03}_mask.png")
    return root


SMALL = (
    " --data.init_args.samples 600 --trainer.max_epochs 2 --trainer.accelerator cpu --trainer.enable_progress_bar false"
    " --trainer.enable_model_summary false"
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small run of configs/beta_vae.yaml, of many tests: not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(f"fit --config {CONFIGS}/beta_vae.yaml{SMALL}".split()) == 0
    return folder / "lightning_logs" / "beta_vae" / "version_0"


@pytest.fixture
def fitted(finished: Path, run: Callable[[str], int], tmp_path: Path) -> Path:
    """The folder of such a run, a test's own, in the folder where its commands run."""
    folder = tmp_path / "lightning_logs" / "beta_vae" / "version_0"
    shutil.copytree(finished, folder)
    for file in folder.glob("checkpoints/*"):  # Lightning knows its files again by their whole paths
        content = torch.load(file, weights_only=True)
        content["callbacks"] = _moved(content["callbacks"], str(finished), str(folder))
        torch.save(content, file)
    return folder


def _moved(value: Any, old: str, new: str) -> Any:
    """The same with other paths, in keys and values."""
    if isinstance(value, dict):
        return type(value)({_moved(key, old, new): _moved(item, old, new) for key, item in value.items()})
    return value.replace(old, new) if isinstance(value, str) else value


def environment() -> dict[str, str]:
    """Of a process of its own, which finds this package from any folder."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGS.parent)}


def kill(folder: Path, arguments: list[str], when: Callable[[], bool], by: int = signal.SIGKILL) -> int:
    """Start a command in a process of its own and send a signal to it, and to nothing but it; how it ended.

    Args:
        folder: Where.
        arguments: After ``vae-lightning``.
        when: Whether it has come far enough.
        by: The signal.
    """
    child = start(folder, arguments)
    try:
        deadline = time.monotonic() + BOUND
        while not (there := when()) and time.monotonic() < deadline:
            assert child.is_alive(), "it ended before it could be killed"
            time.sleep(0.005)
        assert there, "it did not come so far"  # not asked again: it may be past it
        os.kill(child.pid, by)
        return end(child)
    finally:
        child.kill()


def command(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, with its exit code and what it prints."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        code = end(start(folder, arguments, out.name, err.name))
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def script(folder: Path, file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python file arguments`` in a new process."""
    line = [sys.executable, file, *arguments]
    return subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def start(folder: Path, arguments: list[str], out: str = os.devnull, err: str = os.devnull) -> Any:
    """A command in a process of its own, which has imported everything: to import it again takes longer than to run.

    It is a fork of a process that has done nothing else: a fork of this one would share threads and locks with tests.
    """
    clean = multiprocessing.get_context("forkserver")
    clean.set_forkserver_preload(
        ["vae_lightning.commands.entry", "vae_lightning.commands.parser", "torchvision", "PIL"]
    )
    child = clean.Process(target=_command, args=(folder, arguments, dict(os.environ), out, err))
    child.start()
    return child


def end(child: Any) -> int:
    """The exit code of a process, or minus the signal that has ended it."""
    child.join(BOUND)
    running = child.is_alive()
    child.kill()
    assert not running, "it goes on without end"
    code: int = child.exitcode
    return code


def _command(folder: Path, arguments: list[str], variables: dict[str, str], out: str, err: str) -> None:
    os.chdir(folder)
    os.environ.update(variables)
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 (until the process ends)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    torch.set_num_threads(1)
    for helper in (forkserver._forkserver, resource_tracker._resource_tracker):  # type: ignore[attr-defined]
        helper.__init__()  # its own, for --jobs: those of this process are no child's
    sys.exit(main(arguments))
