"""What counts as anomalous: a score a class, a family of scores a file.

A score is a function of a model and a batch, ``(model, x) → (B,)``, higher is more anomalous. It asks the model for
its code, its reconstruction and the like, and may be fitted on normal samples. Scores know no data module, no threshold
and no trainer; they import nothing of this package but ``errors``.
"""

from .base import Score
from .combined import Combined
from .contributions import Contributions
from .corrected import InputComplexity, LikelihoodRegret
from .features import latent_features
from .latent import KNearestNeighbours, LatentDensity, Mahalanobis
from .likelihood import ImportanceWeighted, NegativeELBO, NegativeLogLikelihood, ReconstructionProbability
from .maps import Mapped, PatchError
from .neighbours import Neighbours
from .noise import sample_noise
from .patches import PatchEnergy
from .pathway import NAP, SAP, differences
from .reconstruction import ReconstructionError
from .standardized import Standardized

__all__ = [
    "NAP",
    "SAP",
    "Combined",
    "Contributions",
    "ImportanceWeighted",
    "InputComplexity",
    "KNearestNeighbours",
    "LatentDensity",
    "LikelihoodRegret",
    "Mahalanobis",
    "Mapped",
    "NegativeELBO",
    "NegativeLogLikelihood",
    "Neighbours",
    "PatchEnergy",
    "PatchError",
    "ReconstructionError",
    "ReconstructionProbability",
    "Score",
    "Standardized",
    "differences",
    "latent_features",
    "sample_noise",
]
