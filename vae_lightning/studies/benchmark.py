"""``vae-lightning benchmark``: how well one configuration detects, class by class, beside older methods."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import lock, read_yaml, write_whole
from ..training import runs
from . import baselines, tables, tasks
from .benchmark_report import BASELINES, PROTOCOLS
from .benchmark_report import report as class_report
from .parser import StudyParser

DESCRIPTION = """\
Train a configuration once for each class and seed, and compare the AUROC of
its scores on the test split with a one-class SVM, an isolation forest, PCA and
nearest neighbours on the raw features of the same splits.

  vae-lightning benchmark --config conv_vae --data MNIST FashionMNIST --jobs 2

With tables instead of data sets (NPZ files with X and y), half of the normal
rows train and all others test, with another split for each seed; the other
methods are kNN, LOF, ECOD and more from scikit-learn and PyOD:

  vae-lightning benchmark --config table --data data/ADBench/*.npz --seeds 0 1 2

If it is stopped or killed, the same command continues it. Name more classes or
seeds to add them. Any configuration key can follow and applies to all runs:
--model.init_args.beta 0.1 --name beta_0.1
"""

NORMAL, ANOMALOUS = "data.init_args.normal_classes", "data.init_args.anomaly_classes"


@dataclass(frozen=True)
class Entry:
    """A task: one run or, without a seed, the baselines of a class; done when its file is there.

    Attributes:
        home: The benchmark's folder.
        data: The data set's name.
        protocol: One of ``PROTOCOLS``.
        label: The class that is normal, or is the anomaly.
        seed: Of the training.
        arguments: The command line of a run, but for its seed and place.
    """

    home: Path
    data: str
    protocol: str
    label: int
    seed: int | None
    arguments: list[str]

    @property
    def folder(self) -> Path:
        """The run's, ``<data>/<protocol>/class_<c>/seed_<s>``, or the class's."""
        folder = self.home / self.data / self.protocol / f"class_{self.label}"
        return folder if self.seed is None else folder / f"seed_{self.seed}"

    @property
    def file(self) -> Path:
        """Written last, and whole."""
        return self.folder / (BASELINES if self.seed is None else runs.RESULTS)

    def __str__(self) -> str:
        what = "baselines" if self.seed is None else f"seed {self.seed}"
        return f"{self.data} {self.protocol} class {self.label} {what}"

    def do(self, cli: Any) -> str:
        if self.seed is None:
            found = baselines.aurocs(tasks.build(cli, self.arguments).datamodule)
            write_whole(self.file, json.dumps(found, indent=2))
            return "done"
        place = {"runs": str(self.folder.parent.parent), "experiment": self.folder.parent.name}
        tasks.fit(cli, [*self.arguments, *tasks.options({"seed_everything": self.seed, **place})], self.folder)
        content = json.loads(self.file.read_text())
        return f"test/auroc {content['metrics']['test/auroc']:.4f} in {content['seconds']:.0f} s"

    def interrupted(self) -> None:
        """It goes on from its checkpoint when it is asked for again."""

    def failed(self, error: str, final: bool) -> None:
        if final:  # of what may pass, the whole traceback is there
            (self.folder / tasks.COMPLAINT).write_text(f"{error}\n")


def main(args: list[str], cli: Any, be_quiet: Callable[[], None]) -> int:
    """Run a benchmark; the exit code is 0, or 1 if a run has failed.

    Args:
        args: The command line after ``benchmark``.
        cli: The command line's class, which a run is run by.
        be_quiet: Silences what a user can do nothing about; called in each process.

    Raises:
        UserError: When anything is wrong with the benchmark, before a run starts.
    """
    given, overrides = _parse(args)
    folder = given.runs / (given.name or f"benchmark_{given.config.stem}")
    tasks.quiet(be_quiet)
    table = tables.asked_for(given.data)
    entries: list[Any] = (tables.entries if table else _entries)(cli, given, overrides, folder)
    report = tables.report if table else class_report
    _claim(folder, given.config, overrides)
    left = [entry for entry in entries if not entry.file.is_file()]
    print(f"{folder}: {len(entries)} tasks, {len(left)} left", flush=True)
    if left:
        tasks.run(cli, given.jobs, be_quiet, ledger, left)
    missing = [entry for entry in entries if not entry.file.is_file()]
    print("\n".join(["", *report(folder), *(f"missing      {entry}{_why(entry)}" for entry in missing)]), flush=True)
    return int(bool(missing))


def _parse(args: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = StudyParser("benchmark", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True, help="the configuration to test")
    parser.add_argument("--data", nargs="+", help="data sets, or .npz files of tables (default: the configuration's)")
    parser.add_argument(
        "--protocol", nargs="+", choices=PROTOCOLS, default=["one_class"], help="what is normal (default: one_class)"
    )
    parser.add_argument("--classes", nargs="+", type=int, help="the normal (or left-out) classes (default: all)")
    parser.add_argument(
        "--seeds",
        nargs="*",
        type=int,
        default=[0, 1, 2],
        help="seeds of the trainings (default: 0 1 2); none: only the other methods",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes on this machine, which share its cores")
    parser.add_argument("--no_baselines", action="store_true", help="leave the other methods out")
    parser.add_argument("--name", help="name of the folder (default: benchmark_<configuration>)")
    parser.add_argument("--runs", type=Path, default=Path("lightning_logs"), help="folder of all runs")
    given, overrides = parser.parse_overriding(args)
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: expected at least 1")
    if min(given.seeds, default=0) < 0:
        raise UserError(f"--seeds {min(given.seeds)}: expected at least 0")
    if given.name and (Path(given.name).name != given.name or given.name in (".", "..")):
        raise UserError(f"--name {given.name}: expected a name that a folder can have")
    if not given.config.is_file():
        raise UserError(f"--config {given.config}: there is no such file: give conv_vae, for example")
    if base := read_yaml(given.config, "expected a configuration").get("base"):
        raise UserError(f"--config {given.config}: is a sweep, not a configuration: its base is {base}")
    for key in overrides:
        if key in (*tasks.OWNED, NORMAL, ANOMALOUS, "seed_everything", "test_after_fit"):
            raise UserError(f"benchmark: --{key}: the benchmark sets it by itself: leave it out")
    return given, overrides


def _entries(cli: Any, given: argparse.Namespace, overrides: dict[str, Any], folder: Path) -> list[Entry]:
    """All that is to be done, one seed after the other; each data set and protocol is tried out first."""
    found = []  # of each data set and protocol: their names, and the command line of each class
    for name in given.data or [None]:
        fixed = ["fit", "--config", str(given.config), *([f"--data={name}"] if name else []), *tasks.options(overrides)]
        for protocol in given.protocol:
            for c in {min(given.classes or [0]), max(given.classes or [0])}:
                data = tasks.build(cli, [*fixed, *tasks.options(_settings(protocol, c))]).datamodule
            classes = given.classes or range(len(data.classes))
            lines = {c: [*fixed, *tasks.options(_settings(protocol, c))] for c in classes}
            found.append((type(data).__name__, protocol, lines))
    seeds = [*dict.fromkeys(given.seeds), *([] if given.no_baselines else [None])]
    return [
        Entry(folder, data, protocol, c, seed, line)
        for seed in seeds
        for data, protocol, lines in found
        for c, line in lines.items()
    ]


def _settings(protocol: str, c: int) -> dict[str, Any]:
    """What a protocol makes of class c."""
    return {NORMAL: [c], ANOMALOUS: None} if protocol == "one_class" else {NORMAL: None, ANOMALOUS: [c]}


def _claim(folder: Path, config: Path, overrides: dict[str, Any]) -> None:
    """Write into the folder what its runs have in common; raise a UserError if that is something else already."""
    path = folder / "benchmark.json"
    settings = {key: value for key, value in overrides.items() if not key.startswith(tasks.PLACE)}
    mark = json.loads(
        json.dumps({"config": read_yaml(config, "expected a configuration"), "settings": settings}, default=str)
    )
    if path.is_file():
        if (found := json.loads(path.read_text())) != mark:
            what = "another configuration" if found["config"] != mark["config"] else "other settings"
            raise UserError(f"{folder} holds a benchmark with {what}: choose another name with --name")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(mark, indent=2))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): set --runs to another folder") from error


def ledger(entries: list[Any]) -> Generator[tasks.Task, None, None]:
    """What is neither done nor being done by another process; the files say so."""
    for entry in entries:
        entry.folder.mkdir(parents=True, exist_ok=True)
        with lock(entry.folder / ".lock") as mine:
            if mine and not entry.file.is_file():
                yield entry


def _why(entry: Any) -> str:
    """Why a task is not done, as the end of a line."""
    complaint = entry.folder / tasks.COMPLAINT
    return f": see {complaint}" if complaint.is_file() else ": under way in another process"
