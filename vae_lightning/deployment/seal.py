"""The seal at the end of an exported file: whose it is, and whether a byte of it has changed.

A checksum cannot be among the bytes that it is of, so it comes last, in a form that the file's own format allows:
Protocol Buffers merge what is appended to a message, and a ZIP archive ends with a comment.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from ..errors import UserError

Format = Literal["onnx", "pt2"]

_NAME, _HEX = b"vae_lightning_sha256", 64
# ModelProto.metadata_props is field 14, a message of key, field 1, and value, field 2
_ENTRY = b"\x0a" + bytes([len(_NAME)]) + _NAME + b"\x12" + bytes([_HEX])
_STARTS: dict[Format, bytes] = {"onnx": b"\x72" + bytes([len(_ENTRY) + _HEX]) + _ENTRY, "pt2": _NAME + b"="}


def seal(content: bytes, form: Format) -> bytes:
    """The content of a file, with its seal behind it."""
    start = _STARTS[form]
    if form == "pt2":  # an archive without a comment ends with the comment's length, 0
        content = content[:-2] + (len(start) + _HEX).to_bytes(2, "little")
    return content + start + hashlib.sha256(content).hexdigest().encode()


def sealed_as(content: bytes) -> Format | None:
    """The format of a file that bears a seal, broken or not; None if there is none."""
    for form, start in _STARTS.items():
        if content[-_HEX - len(start) : -_HEX] == start:
            return form
    return None


def check(content: bytes, path: Path) -> Format:
    """The format of the exported file ``path``, whose content this is.

    Raises:
        UserError: When it is none, or has changed since it was written.
    """
    form = sealed_as(content)
    if form is None:
        raise UserError(f"{path}: truncated, or not a detector that `export` wrote: give another file")
    body = content[: -_HEX - len(_STARTS[form])]
    if hashlib.sha256(body).hexdigest().encode() != content[-_HEX:]:
        raise UserError(f"{path}: damaged: its content has changed since it was exported (SHA-256): export it again")
    return form
