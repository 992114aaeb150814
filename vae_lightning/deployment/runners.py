"""What computes an exported graph: onnxruntime for ONNX, torch for pt2. Raw samples in, arrays by their names out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import UserError
from .manifest import INPUT, KEY, Manifest

Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def onnx_runner(content: bytes, path: Path, threads: int | None = None) -> tuple[Manifest, Runner]:
    """The manifest of an ONNX file, and what runs it.

    Args:
        content: Of the file, whose seal has been checked.
        path: What messages call it.
        threads: That one run may use; None for as many as there are cores.

    Raises:
        UserError: Without onnxruntime, or when the file is not what ``export`` writes.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: an ONNX file needs onnxruntime: pip install 'vae_lightning[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no class in common
        raise UserError(f"{path}: damaged: {_brief(error)}") from error
    manifest = Manifest.from_json(session.get_modelmeta().custom_metadata_map.get(KEY, ""), str(path))
    names = tuple(output.name for output in session.get_outputs())
    if names != manifest.outputs or [given.name for given in session.get_inputs()] != [INPUT]:
        raise UserError(f"{path}: damaged: its graph is not the one that it describes")

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {INPUT: x}), strict=True))

    return manifest, run


def pt2_runner(content: bytes, path: Path) -> tuple[Manifest, Runner]:
    """The manifest of a pt2 archive, and what runs it; see ``archive`` for what may be in it.

    Raises:
        UserError: Without torch, or when the file is not what ``export`` writes.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: a pt2 file needs torch: pip install torch, or export to ONNX") from None
    from . import archive

    try:
        text = archive.manifest(content)
        program = torch.export.load(io.BytesIO(content)).module()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # as many kinds as an archive has parts
        raise UserError(f"{path}: damaged: {_brief(error)}") from error

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {name: found.numpy() for name, found in program(torch.from_numpy(x)).items()}

    return Manifest.from_json(text, str(path)), run


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
