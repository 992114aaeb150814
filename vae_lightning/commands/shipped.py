"""The configurations that come with the package, by their names: ``--config beta_vae``."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
FOLDERS = PACKAGE / "configs", PACKAGE.parent / "configs"  # installed, or a checkout
OPTIONS = "--config", "-c"


def with_shipped(args: list[str]) -> list[str]:
    """The command line with each ``--config NAME`` as a file, where NAME is no file and the package ships one."""
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
    return next((str(file) for file in files if file.is_file()), name)
