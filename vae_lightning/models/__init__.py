"""A LightningModule per model."""

from .autoencoder import Autoencoder
from .base import AnomalyModel
from .vae import VAE

__all__ = ["VAE", "AnomalyModel", "Autoencoder"]
