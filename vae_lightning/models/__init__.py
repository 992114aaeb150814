"""What is trained: a LightningModule a model, and what it is built of: networks, likelihoods, annealing.

Stands on ``detection`` and ``scores``; knows no data module, command or trainer but Lightning's.
"""

from .autoencoder import Autoencoder
from .base import AnomalyModel
from .ensemble import Ensemble
from .grid import Grid
from .iwae import IWAE
from .mixed import Mixed
from .vae import VAE

__all__ = ["IWAE", "VAE", "AnomalyModel", "Autoencoder", "Ensemble", "Grid", "Mixed"]
