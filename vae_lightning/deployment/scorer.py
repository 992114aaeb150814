"""Scores out of a file: an exported detector, without torch where it is ONNX, or a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import UserError
from ..schema import Encoded, Schema
from . import runners, seal
from .manifest import Manifest
from .tolerance import TOLERANCE, difference

if TYPE_CHECKING:
    from ..detection import Detector
    from ..detection.explainer import Explainer
    from ..detection.explanation import Explanation

BATCH_SIZE = 1024  # samples at once, as the Detector's
# neither its reconstructions nor its gradients are in the file, and nothing is told that is not the detector's own
NO_REASONS = "an exported file gives scores and no reasons: explanations need the checkpoint that it was made of"


class Scorer:
    """Takes raw samples to scores, p-values and decisions, by a file alone: all that it needs to know is in there.

    Scores are the detector's to rounding: the file was compared with it when it was written.

    Args:
        path: What ``export`` has written, ``.onnx`` or ``.pt2``; or a checkpoint, a run's folder, ``best`` or ``last``.
        threads: That ONNX may use; None for as many as there are cores. Torch's own are set by torch.
        batch_size: Samples that go through the network at once.

    Attributes:
        manifest: What the detector takes and gives.
        detector: Of a checkpoint; None for an exported file.

    Raises:
        UserError: When the file is damaged, of another version or no detector, or lacks a package that it needs.
    """

    def __init__(self, path: str | Path, threads: int | None = None, batch_size: int = BATCH_SIZE) -> None:
        self.path, self.batch_size = str(path), batch_size
        self.manifest, self._run, self.detector = _opened(path, threads)
        self._noted: set[str] = set()
        self._explainer: Explainer | None = None

    @property
    def schema(self) -> Schema | None:
        """The columns that it takes; None for images and for arrays without names."""
        return self.manifest.schema

    def __call__(self, samples: Any, first_row: int = 0) -> dict[str, np.ndarray]:
        """``score``, ``p_value`` (float32) and ``anomaly`` (bool) of N samples, further scores by their names; (N,).

        Args:
            samples: See ``encode``.
            first_row: Where the first one stands in the whole, for messages.

        Raises:
            UserError: As ``encode`` does.
        """
        return self.run(self.encode(samples, first_row))

    def run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The same of samples that ``encode`` gave."""
        if not len(x):
            kinds = {"anomaly": np.bool_}
            return {name: np.empty(0, kinds.get(name, np.float32)) for name in self.manifest.outputs}
        parts = [self._run(x[start : start + self.batch_size]) for start in range(0, len(x), self.batch_size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.manifest.outputs}

    def explain(self, x: np.ndarray) -> Explanation:
        """Why samples that ``encode`` gave score as they do, by the score that decides.

        Raises:
            UserError: For an exported file.
        """
        self.check_explains()
        if self._explainer is None:
            from ..detection.explainer import Explainer

            self._explainer = Explainer(cast("Detector", self.detector))
        return self._explainer.run(x)

    def check_explains(self) -> None:
        """Raise a UserError if it gives scores and no reasons: an exported file does not."""
        if self.detector is None:
            raise UserError(f"{self.path}: {NO_REASONS}")

    def encode(self, samples: Any, first_row: int = 0) -> np.ndarray:
        """Samples as the graph takes them, (N, *shape) of the manifest's dtype.

        Args:
            samples: A table with the schema's columns (a dict of arrays or lists, a DataFrame, pyarrow's), in any
                order; or an array of raw samples (N, *shape), categories as codes.
            first_row: Where the first one stands in the whole, for messages.

        Raises:
            UserError: When samples have the wrong shape, type or columns; for infinite numbers, and for missing ones
                where the detector was trained on none.
        """
        found: Encoded = self.encoded(samples, first_row)
        self._note(found.unknown, found.extra)
        x: np.ndarray = found.x
        return x

    def encoded(self, samples: Any, first_row: int = 0) -> Encoded:
        """The same, with what is worth a note in place of a warning."""
        if self.schema is not None:
            found = self.schema.encode_array(samples, first_row)
        else:
            found = Encoded(self._array(samples), {}, [])
        if found.x.dtype.kind == "f":
            self._check_numbers(found.x, first_row)
        return found

    def check(self) -> None:
        """Score the few samples that the file holds.

        Raises:
            UserError: When they do not get the scores that they got when it was exported.
        """
        if (canary := self.manifest.canary) is not None:
            far = difference(self.run(canary.x)["score"], canary.score, self.manifest.spread)
            if not far.max(initial=0) <= TOLERANCE:
                raise UserError(f"{self.path}: scores differ from those where it was exported, by {far.max():.1g}")

    def _array(self, samples: Any) -> np.ndarray:
        x, wanted, shape = np.asarray(samples), np.dtype(self.manifest.dtype), self.manifest.shape
        if not (x.dtype == wanted or (wanted == np.float64 and x.dtype.kind in "iufb")):
            raise UserError(f"the detector takes {wanted}, not {x.dtype} of shape {list(x.shape)}")
        if x.shape[1:] != shape:
            raise UserError(f"the detector takes shape [samples, {', '.join(map(str, shape))}], not {list(x.shape)}")
        return np.ascontiguousarray(x, wanted)

    def _check_numbers(self, x: np.ndarray, first_row: int) -> None:
        bad = np.isinf(x) if self.manifest.missing else ~np.isfinite(x)
        if bad.any():
            row, *place = np.argwhere(bad)[0].tolist()
            column = self.schema.names[place[0]] if self.schema else ", ".join(map(str, place))
            raise UserError(
                f"row {first_row + row}, column {column} is {x[(row, *place)]}: fill it in, or leave the row out"
            )

    def _note(self, unknown: dict[str, int], extra: Sequence[str]) -> None:
        """Once for each column: what was never seen, and what is not looked at."""
        notes = {f"column {name!r}: {n} values were never seen in training" for name, n in unknown.items()}
        if extra:
            notes.add(f"columns that the detector does not know are left out: {', '.join(extra)}")
        for note in sorted(note for note in notes if note.split(":")[0] not in self._noted):
            self._noted.add(note.split(":")[0])
            warnings.warn(note, stacklevel=4)


def _opened(path: str | Path, threads: int | None) -> tuple[Manifest, runners.Runner, Detector | None]:
    file = Path(path)
    content = file.read_bytes() if file.is_file() else b""
    if file.suffix not in (".onnx", ".pt2") and seal.sealed_as(content) is None:
        return _checkpoint(path)
    if not file.is_file():
        raise UserError(f"{file}: there is no such file: give a file that `export` wrote, or a checkpoint")
    if seal.check(content, file) == "onnx":
        return *runners.onnx_runner(content, file, threads), None
    return *runners.pt2_runner(content, file), None


def _checkpoint(path: str | Path) -> tuple[Manifest, runners.Runner, Detector]:
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: no exported detector, and a checkpoint needs torch: pip install torch") from None
    from ..detection import Detector
    from .export import manifest_of

    detector = Detector.load(path)
    detector.check_calibrated()
    manifest = manifest_of(detector)

    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        found = detector(torch.from_numpy(x))
        each = {name: column.numpy() for name, column in found.each.items()}
        named = {"score": found.score.numpy(), "p_value": found.p_value.numpy(), "anomaly": found.anomaly.numpy()}
        return {**named, **{name: each[name] for name in manifest.scores[1:]}}

    return manifest, run, detector
