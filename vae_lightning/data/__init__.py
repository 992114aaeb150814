"""What is read, and how it is split into normal and anomalous, training, validation and test: a data module a source.

Data modules hand out batches; they know of no model, score or trainer.
"""

from ..batch import ANOMALY, NORMAL, Batch
from .base import AnomalyDataModule, Part
from .corrupted import Corrupted
from .loader import Loader
from .synthetic import GaussianMixture
from .vision import MNIST, Digits, FashionMNIST

__all__ = [
    "ANOMALY",
    "MNIST",
    "NORMAL",
    "AnomalyDataModule",
    "Batch",
    "Corrupted",
    "Digits",
    "FashionMNIST",
    "GaussianMixture",
    "Loader",
    "Part",
]
