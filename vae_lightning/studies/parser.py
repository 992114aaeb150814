"""The command line of what is no single run: sweep, benchmark, compare."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

import yaml

from ..errors import UserError
from ..files import check_yaml


class StudyParser(argparse.ArgumentParser):
    """Says what is wrong in one line.

    Args:
        command: Its name, ``sweep`` for one.
        **kwargs: As for ``argparse.ArgumentParser``.
    """

    def __init__(self, command: str, **kwargs: Any) -> None:
        super().__init__(f"vae-lightning {command}", allow_abbrev=False, **kwargs)
        self.command = command

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.command}: {message}: {self.command} --help lists what there is")

    def parse_overriding(self, args: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """The command's own options; and all others, ``--key value`` or ``--key=value``, as configuration keys."""
        given, rest = self.parse_known_args(args)
        overrides: dict[str, Any] = {}
        words = iter(rest)
        for word in words:
            if not word.startswith("--"):
                raise UserError(f"{self.command}: {word}: expected --key value")
            key, has_value, value = word[2:].partition("=")
            if not has_value and (value := next(words, "--")).startswith("--"):
                raise UserError(f"{self.command}: --{key}: the value is missing")
            try:
                check_yaml(value)
                overrides[key] = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError) as error:
                said = " ".join(str(getattr(error, "problem", None) or error).split())
                raise UserError(f"{self.command}: --{key} = {value}: not valid YAML: {said}") from error
        return given, overrides
