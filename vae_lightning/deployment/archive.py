"""What a pt2 archive may hold: tensors, and a graph of torch's own operators.

``torch.export.load`` was not made for files of strangers. It unpickles whatever says of itself that it is a pickle, and
evaluates the sizes, guards and names of a graph as Python. So all of that is looked at first.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .manifest import KEY

EXTRA = f"{KEY}.json"  # the manifest's name among the extra files

_CONFIG = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_TENSOR = re.compile(r"(weight|tensor)_\d+")
_SAMPLE, _PROGRAM, _MANIFEST = "data/sample_inputs/model.pt", "models/model.json", f"extra/{EXTRA}"
_OTHERS = re.compile(r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)")

# what is evaluated or made into code, by its key in the graph's JSON
_SYMBOL = r"Symbol\('[su]\d+'(, [a-z]+=True)*\)"  # a size
_SUM = rf"(({_SYMBOL})|(Add|Mul|Min|Max|Mod|FloorDiv|CeilDiv|Integer)\(|-?\d+|[(), ])+"  # of sizes
_HARMLESS = {
    "target": re.compile(r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.\w+"),
    "expr_str": re.compile(_SUM),
    "name": re.compile(r"[\w.]*"),
    "as_name": re.compile(r"\w*"),
}


def manifest(content: bytes) -> bytes:
    """The manifest's JSON of an archive that holds nothing that could run code.

    Raises:
        UserError: When there is anything else in it.
        Exception: Whatever reading it raises when it is no archive.
    """
    import torch

    found = b""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for path in archive.namelist():
            name = path.partition("/")[2]
            if _CONFIG.fullmatch(name):
                _check_tensors(json.loads(archive.read(path)))
            elif name == _PROGRAM:
                _check_graph(json.loads(archive.read(path)))
            elif name == _SAMPLE:
                torch.load(io.BytesIO(archive.read(path)), weights_only=True)
            elif name == _MANIFEST:
                found = archive.read(path)
            elif not (_OTHERS.fullmatch(name) or _TENSOR.fullmatch(name.rpartition("/")[2])):
                raise _refused(f"holds {path}")
    return found


def _check_tensors(config: Any) -> None:
    for tensor in config["config"].values():
        if tensor["use_pickle"] is not False or not _TENSOR.fullmatch(tensor["path_name"]):
            raise _refused(f"holds {tensor['path_name']}, a pickle")


def _check_graph(program: Any) -> None:
    if program["guards_code"]:
        raise _refused(f"checks its input by {program['guards_code'][0]!r}")
    for key, value in _entries(program):
        if key in _HARMLESS and isinstance(value, str) and not _HARMLESS[key].fullmatch(value):
            raise _refused(f"its graph holds {key} = {value[:80]!r}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of a JSON document, however deep."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _entries(item)
    if isinstance(value, dict):
        yield from value.items()


def _refused(what: str) -> UserError:
    return UserError(f"{what}, which could run code, and `export` writes no such thing: export the detector again")
