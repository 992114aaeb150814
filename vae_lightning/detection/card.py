"""What a detector is, for the eye: its card as text and as HTML."""

from __future__ import annotations

import html as markup
from typing import Any

from . import storage


def facts(detector: Any) -> dict[str, str]:
    """What a reader wants to know of a detector, by its name, in order."""
    model, about = detector.model, detector.model.trained_on
    shape = " × ".join(map(str, model.input_shape))
    weights = sum(parameter.numel() for parameter in model.parameters())
    found = {"model": f"{type(model).__name__}, {weights:,} weights, samples of shape {shape}"}
    if about.get("data"):
        found["trained on"] = f"{about['samples']:,} samples of {about['data']}"
    if about.get("normal"):
        found["normal"] = _listed(about["normal"])
    if about.get("columns"):
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


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
