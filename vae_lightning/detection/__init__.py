"""From a score to a decision: thresholds, p-values, and the detector that holds them.

Stands on ``scores``; knows no training and no data module.
"""

from .detector import Detector
from .thresholds import LeakingPercentile, Percentile, Threshold

__all__ = ["Detector", "LeakingPercentile", "Percentile", "Threshold"]
