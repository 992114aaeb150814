"""``python -m vae_lightning benchmark``: how well one configuration detects, class by class, beside older methods."""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_yaml, write_csv, write_whole
from ..training import runs
from ..training.callbacks.metrics import SCORES
from . import baselines
from . import tasks as engine
from .parser import StudyParser, build, fit, markdown
from .tasks import OWNED, PLACE, as_text

DESCRIPTION = """\
Train a configuration once for each class and seed, and put the AUROC of its scores on the test split beside that of a
one-class SVM, an isolation forest, PCA and nearest neighbours on the raw features of the same splits.

  python -m vae_lightning benchmark --config configs/conv_vae.yaml --data MNIST FashionMNIST --jobs 2

Stopped or killed, it goes on with the same command; more classes or seeds are added by naming them. Any configuration
key can follow, and holds for all runs: --model.init_args.beta 0.1 --name beta_0.1
"""

NORMAL, ANOMALOUS = "data.init_args.normal_classes", "data.init_args.anomaly_classes"
PROTOCOLS: dict[str, Callable[[int], dict[str, Any]]] = {  # the settings of class c
    "one_class": lambda c: {NORMAL: [c], ANOMALOUS: None},
    "leave_one_class_out": lambda c: {NORMAL: None, ANOMALOUS: [c]},
}
TITLES = {"one_class": "one class is normal", "leave_one_class_out": "one class is the anomaly"}
BASELINES = "baselines.json"


@dataclass(frozen=True)
class Task:
    """One run or, without a seed, the baselines of a class: done when its file is there.

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
    engine.quiet(be_quiet)
    tasks = _tasks(cli, given, overrides, folder)
    _claim(folder, given.config, overrides)
    left = [task for task in tasks if not task.file.is_file()]
    print(f"{folder}: {len(tasks)} tasks, {len(left)} left", flush=True)
    if left:
        engine.run(given.jobs, be_quiet, work, cli, left)
    missing = [task for task in tasks if not task.file.is_file()]
    print("\n".join(["", *report(folder), *(f"missing      {task}{_why(task)}" for task in missing)]), flush=True)
    return int(bool(missing))


def _parse(args: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = StudyParser("benchmark", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True, help="the configuration that is tried")
    parser.add_argument("--data", nargs="+", help="data sets (default: the configuration's)")
    parser.add_argument(
        "--protocol", nargs="+", choices=PROTOCOLS, default=["one_class"], help="what is normal (default: one_class)"
    )
    parser.add_argument("--classes", nargs="+", type=int, help="which classes take their turn (default: all)")
    parser.add_argument(
        "--seeds",
        nargs="*",
        type=int,
        default=[0, 1, 2],
        help="of the training (default: 0 1 2); none: baselines alone",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes on this machine, which share its cores")
    parser.add_argument("--no_baselines", action="store_true", help="leave the other methods out")
    parser.add_argument("--name", help="of the benchmark's folder (default: benchmark_<configuration>)")
    parser.add_argument("--runs", type=Path, default=Path("lightning_logs"), help="folder of all runs")
    given, overrides = parser.parse_overriding(args)
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs}: expected at least 1")
    if min(given.seeds, default=0) < 0:
        raise UserError(f"--seeds {min(given.seeds)}: expected at least 0")
    if given.name and (Path(given.name).name != given.name or given.name in (".", "..")):
        raise UserError(f"--name {given.name}: expected a name that a folder can have")
    for key in overrides:
        if key in (*OWNED, NORMAL, ANOMALOUS, "seed_everything", "test_after_fit"):
            raise UserError(f"benchmark: --{key}: the benchmark sets it by itself: leave it out")
    return given, overrides


def _tasks(cli: Any, given: argparse.Namespace, overrides: dict[str, Any], folder: Path) -> list[Task]:
    """All that is to be done, one seed after the other; each data set and protocol is tried out first."""
    if not given.config.is_file():
        raise UserError(f"--config {given.config}: there is no such file: give configs/conv_vae.yaml for one")
    if base := read_yaml(given.config, "expected a configuration").get("base"):
        raise UserError(f"--config {given.config}: is a sweep, not a configuration: its base is {base}")
    found = []  # of each data set and protocol: their names, and the command line of each class
    for name in given.data or [None]:
        fixed = ["fit", "--config", str(given.config), *([f"--data={name}"] if name else []), *_options(overrides)]
        for protocol in given.protocol:
            for c in {min(given.classes or [0]), max(given.classes or [0])}:
                data = build(cli, [*fixed, *_options(PROTOCOLS[protocol](c))]).datamodule
            classes = given.classes or range(len(data.classes))
            lines = {c: [*fixed, *_options(PROTOCOLS[protocol](c))] for c in classes}
            found.append((type(data).__name__, protocol, lines))
    seeds = [*dict.fromkeys(given.seeds), *([] if given.no_baselines else [None])]
    return [
        Task(folder, data, protocol, c, seed, line)
        for seed in seeds
        for data, protocol, lines in found
        for c, line in lines.items()
    ]


def _options(settings: dict[str, Any]) -> Iterator[str]:
    return (f"--{key}={as_text(value)}" for key, value in settings.items())


def _claim(folder: Path, config: Path, overrides: dict[str, Any]) -> None:
    """Write into the folder what its runs have in common; raise a UserError if that is something else already."""
    path = folder / "benchmark.json"
    settings = {key: value for key, value in overrides.items() if not key.startswith(PLACE)}
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


def work(cli: Any, tasks: list[Task]) -> None:
    """Do what is neither done nor being done by another process."""
    for task in tasks:
        task.folder.mkdir(parents=True, exist_ok=True)
        with engine.lock(task.folder / ".lock") as mine:
            if mine and not task.file.is_file():
                print(f"{task}  {_attempt(cli, task)}", flush=True)


def _attempt(cli: Any, task: Task) -> str:
    """Do a task, and say how it ended."""
    complaint = task.folder / "error.txt"
    try:
        if task.seed is None:
            found = baselines.aurocs(build(cli, task.arguments).datamodule)
            write_whole(task.file, json.dumps(found, indent=2))
        else:
            place = {"runs": str(task.folder.parent.parent), "experiment": task.folder.parent.name}
            fit(cli, [*task.arguments, *_options({"seed_everything": task.seed, **place})], task.folder)
    except SystemExit as stop:
        raise KeyboardInterrupt from stop  # SIGTERM would exit with 0, as if all were done
    except Exception as error:  # the others go on
        complaint.write_text(traceback.format_exc())
        return f"failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]} (see {complaint})"
    complaint.unlink(missing_ok=True)
    if task.seed is None:
        return "done"
    content = json.loads(task.file.read_text())
    return f"test/auroc {content['metrics']['test/auroc']:.4f} in {content['seconds']:.0f} s"


@dataclass
class Row:
    """The AUROC of one method on one test split."""

    data: str
    protocol: str
    label: int
    method: str
    seed: int
    auroc: float
    epochs: int | None = None  # of the training
    seconds: float | None = None


def rows(folder: Path) -> list[Row]:
    """All that a benchmark's folder holds, whichever command lines it comes from; a run's first score comes first."""
    found = []
    for path in folder.glob(f"*/*/class_*/seed_*/{runs.RESULTS}"):
        data, protocol, c, seed = path.parts[-5:-1]
        content = json.loads(path.read_text())
        metrics = content["metrics"]
        with np.load(path.parent / SCORES) as scores:
            methods = [name for name in scores.files if name != "labels"]
        for method in methods:
            auroc = metrics.get(f"test/auroc/{method}", metrics["test/auroc"])  # a single score is logged once
            cost = (content["epochs"], content["seconds"])
            found.append(Row(data, protocol, _number(c), method, _number(seed), auroc, *cost))
    for path in folder.glob(f"*/*/class_*/{BASELINES}"):
        data, protocol, c = path.parts[-4:-1]
        for method, aurocs in json.loads(path.read_text()).items():
            found += [Row(data, protocol, _number(c), method, seed, auroc) for seed, auroc in enumerate(aurocs)]
    methods = list(dict.fromkeys(row.method for row in found))
    order = list(PROTOCOLS)
    return sorted(
        found, key=lambda row: (row.data, order.index(row.protocol), row.label, methods.index(row.method), row.seed)
    )


def _number(name: str) -> int:
    """3 of ``class_3``."""
    return int(name.partition("_")[2])


def report(folder: Path) -> list[str]:
    """Write ``results.csv`` and ``results.md`` into the benchmark's folder; the tables, and where they lie."""
    found = rows(folder)
    lines = []
    for data, protocol in dict.fromkeys((row.data, row.protocol) for row in found):
        own = [row for row in found if (row.data, row.protocol) == (data, protocol)]
        lines += [f"{data}, {TITLES[protocol]}: AUROC on the test split", "", *table(own), ""]
    lines += ["Mean ± standard deviation over seeds; the mean is over the classes, of each seed that has them all."]
    write_whole(folder / "results.md", "\n".join(lines) + "\n")
    head = ["data", "protocol", "class", "method", "seed", "auroc", "epochs", "seconds"]
    write_csv(folder / "results.csv", [head, *(vars(row).values() for row in found)])
    return [*lines, "", *(f"wrote        {folder / f'results.{kind}'}" for kind in ("csv", "md"))]


def _why(task: Task) -> str:
    """Why a task is not done, as the end of a line."""
    complaint = task.folder / "error.txt"
    return f": see {complaint}" if complaint.is_file() else ": under way in another process"


def table(found: list[Row]) -> list[str]:
    """Methods by classes, in Markdown."""
    classes = sorted({row.label for row in found})
    lines = [["method", *map(str, classes), "mean"]]
    for method in dict.fromkeys(row.method for row in found):
        values = {(row.label, row.seed): row.auroc for row in found if row.method == method}
        seeds = sorted({seed for _, seed in values})
        cells = [[values[c, seed] for seed in seeds if (c, seed) in values] for c in classes]
        whole = [seed for seed in seeds if all((c, seed) in values for c in classes)]
        cells.append([float(np.mean([values[c, seed] for c in classes])) for seed in whole])
        lines.append([method, *map(_spread, cells)])
    return markdown(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
