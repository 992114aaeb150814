"""Callbacks accumulate and log; what they compute with are functions."""

from .latent import LatentMap, LatentMixture
from .metrics import DetectionMetrics
from .pictures import Pictures
from .predictions import Predictions

__all__ = ["DetectionMetrics", "LatentMap", "LatentMixture", "Pictures", "Predictions"]
