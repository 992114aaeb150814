"""From a raw sample to a decision: preprocessing, thresholds, p-values, and the detector that holds them.

Stands on ``scores``; knows no training and no data module.
"""

from .detector import Detector
from .preprocessing import Images, Preprocessing, Standardize, Unchanged
from .thresholds import LeakingPercentile, Percentile, Threshold

__all__ = [
    "Detector",
    "Images",
    "LeakingPercentile",
    "Percentile",
    "Preprocessing",
    "Standardize",
    "Threshold",
    "Unchanged",
]
