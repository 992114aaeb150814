"""Callbacks accumulate and log; what they compute with are functions."""

from .evidence import Evidence
from .latent import LatentMap, LatentMixture
from .metrics import DetectionMetrics
from .pictures import Pictures
from .predictions import Predictions

__all__ = ["DetectionMetrics", "Evidence", "LatentMap", "LatentMixture", "Pictures", "Predictions"]
