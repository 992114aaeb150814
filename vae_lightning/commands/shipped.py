"""The configurations that come with the package, by their names: ``--config beta_vae``."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..errors import UserError

PACKAGE = Path(__file__).parents[1]
FOLDERS = PACKAGE / "configs", PACKAGE.parent / "configs"  # installed, or a checkout
OPTIONS = "--config", "-c"


def with_shipped(args: list[str]) -> list[str]:
    """The command line with each ``--config NAME`` as a file, if NAME is not a file and the package ships one.

    Raises:
        UserError: When NAME is neither, and close to the name of one that is shipped.
    """
    found, follows = [], False
    for arg in args:
        option, equals, value = arg.partition("=")
        if follows:
            arg = _resolved(arg)
        elif equals and option in OPTIONS:
            arg = f"{option}={_resolved(value)}"
        follows = not follows and arg in OPTIONS
        found.append(arg)
    return found


def _resolved(name: str) -> str:
    if Path(name).suffix or Path(name).exists():
        return name
    files = [folder / f"{name}.yaml" for folder in FOLDERS]
    if found := next((str(file) for file in files if file.is_file()), None):
        return found
    known = [str(path.relative_to(folder).with_suffix("")) for folder in FOLDERS for path in folder.rglob("*.yaml")]
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.7):
        raise UserError(f"--config {name}: there is no such file or shipped configuration: did you mean {close[0]}?")
    return name
