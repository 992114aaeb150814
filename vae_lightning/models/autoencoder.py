"""The autoencoder, the baseline."""

from __future__ import annotations

import copy
from typing import Any

import torch
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
        network: Architecture of encoder and decoder.
        latent_dim: Size of z.
        likelihood: Of x given the decoder's output; ``MeanSquaredError`` is the usual loss.
        swap: Share of a sample's features that come from another sample of the batch in training, in [0, 1): the
            network must restore them, and so learns which go together (Vincent et al. 2008, "Extracting and Composing
            Robust Features with Denoising Autoencoders", with the noise of Yoon et al. 2020, "VIME").
        **kwargs: Scores, threshold, preprocessing, optimizer and lr_scheduler, see ``AnomalyModel``.
    """

    posterior_parameters = 1  # numbers that the encoder emits for each latent dimension

    def __init__(
        self,
        input_shape: list[int],
        network: Network | None = None,
        latent_dim: int = 20,
        likelihood: Likelihood | None = None,
        swap: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, **kwargs)
        if not 0 <= swap < 1:
            raise UserError(f"model.init_args.swap = {swap} is not a share: give a number from 0 to below 1")
        self.swap = swap
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
        nll = -self.likelihood.log_prob(self.decode(self.encode(self.corrupted(x))), x)
        return {"loss": nll, self.likelihood.name: nll}

    def corrupted(self, x: Tensor) -> Tensor:
        """What the encoder is given in training: x with a share ``swap`` of its features out of other samples."""
        if not (self.swap and self.training):
            return x
        swapped = torch.rand(x.shape, generator=self.generator, device=x.device) < self.swap
        return torch.where(swapped, x[torch.randperm(len(x), generator=self.generator, device=x.device)], x)

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
