"""Who imports whom: downwards only, read from the sources themselves."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import vae_lightning

PACKAGE = Path(vae_lightning.__file__).parent
BOTTOM = {  # modules that everything may stand on
    "arrow",
    "batch",
    "colours",
    "decoding",
    "errors",
    "files",
    "fitted",
    "frames",
    "imagefiles",
    "levels",
    "recipe",
    "schema",
    "seeds",
}

# What each part may import of the others; every one may import itself and the bottom.
MAY = {
    **{name: set() for name in BOTTOM},
    "recipe": {"errors"},
    "fitted": {"recipe"},
    "arrow": {"errors"},
    "frames": {"arrow", "errors"},
    "schema": {"arrow", "errors", "frames"},
    "files": {"errors"},
    "levels": {"errors"},
    "decoding": {"errors"},
    "imagefiles": {"decoding", "errors"},
    "scores": BOTTOM,
    "detection": BOTTOM | {"scores"},
    "models": BOTTOM | {"scores", "detection"},
    "data": BOTTOM | {"detection.columns", "detection.preprocessing", "detection.statistics"},
    "training": BOTTOM | {"scores", "detection", "models", "data"},
    "deployment": BOTTOM | {"detection", "data"},
    "estimators": BOTTOM | {"scores", "detection", "models", "data", "training"},
    "studies": BOTTOM | {"scores", "detection", "models", "data", "deployment", "training", "estimators"},
    "commands": BOTTOM | {"scores", "detection", "models", "data", "deployment", "training", "estimators", "studies"},
}
ENTRANCES = {"__init__", "__main__"}  # of the whole package
VAGUE = {"common", "helper", "helpers", "misc", "tools", "util", "utils"}


@functools.cache
def modules() -> dict[str, Path]:
    """The sources by their dotted names within the package: ``data.base``, and ``data`` for its ``__init__``."""
    names = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(name[:-1] if name[-1] == "__init__" else name) or "__init__": path for path, name in names.items()}


def imports(name: str, path: Path, types: bool = True) -> Iterator[str]:
    """The modules of this package that one of them imports; with or without those that are for the type checker."""
    here = [] if name == "__init__" else name.split(".")
    folder = here if path.stem == "__init__" else here[:-1]
    for node in statements(ast.parse(path.read_text()), types):
        if isinstance(node, ast.ImportFrom):
            source = node.module.split(".") if node.module else []
            if node.level:
                source = folder[: len(folder) - node.level + 1] + source
            elif source[:1] == [PACKAGE.name]:
                source = source[1:]
            else:
                continue
            for alias in node.names:
                full = ".".join([*source, alias.name])
                yield full if full in modules() else ".".join(source) or "__init__"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == PACKAGE.name:
                    yield alias.name.partition(".")[2] or "__init__"


def statements(node: ast.AST, types: bool) -> Iterator[ast.AST]:
    if types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from statements(child, types)


def within(module: str, parts: set[str]) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in parts)


def test_imports_run_downwards() -> None:
    wrong = []
    for name, path in modules().items():
        part = name.partition(".")[0]
        if part in ENTRANCES:
            continue
        assert part in MAY, f"{name}: say in MAY what it may import"
        wrong += [f"{name} imports {other}" for other in imports(name, path) if not within(other, MAY[part] | {part})]
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_import_each_other() -> None:
    graph = {name: set(imports(name, path, types=False)) for name, path in modules().items() if name not in ENTRANCES}
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    circles = [f"{name} imports {other}" for name in graph for other in sorted(graph[name] & graph.keys())]
    assert not circles, "\n".join(circles)


def test_every_folder_says_what_belongs_there() -> None:
    for name, path in modules().items():
        if path.stem == "__init__":
            assert len((ast.get_docstring(ast.parse(path.read_text())) or "").split()) > 10, name


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = [name for name in modules() if name.rpartition(".")[2] in VAGUE]
    assert not vague, ", ".join(vague)
