"""The baseline: reconstruct, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from ..detection.preprocessing import Preprocessing
from ..errors import UserError
from ..scores.sharing import shared
from .base import AnomalyModel
from .likelihoods import Likelihood, MeanSquaredError
from .networks import MLP, Network


class Autoencoder(AnomalyModel):
    """z = f(x), x̂ = E[x | g(z)]; minimises −log p(x | z).

    Args:
        input_shape: Of one sample; the command line takes it from the data.
        network: What encoder and decoder are made of.
        latent_dim: Size of z.
        likelihood: Of x given what the decoder emits; ``MeanSquaredError`` for the usual loss.
        **kwargs: Scores, threshold, preprocessing, optimizer and lr_scheduler, see :class:`AnomalyModel`.
    """

    posterior_parameters = 1  # numbers that the encoder emits for each latent dimension

    def __init__(
        self,
        input_shape: list[int],
        network: Network | None = None,
        latent_dim: int = 20,
        likelihood: Likelihood | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        if latent_dim < 1:
            raise UserError(f"model.init_args.latent_dim = {latent_dim} must be at least 1")
        network = network or MLP()
        self.latent_dim = latent_dim
        self.likelihood = copy.deepcopy(likelihood) or MeanSquaredError()
        self.likelihood.build(self.input_shape)
        self.likelihood.adopt(self.preprocessing)
        self.encoder = network.encoder(self.input_shape, self.posterior_parameters * latent_dim)
        self.decoder = network.decoder(latent_dim, self.likelihood.heads, self.input_shape)
        self.check_scores()  # again: only now is it known whether there are hidden layers

    def prepare_for(self, preprocessing: Preprocessing) -> None:
        self.likelihood.adopt(preprocessing)

    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        nll = -self.likelihood.log_prob(self.decode(self.encode(x)), x)
        return {"loss": nll, self.likelihood.name: nll}

    @shared
    def encode(self, x: Tensor) -> Tensor:
        """(B, *input_shape) → z (B, latent_dim)."""
        return self.encoder(x)

    @shared
    def hidden(self, x: Tensor) -> list[Tensor]:
        """Activations of the encoder's hidden layers: (B, *input_shape) → [(B, features), …]."""
        return self.encoder.hidden(x)

    @shared
    def decode(self, z: Tensor) -> Tensor:
        """Z (..., latent_dim) → parameters of the likelihood (..., heads, *input_shape)."""
        return self.decoder(z) if z.ndim == 2 else self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])

    @shared
    def reconstruct(self, x: Tensor) -> Tensor:
        return self.likelihood.reconstruction(self.decode(self.encode(x)), x)
