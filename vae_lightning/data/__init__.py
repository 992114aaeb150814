"""What is read, and how it is split into normal and anomalous, training, validation and test: a data module a source.

Data modules hand out batches of raw samples and say which preprocessing suits them; they know of no model, score or
trainer, and of ``detection`` nothing but ``preprocessing``.

All of them are imported when one is asked for, as configurations name any of them; files can be read without: see
``readers``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..batch import ANOMALY, NORMAL, Batch
    from .adbench import ADBench
    from .arrays import Arrays
    from .base import AnomalyDataModule
    from .corrupted import Corrupted
    from .folder import Images
    from .loader import Loader
    from .splits import Part
    from .synthetic import SyntheticMixture
    from .table import Table
    from .textures import SyntheticTextures
    from .vision import MNIST, Digits, FashionMNIST

_HOMES = {
    "..batch": ("ANOMALY", "NORMAL", "Batch"),
    ".adbench": ("ADBench",),
    ".arrays": ("Arrays",),
    ".base": ("AnomalyDataModule",),
    ".corrupted": ("Corrupted",),
    ".folder": ("Images",),
    ".loader": ("Loader",),
    ".splits": ("Part",),
    ".synthetic": ("SyntheticMixture",),
    ".table": ("Table",),
    ".textures": ("SyntheticTextures",),
    ".vision": ("MNIST", "Digits", "FashionMNIST"),
}

__all__ = [
    "ANOMALY",
    "MNIST",
    "NORMAL",
    "ADBench",
    "AnomalyDataModule",
    "Arrays",
    "Batch",
    "Corrupted",
    "Digits",
    "FashionMNIST",
    "Images",
    "Loader",
    "Part",
    "SyntheticMixture",
    "SyntheticTextures",
    "Table",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for home, names in _HOMES.items():
        module = importlib.import_module(home, __name__)
        globals().update({known: getattr(module, known) for known in names})
    return globals()[name]
