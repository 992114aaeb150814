"""Where a command that is given a checkpoint takes its configuration from, and what it may trust of it.

``test``, ``predict`` and ``validate`` build model and data from the checkpoint's own recipe. ``fit`` needs more than
that, an optimiser and a trainer's settings: it goes on with the run's ``config.yaml``, as long as that names nothing
but known classes. A configuration that the user names with ``--config`` is the user's own.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..detection import storage
from ..errors import UserError
from ..files import read_yaml
from ..recipe import PACKAGE, Recorded, find
from ..training import checkpoints
from .trusted import check_recipe, check_run

KNOWN = Recorded, Optimizer, LRScheduler, EarlyStopping, LearningRateMonitor  # and all classes of this package


@contextlib.contextmanager
def with_checkpoint(args: list[str]) -> Iterator[list[str]]:
    """The command line with ``--ckpt_path`` as a file, and with a ``--config`` if it has none.

    Raises:
        UserError: When there is no such checkpoint, or its configuration names what is not known.
    """
    command, rest = args[:1], args[1:]
    given = _option(rest, "--ckpt_path")
    if given in (None, "null", "None") or command[0] not in ("fit", "validate", "test", "predict"):
        yield args
        return
    config = _option(rest, "--config") or _option(rest, "-c")
    path = _find(str(given), rest, config)
    rest = [*_without(rest, "--ckpt_path"), "--ckpt_path", str(path)]
    if config is not None:
        yield [*command, *rest]
    elif command == ["fit"]:
        yield [*command, "--config", str(_of_run(path)), *rest]
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{path.stem}.yaml"
            file.write_text(yaml.safe_dump(_of_checkpoint(path)))
            yield [*command, "--config", str(file), *rest]


def _find(given: str, rest: list[str], config: str | None) -> Path:
    """The file that ``--ckpt_path`` means."""
    if given not in ("last", "best"):
        return storage.find(given)
    experiment = _option(rest, "--experiment")
    if experiment is None and config and Path(config).is_file():
        experiment = read_yaml(Path(config), "configuration").get("experiment") or Path(config).stem
    try:
        return _whole(storage.newest(given, Path(_option(rest, "--runs") or "lightning_logs"), experiment))
    except UserError as error:
        raise UserError(f"--ckpt_path {error}") from error


def _whole(path: Path) -> Path:
    """The last checkpoint, or its run's best epoch if the last one has been damaged."""
    best = path.with_name("best.ckpt")
    try:
        storage.load(path)
    except UserError:
        if path == best or not best.is_file():
            raise
        storage.load(best)
        print(f"note: {path}: truncated or damaged: {best} is taken", file=sys.stderr)
        return best
    return path


def _of_checkpoint(path: Path) -> dict[str, Any]:
    """Model and data as the checkpoint's recipe has them, each class a known one."""
    about = storage.read(path)[storage.KEY]
    model, data = about["model"], about["trained_on"].get("recipe")
    if data is None:
        raise UserError(f"{path}: does not say which data set it was trained on: give --config or --data")
    for recipe in (model, data):
        check_recipe(recipe, lambda name: find(name, where=str(path)), str(path))
    return {"model": _without_shape(model), "data": data}


def _without_shape(recipe: Any) -> Any:
    """The data decide on the shape of a sample, for an ensemble's member as well."""
    if not isinstance(recipe, dict) or "class_path" not in recipe:
        return recipe
    arguments = {key: _without_shape(value) for key, value in recipe["init_args"].items() if key != "input_shape"}
    return {**recipe, "init_args": arguments}


def _of_run(path: Path) -> Path:
    """The configuration beside a checkpoint, once it is known to name nothing that could run code."""
    folder = checkpoints.run_folder(path)
    if folder is None:
        raise UserError(f"{path}: there is no config.yaml next to it: give the --config that it was trained with")
    config = folder / "config.yaml"
    content = read_yaml(config, "configuration: expected keys such as model, data and trainer")
    check_run(content, lambda name: _known(name, config), str(config))
    return config


def _known(path: str, config: Path) -> type:
    """The class of a dotted name, of the kinds that a run is made of; nothing is imported to find it."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if inspect.isclass(found) and (issubclass(found, KNOWN) or found.__module__.startswith(f"{PACKAGE}.")):
        return found
    raise UserError(
        f"{config}: names {path}, which is neither a class of {PACKAGE} nor an optimizer: if you trust the file, name "
        "it with --config"
    )


def _option(args: list[str], name: str) -> str | None:
    """The last value of an option, as ``--name value`` or ``--name=value``."""
    value = None
    for i, arg in enumerate(args):
        if arg == name and i + 1 < len(args):
            value = args[i + 1]
        elif arg.startswith(f"{name}="):
            value = arg.partition("=")[2]
    return value


def _without(args: list[str], name: str) -> list[str]:
    kept, skip = [], False
    for arg in args:
        if not skip and arg != name and not arg.startswith(f"{name}="):
            kept.append(arg)
        skip = arg == name
    return kept
