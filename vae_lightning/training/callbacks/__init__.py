"""Callbacks accumulate and log; what they compute with are functions."""

from .checked import Checked
from .evidence import Evidence
from .freeze import FreezeBatchNorm
from .latent import LatentMap, LatentMixture
from .metrics import DetectionMetrics
from .pictures import Pictures
from .predictions import Predictions

__all__ = [
    "Checked",
    "DetectionMetrics",
    "Evidence",
    "FreezeBatchNorm",
    "LatentMap",
    "LatentMixture",
    "Pictures",
    "Predictions",
]
