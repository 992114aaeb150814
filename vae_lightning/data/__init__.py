"""Data modules: they know of splits and batches, and of no model."""

from .base import ANOMALY, NORMAL, AnomalyDataModule, Part
from .corrupted import Corrupted
from .loader import Batch, Loader
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
