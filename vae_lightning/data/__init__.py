"""What is read, and how it is split into normal and anomalous, training, validation and test: a data module a source.

Data modules hand out batches of raw samples and say which preprocessing suits them; they know of no model, score or
trainer, and of ``detection`` nothing but ``preprocessing``.
"""

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
