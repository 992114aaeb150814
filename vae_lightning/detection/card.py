"""What a detector is, for people: its card as text and as HTML."""

from __future__ import annotations

import html as markup
from typing import Any

from ..schema import Schema
from . import storage


def facts(detector: Any) -> dict[str, str]:
    """What a reader wants to know of a detector, by its name, in order."""
    model, about = detector.model, detector.model.trained_on
    prepares, shape = model.preprocessing, model.input_shape
    raw_shape = shape if prepares is None else prepares.raw_shape(shape)
    weights = sum(parameter.numel() for parameter in model.parameters())
    found = {"model": f"{type(model).__name__}, {weights:,} weights, samples of shape {_product(raw_shape)}"}
    if raw_shape != shape:
        found["prepared"] = f"{_product(shape)} features"
    if about.get("data"):
        found["trained on"] = f"{about['samples']:,} samples of {about['data']}"
    if about.get("normal"):
        found["normal"] = _listed(about["normal"])
    if detector.schema is not None:
        found |= _by_kind(detector.schema)
    elif about.get("columns"):
        found["columns"] = _listed(about["columns"])
    found["decides by"] = detector.names[0]
    if len(detector.names) > 1:
        found["scores too"] = ", ".join(detector.names[1:])
    found["threshold"] = detector.threshold.describe() if detector.calibrated else "none: it is not calibrated"
    found["versions"] = ", ".join(f"{name} {number}" for name, number in storage.versions().items())
    return found


def text(found: dict[str, str]) -> str:
    """A line a fact."""
    width = max(map(len, found))
    return "\n".join(["Detector", *(f"  {name:<{width}}  {fact}" for name, fact in found.items())])


def html(found: dict[str, str]) -> str:
    """A table, for a notebook."""
    rows = (f"<tr><th>{markup.escape(name)}</th><td>{markup.escape(fact)}</td></tr>" for name, fact in found.items())
    return f"<table><caption>Detector</caption>{''.join(rows)}</table>"


def _by_kind(schema: Schema) -> dict[str, str]:
    numbers = [column.name for column in schema if column.kind == "numeric"]
    categories = [f"{column.name} ({len(column.levels)} levels)" for column in schema if column.kind == "categorical"]
    kinds = {"numbers": numbers, "categories": categories}
    return {kind: f"{len(names)}: {_listed(names)}" for kind, names in kinds.items() if names}


def _product(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
