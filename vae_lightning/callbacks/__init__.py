"""Callbacks accumulate and log; what they compute with are functions."""

from .metrics import DetectionMetrics
from .pictures import Pictures
from .predictions import Predictions

__all__ = ["DetectionMetrics", "Pictures", "Predictions"]
