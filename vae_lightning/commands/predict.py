"""``vae-lightning predict``: scores, p-values and decisions of a checkpoint as a table."""

from __future__ import annotations

from typing import Any

FDR = "Decide by Benjamini and Hochberg's procedure: bounds the share of false alarms among all alarms, in (0, 1)."


def after(cli: Any) -> None:
    """Say where the table lies."""
    if cli.trainer.is_global_zero and not cli.tries:
        print(f"predictions  {cli.folder / 'predictions.csv'}")
