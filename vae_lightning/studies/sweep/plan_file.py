"""What a sweep file says: read into a plan, and refused in one line where it is wrong."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import read_yaml
from ..tasks import OWNED, as_text
from .plan import SEED, Plan, Range, label

SAMPLERS = ("grid", "random", "tpe")
KEYS = (
    *("base", "search", "sampler", "objectives", "trials", "seed", "pruning"),
    *("show", "overrides", "study", "storage", "attempts"),
)


def read(file: Path, given: Mapping[str, Any], overrides: Mapping[str, Any]) -> Plan:
    """The plan of a sweep file.

    Args:
        file: YAML.
        given: What the command line sets instead of the file; None does not.
        overrides: Configuration keys that the command line sets for every trial.

    Raises:
        UserError: When a key or value is wrong.
    """
    content = _load(file)
    for key in content:
        if key not in KEYS:
            raise UserError(f"{file}: {key}: there is no such key of a sweep{suggest(str(key), KEYS)}")
    content.update({key: value for key, value in given.items() if value is not None and key in KEYS})
    for key in ("base", "search", "objectives"):
        if not content.get(key):
            raise UserError(f"{file}: {key} is missing or empty: {_WANTED[key]}")
    sampler = content.get("sampler", "grid")
    if sampler not in SAMPLERS:
        raise UserError(f"{file}: sampler = {sampler}: expected one of {', '.join(SAMPLERS)}")
    search = _search(file, content["search"], sampler)
    objectives = _objectives(file, content["objectives"])
    named = content.get("study") or file.stem
    study = str(named)
    if not isinstance(named, (str, int)) or Path(study).name != study or study in (".", ".."):
        raise UserError(f"{file}: study = {study}: give a name that a folder can have")
    settings = {**_settings(file, "overrides", content.get("overrides") or {}), **_settings(file, "", overrides)}
    if both := sorted(settings.keys() & search.keys()):
        raise UserError(f"{file}: {both[0]}: is both searched and set for all trials: leave one of them out")
    runs = Path(given.get("runs") or "lightning_logs")
    test = [f"test/{name.partition('/')[2]}" for name in objectives if name.startswith("val/")]
    return Plan(
        file=file,
        study=study,
        base=_base(file, str(content["base"])),
        sampler=sampler,
        search=search,
        objectives=objectives,
        trials=_trials(file, content.get("trials"), search, sampler),
        seed=_integer(file, "seed", content.get("seed", 0), 0),
        pruning=_pruning(file, content.get("pruning"), objectives),
        show=_names(file, "show", content.get("show", test)),
        overrides=settings,
        storage=str(content.get("storage") or f"sqlite:///{runs / study / 'study.db'}"),
        attempts=_integer(file, "attempts", content.get("attempts", 3), 1),
        runs=runs,
    )


_WANTED = {
    "base": "the path of a configuration, such as configs/beta_vae.yaml",
    "search": "configuration keys and their values, such as model.init_args.beta: [0.5, 1, 4]",
    "objectives": "metrics and their directions, such as val/auroc: maximize",
}


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"--config {file}: there is no such file: give a sweep such as sweeps/synthetic")
    return read_yaml(file, "sweep: expected keys such as base, search and objectives")


def _base(file: Path, base: str) -> Path:
    places = (file.parent / base, Path(base))
    if not (found := next((path for path in places if path.is_file()), None)):
        raise UserError(f"{file}: base = {base}: there is no such file, neither next to the sweep file nor here")
    if not isinstance(content := _load(found), dict) or "base" in content:
        raise UserError(f"{file}: base = {base}: is a sweep, not a configuration")
    return found


def _settings(file: Path, where: str, settings: Any) -> dict[str, Any]:
    """Configuration keys with dots, none of which is the sweep's own."""
    at = f"{file}: {where}" if where else "--"
    if not isinstance(settings, Mapping):
        raise UserError(f"{at} = {settings}: expected configuration keys and values, such as trainer.max_epochs: 5")
    for key in settings:
        if key in OWNED:
            raise UserError(f"{at}{': ' if where else ''}{key}: the sweep sets it by itself: leave it out")
    return dict(settings)


def _search(file: Path, search: Any, sampler: str) -> dict[str, list[Any] | Range]:
    space: dict[str, list[Any] | Range] = {}
    for key, values in _settings(file, "search", search).items():
        what = f"{file}: search: {key}"
        if key == SEED and sampler != "grid":
            raise UserError(f"{what}: a seed is nothing to search for: sweep it with sampler: grid, or leave it out")
        if isinstance(values, dict) and "class_path" not in values:
            space[key] = _range(what, values)
            if sampler == "grid":
                raise UserError(f"{what}: a grid needs a list of values: give one, or sampler: random or tpe")
        elif not isinstance(values, list):
            raise UserError(f"{what} = {label(values)}: expected a list of values, or low and high")
        elif not values:
            raise UserError(f"{what} = []: an empty list leaves nothing to try: give at least one value")
        elif twice := [v for i, v in enumerate(values) if v in values[:i]]:
            raise UserError(f"{what}: {label(twice[0])} appears twice")
        else:
            space[key] = values
    return space


def _range(what: str, given: dict[str, Any]) -> Range:
    if unknown := sorted(map(str, given.keys() - {"low", "high", "log", "step"})):
        raise UserError(f"{what}: {unknown[0]}: a range has low, high, log and step")
    low, high, step, log = (given.get(name) for name in ("low", "high", "step", "log"))  # type: Any, Any, Any, Any
    for name, value in (("low", low), ("high", high), ("step", step)):
        if (value is None and name != "step") or (value is not None and not _number(value)):
            raise UserError(f"{what}: {name} = {value}: expected a number (with a point: 1.0e-3)")
    if not isinstance(log, bool | None):
        raise UserError(f"{what}: log = {log}: expected true or false")
    if not low < high:
        raise UserError(f"{what}: low = {low} is not below high = {high}")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{what}: log = true needs low > 0 and no step, not low = {low} and step = {step}")
    if step is not None and step <= 0:
        raise UserError(f"{what}: step = {step} must be positive")
    return Range(low, high, bool(log), step)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _objectives(file: Path, objectives: Any) -> dict[str, str]:
    if not isinstance(objectives, dict):
        raise UserError(f"{file}: objectives = {objectives}: expected {_WANTED['objectives']}")
    for name, direction in objectives.items():
        what = f"{file}: objectives: {name}"
        if str(name).startswith("test/"):
            raise UserError(
                f"{what}: nothing is chosen by test samples: give val/{str(name)[5:]}, and `show` the other"
            )
        if direction not in ("maximize", "minimize"):
            raise UserError(f"{what} = {direction}: expected maximize or minimize")
    return objectives


def _trials(file: Path, trials: Any, search: dict[str, Any], sampler: str) -> int:
    if sampler != "grid":
        if trials is None:
            raise UserError(f"{file}: trials is missing: sampler {sampler} needs to know how many")
        return _integer(file, "trials", trials, 1)
    cells = math.prod(len(values) for values in search.values())
    if trials not in (None, cells):
        raise UserError(f"{file}: trials = {trials}: the grid has {cells} cells, and all are tried: leave trials out")
    return cells


def _pruning(file: Path, pruning: Any, objectives: dict[str, str]) -> dict[str, int] | None:
    if not pruning or pruning == "none":
        return None
    if len(objectives) > 1:
        raise UserError(f"{file}: pruning: needs a single objective, not {', '.join(objectives)}: leave it out")
    known = {"startup_trials": 5, "warmup_epochs": 0}
    given = {} if pruning in (True, "median") else pruning
    if not isinstance(given, dict) or given.keys() - known.keys():
        raise UserError(f"{file}: pruning = {as_text(pruning)}: expected median, or {' and '.join(known)}")
    return {key: _integer(file, f"pruning: {key}", value, 0) for key, value in {**known, **given}.items()}


def _names(file: Path, key: str, names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: {key} = {as_text(names)}: expected a list of metrics, such as [test/auroc]")
    return names


def _integer(file: Path, key: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{file}: {key} = {value}: expected a whole number of at least {least}")
    return value


def suggest(name: str, known: Any) -> str:
    """What was perhaps meant, as the end of an error's line."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else f": there are {', '.join(known)}"
