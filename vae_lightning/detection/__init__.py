"""From a raw sample to a decision: preprocessing, thresholds and p-values, and the detector that holds it all.

Stands on ``scores``; knows no training and no data module. A model is anything with ``preprocessing``, ``scores`` and
``thresholds``.
"""

from .columns import Columns
from .conformal import benjamini_hochberg
from .detector import Detector
from .explainer import Explainer
from .explanation import Explanation
from .graph import Scores
from .preprocessing import Images, Preprocessing, Standardize, Unchanged
from .thresholds import Conformal, LeakingPercentile, Percentile, Threshold

__all__ = [
    "Columns",
    "Conformal",
    "Detector",
    "Explainer",
    "Explanation",
    "Images",
    "LeakingPercentile",
    "Percentile",
    "Preprocessing",
    "Scores",
    "Standardize",
    "Threshold",
    "Unchanged",
    "benjamini_hochberg",
]
