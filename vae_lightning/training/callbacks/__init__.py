"""Callbacks accumulate and log; what they compute with are functions."""

from .checked import Checked
from .evidence import Evidence
from .freeze import FreezeBatchNorm
from .kept import KeepBest
from .latent import LatentMap, LatentMixture
from .metrics import DetectionMetrics
from .pictures import Pictures
from .predictions import Predictions

__all__ = [
    "Checked",
    "DetectionMetrics",
    "Evidence",
    "FreezeBatchNorm",
    "KeepBest",
    "LatentMap",
    "LatentMixture",
    "Pictures",
    "Predictions",
]
