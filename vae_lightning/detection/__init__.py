"""From a score to a decision: thresholds, p-values, and the detector that holds them.

Stands on ``scores``; knows no training and no data module.
"""

from .detector import Detector
from .thresholds import Conformal, LeakingPercentile, Percentile, Threshold

__all__ = ["Conformal", "Detector", "LeakingPercentile", "Percentile", "Threshold"]
