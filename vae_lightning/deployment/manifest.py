"""What an exported file says of itself: what it takes, what it gives, and a few samples with their scores."""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..decoding import Decoder
from ..errors import UserError
from ..schema import Schema

KEY = "vae_lightning"  # of the manifest in a file's metadata
FORMAT = 1
INPUT, OUTPUTS = "x", ("score", "p_value", "anomaly")
DTYPES = "uint8", "float32", "float64"


@dataclass(frozen=True)
class Canary:
    """A few raw samples and what the detector says of them, to see whether a file still says the same.

    Attributes:
        x: (n, *shape), as the detector takes them.
        score: float32 (n,), of the score that decides.
    """

    x: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Manifest:
    """What is needed to score with a detector's graph, and to know what its answers are worth.

    Attributes:
        model: What computes, in words.
        dtype: Of raw samples: uint8 for images, float32 or float64 for tables.
        shape: Of one raw sample.
        missing: Whether NaN stands for a missing value; else it is refused.
        schema: The table's columns; None for images, and for arrays without names.
        scores: Their names; the first one decides.
        rule: The threshold, in words.
        alpha: The rate of false alarms that it promises; None if it promises none.
        threshold: Alarm above this score; +∞ if nothing can raise an alarm.
        calibration: The number of calibration scores.
        spread: Their interquartile range: what a difference is small beside where a score is near 0.
        trained_on: On what data set, how many samples, which classes were normal, and how its files are read, as far
            as it is known.
        weights: SHA-256 of the state_dict.
        versions: Of the packages that wrote it.
        canary: None for a checkpoint.
    """

    model: str
    dtype: str
    shape: tuple[int, ...]
    missing: bool
    schema: Schema | None
    scores: tuple[str, ...]
    rule: str
    alpha: float | None
    threshold: float
    calibration: int
    spread: float
    trained_on: dict[str, Any]
    weights: str
    versions: dict[str, str]
    canary: Canary | None = None

    @property
    def decoder(self) -> Decoder:
        """How it reads image files.

        Raises:
            UserError: When it was not trained on any.
        """
        if self.trained_on.get("images") is None:
            raise UserError("the detector reads no image files: it was not trained on any: give it arrays")
        return Decoder.of(self.trained_on["images"])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the graph gives: ``score``, ``p_value``, ``anomaly``, and further scores by their own names."""
        return (*OUTPUTS, *self.scores[1:])

    def to_json(self) -> dict[str, Any]:
        """Primitives that any reader of JSON takes, for ``from_json``."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("schema", "canary")}
        content["schema"] = self.schema and self.schema.to_json()
        content["threshold"] = self.threshold if math.isfinite(self.threshold) else None  # JSON has no infinity
        if self.canary is not None:
            x = np.ascontiguousarray(self.canary.x, np.dtype(self.dtype).newbyteorder("<"))
            scores = [score if math.isfinite(score) else None for score in self.canary.score.tolist()]
            content["canary"] = {"x": base64.b64encode(x.tobytes()).decode(), "score": scores}
        return {"format": FORMAT, **content, "shape": list(self.shape), "scores": list(self.scores)}

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Manifest:
        """The manifest that ``to_json`` gave.

        Args:
            text: JSON.
            where: What messages call the file.

        Raises:
            UserError: When it is anything else, or of a later format.
        """
        try:
            content = json.loads(text)
            written = content.pop("format")
        except (ValueError, AttributeError, KeyError, TypeError):
            raise UserError(f"{where}: not a detector that `export` wrote: give another file") from None
        if written != FORMAT:
            writer = content["versions"].get(KEY) if isinstance(content.get("versions"), dict) else None
            raise UserError(
                f"{where}: exported by vae_lightning {writer or 'of another version'} in format {written}; this one "
                f"reads formats up to {FORMAT}: install that version, or export it again"
            )
        try:
            return cls(**_checked(content))
        except (UserError, KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise UserError(f"{where}: damaged: its description is not what it should be ({error})") from error


_KINDS: dict[str, Any] = {
    "model": str,
    "dtype": str,
    "shape": list,
    "missing": bool,
    "schema": (dict, type(None)),
    "scores": list,
    "rule": str,
    "alpha": (float, type(None)),
    "threshold": (float, type(None)),
    "calibration": int,
    "spread": float,
    "trained_on": dict,
    "weights": str,
    "versions": dict,
}


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a manifest out of its JSON; raises whatever is at hand for what is none."""
    for key, kind in _KINDS.items():
        if not isinstance(content[key], kind):
            raise ValueError(f"{key} = {str(content[key])[:80]}")
    if content["dtype"] not in DTYPES or not all(type(n) is int and n > 0 for n in content["shape"]):
        raise ValueError(f"samples of shape {content['shape']}, {content['dtype']}")
    if not content["scores"] or not all(isinstance(name, str) for name in content["scores"]):
        raise ValueError(f"scores = {content['scores']}")
    schema = content["schema"] and Schema.from_json(content["schema"])
    if schema is not None and (content["shape"] != [len(schema)] or content["dtype"] != schema.dtype):
        raise ValueError("a schema of other rows")
    if (images := content["trained_on"].get("images")) is not None and Decoder.of(images).shape != (*content["shape"],):
        raise ValueError("images of another shape")
    threshold = math.inf if content["threshold"] is None else content["threshold"]
    fitted = {"shape": tuple(content["shape"]), "scores": tuple(content["scores"]), "threshold": threshold}
    canary = content.get("canary")
    if canary is not None:
        x = np.frombuffer(base64.b64decode(canary["x"], validate=True), np.dtype(content["dtype"]).newbyteorder("<"))
        scores = np.array([math.inf if score is None else score for score in canary["score"]], np.float32)
        canary = Canary(x.astype(content["dtype"]).reshape(len(scores), *content["shape"]), scores)
    return {**{key: content[key] for key in _KINDS}, **fitted, "schema": schema, "canary": canary}
