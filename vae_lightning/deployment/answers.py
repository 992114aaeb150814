"""What a server answers, as bytes: columns as JSON, CSV or Arrow, explanations as JSON."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrow import pyarrow
from .bodies import JSON

if TYPE_CHECKING:
    from ..detection.explanation import Explanation

CSV, ARROW = "text/csv", "application/vnd.apache.arrow.stream"


def answered(columns: dict[str, np.ndarray], notes: list[str], accept: str) -> tuple[bytes, str]:
    """A value of each column for each row, in the rows' order; and the media type.

    Args:
        columns: By their names.
        notes: For JSON alone.
        accept: The media types that the client takes; JSON if it names no other.
    """
    kind = next((kind for kind in (ARROW, CSV) if kind in accept), JSON)
    if kind == JSON:
        rows = len(next(iter(columns.values())))
        return as_json({"rows": rows, **columns, "notes": notes}), kind
    pa = pyarrow()
    batch, out = pa.record_batch({name: pa.array(column) for name, column in columns.items()}), io.BytesIO()
    if kind == CSV:
        from pyarrow import csv

        csv.write_csv(batch, out)
    else:
        with pa.ipc.new_stream(out, batch.schema) as writer:
            writer.write_batch(batch)
    return out.getvalue(), kind


def as_json(content: Any) -> bytes:
    """JSON, with null for what is no finite number: it has no word for infinity."""
    return json.dumps(_primitive(content), allow_nan=False, ensure_ascii=False).encode()


def _primitive(content: Any) -> Any:
    if isinstance(content, np.ndarray):
        listed = content.tolist()
        finite = content.dtype.kind in "biu" or (content.dtype.kind == "f" and np.isfinite(content).all())
        return listed if finite else [_primitive(value) for value in listed]
    if isinstance(content, dict):
        return {key: _primitive(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_primitive(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def explained(found: Explanation, k: int, images: bool) -> bytes:
    """The k first reasons of each row, and what its score is the sum of.

    Args:
        found: Of all rows.
        k: Reasons.
        images: Whether heat maps go with it, each as a PNG file in base64.
    """
    rows = [
        {
            "score": float(found.score[i]),
            "columns": float(found.contributions[i].sum()),
            "latent": float(found.latent[i].sum()),
            "base": float(found.base[i]),
            "gap": float(found.gap[i]),
            "reasons": [reason._asdict() for reason in found.reasons(i, k)],
            **({"heatmap": heatmap} if images and (heatmap := _heatmap(found, i)) else {}),
        }
        for i in range(len(found))
    ]
    return as_json({"rows": len(rows), "method": found.method, "explanations": rows})


def _heatmap(found: Explanation, row: int) -> str:
    from ..detection import heatmaps

    one = dataclasses.replace(found, contributions=found.contributions[row : row + 1])
    pixels = heatmaps.overlay(found.value[row], heatmaps.heat(one)[0], found.ceiling)
    return base64.b64encode(heatmaps.png(pixels)).decode()
