"""A detector as one file that needs none of this package: raw samples to scores, p-values and decisions."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..detection import Detector, card, storage
from ..errors import UserError
from ..files import whole, write_whole
from ..schema import Column, Schema
from . import archive, runners, seal, verification
from .manifest import INPUT, KEY, Canary, Manifest

CHECKED = 64  # calibration samples that the file is checked with
KNOWN = "data", "samples", "normal", "images", "id", "delimiter", "missing", "beside"  # of what it was trained on
CANARY = 4  # calibration samples in the file, for whoever loads it to check


class Exported(nn.Module):
    """The detector's graph with names for what it gives, those of ``outputs``."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector.graph  # `graph` is a name that torch.fx needs itself

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.detector(x)
        _, *others = found.each.items()
        return {"score": found.score, "p_value": found.p_value, "anomaly": found.anomaly, **dict(others)}


def export(detector: Detector, path: str | Path, form: seal.Format = "onnx", canary: int = CANARY) -> dict[str, Any]:
    """Write a detector as ONNX or as a pt2 archive, once the written file is known to decide as the detector does.

    It gets its name only then. Beside it lies its card, ``<name>.json``: the manifest, and the result of the check.

    Args:
        detector: Calibrated, on the CPU.
        path: Of the file.
        form: ``onnx`` or ``pt2``.
        canary: How many raw calibration samples the file holds, for whoever loads it to check; 0 keeps them all secret.

    Returns:
        The card.

    Raises:
        UserError: When a score cannot be exported, a package is missing, there are no calibration samples to check it
            with, or the file scores otherwise than the detector. Nothing is left behind then.
    """
    path = Path(path)
    detector.check_calibrated()
    for name, score in detector.model.scores.items():
        if score.export_refusal:
            raise UserError(
                f"{name} cannot be exported: {score.export_refusal}: score with the checkpoint, or leave it out"
            )
    rows, manifest = _canary(detector), manifest_of(detector)
    if canary:
        score = detector(torch.from_numpy(rows[:canary])).score.numpy()
        manifest = dataclasses.replace(manifest, canary=Canary(rows[:canary], score))
    with _quiet(), torch.no_grad():
        program = _traced(detector, manifest)
        content = seal.seal(_onnx(program, manifest) if form == "onnx" else _pt2(program, manifest), form)
    about: dict[str, Any] = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    with whole(path) as temporary:
        temporary.write_bytes(content)
        about["checked"] = _verified(detector, temporary, form, rows)._asdict()
        about |= manifest.to_json()
        write_whole(path.with_name(f"{path.name}.json"), json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return about


def manifest_of(detector: Detector) -> Manifest:
    """What a detector takes and gives, in the words of an exported file."""
    model, threshold, about = detector.model, detector.threshold, detector.model.trained_on
    schema, dtype = _input(detector)
    return Manifest(
        model=card.facts(detector)["model"],
        dtype=dtype,
        shape=tuple(model.preprocessing.raw_shape(model.input_shape)),
        missing=model.preprocessing.takes_missing,
        schema=schema,
        scores=tuple(detector.names),
        rule=threshold.describe(),
        alpha=detector.alpha,
        threshold=threshold.value.item(),
        calibration=threshold.samples,
        spread=verification.spread(threshold),
        trained_on={key: about[key] for key in KNOWN if about.get(key)},
        weights=_sha256(model.state_dict()),
        versions=storage.versions(),
    )


def _input(detector: Detector) -> tuple[Schema | None, str]:
    """The columns of raw samples, if they have names, and their type."""
    columns = detector.columns
    if detector.schema is not None:
        return detector.schema, detector.schema.dtype
    known = detector.model.preprocessing.dtypes
    # the widest of what it takes: any number that the detector takes is the same number in there
    dtype = torch.float64 if torch.float64 in known else known[0]
    if columns is None or len(detector.model.input_shape) != 1:
        return None, str(dtype).removeprefix("torch.")
    schema = Schema(tuple(Column(name) for name in columns), "float64" if dtype == torch.float64 else "float32")
    return schema, schema.dtype


def _canary(detector: Detector) -> np.ndarray:
    """The raw calibration samples that the detector keeps, as its graph is given them."""
    rows = getattr(detector.model, "canary", None)
    if not isinstance(rows, Tensor) or not len(rows):
        raise UserError(f"the detector holds no calibration samples to check the file with: {storage.RECALIBRATE}")
    _, dtype = _input(detector)
    return rows[:CHECKED].to(getattr(torch, dtype)).numpy()


def _traced(detector: Detector, manifest: Manifest) -> torch.export.ExportedProgram:
    """The graph for any number of samples, without a word on the machine and the folders where it was made."""
    # of two and more samples: a graph of one is a graph for one alone; and zeros, for the file keeps them
    example = torch.zeros(3, *manifest.shape, dtype=getattr(torch, manifest.dtype))
    shapes = {INPUT: {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(Exported(detector).eval(), (example,), dynamic_shapes=shapes, strict=False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(key, None)
    return program


def _onnx(program: torch.export.ExportedProgram, manifest: Manifest) -> bytes:
    try:
        import onnxruntime  # noqa: F401 (to check the file with)
        from onnxscript import opset18 as op
    except ImportError as error:
        raise UserError(f"export to ONNX needs {error.name}: pip install 'vae_lightning[export]'") from None
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": list(manifest.outputs)}

    def log_sigmoid(x: Any) -> Any:
        """Without the logarithm of 0 that torch's own translation takes below −88."""
        return op.Neg(op.Softplus(op.Neg(x)))

    names["custom_translation_table"] = {torch.ops.aten.log_sigmoid.default: log_sigmoid}
    exported = torch.onnx.export(program, dynamo=True, external_data=False, verbose=False, **names)
    assert exported is not None
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # which of torch's lines made it, on whose machine
    exported.model.metadata_props[KEY] = json.dumps(manifest.to_json())
    return exported.model_proto.SerializeToString()


def _pt2(program: torch.export.ExportedProgram, manifest: Manifest) -> bytes:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={archive.EXTRA: json.dumps(manifest.to_json())})
    return content.getvalue()


def _verified(detector: Detector, file: Path, form: seal.Format, rows: np.ndarray) -> verification.Verified:
    """The result of checking the written file."""
    content = file.read_bytes()
    seal.check(content, file)
    manifest, run = runners.onnx_runner(content, file) if form == "onnx" else runners.pt2_runner(content, file)
    try:
        return verification.verify(detector, manifest, run, rows)
    except UserError as error:
        raise UserError(f"the {form} file is not the detector, and is not kept: {error}") from error


def _sha256(state: dict[str, Tensor]) -> str:
    """Of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on themselves."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
