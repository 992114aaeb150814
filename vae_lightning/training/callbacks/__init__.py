"""What happens beside the training: metrics, pictures, predictions, frozen batch norm. One callback a file.

Callbacks accumulate and log; what they compute with are functions. They see models, data and scores as these show
themselves to anyone, and know of no command. One that can refuse a run before it starts is a ``Checked``.
"""

from .checked import Checked
from .evidence import Evidence
from .freeze import FreezeBatchNorm
from .kept import KeepBest
from .latent import LatentMap, LatentMixture
from .metrics import DetectionMetrics
from .pictures import Pictures
from .pixels import PixelMetrics
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
    "PixelMetrics",
    "Predictions",
]
