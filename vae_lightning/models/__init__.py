"""A LightningModule per model."""

from .autoencoder import Autoencoder
from .base import AnomalyModel
from .iwae import IWAE
from .vae import VAE

__all__ = ["IWAE", "VAE", "AnomalyModel", "Autoencoder"]
