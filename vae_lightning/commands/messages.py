"""What the parser found wrong, in one line: where it stands, key and value at fault, and what would do."""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from lightning.pytorch import Trainer

from ..data import AnomalyDataModule
from ..detection.thresholds import Threshold
from ..errors import UserError
from ..files import read_yaml
from ..models import AnomalyModel
from ..models.annealing import Annealing
from ..models.likelihoods import Likelihood
from ..models.networks import Network
from ..scores import Score
from .help import COMMANDS, STUDIES

FAMILIES = (AnomalyModel, AnomalyDataModule, Network, Likelihood, Annealing, Score, Threshold)

# lines of jsonargparse's that say nothing to a user
NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Problem with given class_path",
)

NESTED = r"NestedArg\(key='[^']*', val='?(.*?)'?\)"


def diagnose(message: str, args: list[str]) -> str:
    """One line out of the tree of complaints that jsonargparse makes of a wrong value.

    Args:
        message: jsonargparse's.
        args: The command line, to tell which file or option is at fault.
    """
    key = ".init_args.".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    # a value given by a nested option is wrapped: NestedArg(key='optimizer.class_path', val='Adm')
    given = re.sub(NESTED, r"\1", value[1].strip()) if value else None
    what = _place(key, args) + (f" = {given}" if value else "")
    complaints = [re.sub(r'^\s*(- )?(Parser key "[^"]+": ?)?', "", line) for line in message.splitlines()]
    complaints = [line for line in complaints if line and not line.startswith(NOISE)]
    expected, unknown_class = [], None
    for line in complaints:
        if unknown := re.match(r"(?:Option|Subcommand '\w+' does not accept option) '([^']+)'", line):
            place = _place(f"{key}.init_args.{unknown[1]}" if key else unknown[1], args)
            return f"{place}: there is no such key{_suggest(unknown[1], _parameters())}"
        if unknown := re.match(r"argument subcommand: invalid choice: '([^']*)'", line):
            return f"there is no command {unknown[1]}: there are {', '.join([*COMMANDS, *STUDIES])}"
        if "arguments are required" in line:
            lacking = line.rpartition(": ")[2]
            if key:
                return f"{_place(key, args)}: {lacking} is missing: give it among init_args"
            return f"the configuration lacks {lacking}: give --config, such as --config beta_vae"
        if unknown := re.match(r"unrecognized arguments: ([^\s=]+)", line):
            name = unknown[1].rpartition(".")[2].lstrip("-")
            return f"there is no option {unknown[1]}{_suggest(name, _parameters())}"
        if unknown := re.match(r"Expected a dot import path string: (.*)", line):
            unknown_class = unknown[1]
        elif wanted := re.match(r"Not a valid subclass of (\w+)|.* does not correspond to a subclass of (\w+)", line):
            expected.append(f"a class that extends {wanted[1] or wanted[2]}")
        elif line.startswith("Unable to load config"):
            expected.append("keys and values")
        elif line == "Expected an instantiatable class, but is abstract":
            expected.append("one of the classes that extend it")
        elif wanted := re.match(r"Expected a (.*?)(\. Got value.*)?$", line):
            expected.append(_type(wanted[1]))
        elif not line.startswith(("Subclass types expect", "a class path", "a dict with")):
            return line if key.rpartition(".")[2] in line else f"{what}: {line}"  # a constructor's own words
    if unknown_class and all(one.startswith("a class that extends") for one in expected):
        return f"{what}: there is no such class{_suggest(unknown_class, [c.__name__ for c in _classes()])}"
    if expected:
        return f"{what}: expected {' or '.join(dict.fromkeys(expected))}"
    return " ".join(message.split())


def check_files(args: list[str]) -> None:
    """Raise a UserError if a configuration file is no YAML or none of ours; the parser would not say which file."""
    for path in _files(args):
        content = read_yaml(path, "configuration: expected keys such as model, data and trainer")
        for key in ("trainer", "pictures"):  # the parser would pass over it
            _check_kind(content, key, dict, "keys and values", f"{path}: {key}")
        _check_kind(content, "ckpt_path", (str, NoneType), "a file, last or best", f"{path}: ckpt_path")
        _check_objects(content, str(path))


def _check_objects(value: Any, where: str) -> None:
    """Raise a UserError for keys that are no words, and for objects without a class or arguments that have names."""
    if isinstance(value, list):
        for item in value:
            _check_objects(item, where)
    for key, item in value.items() if isinstance(value, dict) else ():
        if not isinstance(key, str):
            raise UserError(f"{where}: {key}: there is no such key: expected words")
        _check_objects(item, f"{where}{'.' if ': ' in where else ': '}{key}")
    if isinstance(value, dict):
        _check_kind(value, "class_path", str, "the name of a class", f"{where}.class_path")
        _check_kind(value, "init_args", (dict, NoneType), "keys and values", f"{where}.init_args")


def _check_kind(content: dict[str, Any], key: str, kind: Any, expected: str, where: str) -> None:
    if key in content and not isinstance(content[key], kind):
        raise UserError(f"{where} = {content[key]}: expected {expected}")


def _files(args: list[str]) -> list[Path]:
    """The configuration files on a command line that exist."""
    pairs = itertools.zip_longest(args, args[1:], fillvalue="")
    names = [arg.partition("=")[2] or following for arg, following in pairs if re.match(r"(--config|-c)(=|$)", arg)]
    return [path for name in names if "\0" not in name and (path := Path(name)).is_file()]


def _place(key: str, args: list[str]) -> str:
    """``key``, with the file that sets it before it unless it stands on the command line."""
    if any(arg.startswith(f"--{key.split('.init_args.')[0]}") and key.rpartition(".")[2] in arg for arg in args):
        return f"--{key}"
    for path in reversed(_files(args)):
        node: Any = yaml.safe_load(path.read_text())
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            return f"{path}: {key}"
    return key


def _suggest(name: str, known: Iterator[str] | list[str]) -> str:
    names = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), list(names), n=1, cutoff=0.6)
    return f": did you mean {names[close[0]]}?" if close else ": --help=all lists what there is"


def _classes() -> Iterator[type]:
    def below(cls: Any) -> Iterator[type]:
        yield cls
        for sub in cls.__subclasses__():
            yield from below(sub)

    for family in FAMILIES:
        yield from below(family)


def _parameters() -> Iterator[str]:
    yield from inspect.signature(Trainer.__init__).parameters
    for cls in _classes():
        yield from inspect.signature(cls.__init__).parameters  # type: ignore[misc]


def _type(name: str) -> str:
    if literal := re.match(r"typing\.Literal\[(.*)\]", name):
        return f"one of {literal[1]}"
    return re.sub(r"<class '(?:.*\.)?(\w+)'>", r"\1", name).strip()
