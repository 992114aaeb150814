"""The importance weighted autoencoder: a VAE with a tighter bound."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..errors import UserError
from .annealing import Annealing
from .likelihoods import Likelihood
from .networks import Network
from .vae import VAE


class IWAE(VAE):
    """Minimises −E log 1/k Σᵢ p(x | zᵢ) [p(zᵢ) / q(zᵢ | x)]^β with z₁ … z_k drawn from q(z | x).

    Burda, Grosse and Salakhutdinov 2016, "Importance Weighted Autoencoders", eq. 8. At β = 1 the bound lies between the
    ELBO, which it is in expectation for k = 1, and log p(x), to which it rises with k.

    The gradient is the doubly reparameterised one: unbiased, and without the part that goes through q's own density,
    which is zero on average and noise near the optimum. Tucker et al. 2019, "Doubly Reparameterized Gradient Estimators
    for Monte Carlo Objectives", eq. 8, here with β; for k = 1 that of Roeder et al. 2017, "Sticking the Landing".

    The logged likelihood is the mean over the k samples, the logged KL is exact; the loss is below their sum.

    Args:
        input_shape: Of one sample; the command line takes it from the data.
        network: Architecture of encoder and decoder.
        latent_dim: Size of z.
        likelihood: Of x given the decoder's output.
        beta: Weight of the prior-to-posterior ratio, a number or a schedule; 1 for a bound on log p(x).
        k: Samples of z for each x.
        **kwargs: Scores, threshold, optimizer and lr_scheduler, see ``AnomalyModel``.

    Raises:
        UserError: When k is below 1.
    """

    def __init__(
        self,
        input_shape: list[int],
        network: Network | None = None,
        latent_dim: int = 20,
        likelihood: Likelihood | None = None,
        beta: float | Annealing = 1.0,
        k: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, network, latent_dim, likelihood, beta, **kwargs)
        if k < 1:
            raise UserError(f"model.init_args.k = {k} must be at least 1")
        self.k = k

    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        mu, logvar = self.posterior(self.corrupted(x))
        noise = self.noise(self.k, *mu.shape)
        z = mu + (0.5 * logvar).exp() * noise
        if z.requires_grad:  # the same noise, but out of z: log q(z | x) reaches μ and σ through z alone
            noise = noise + (z - z.detach()) * (-0.5 * logvar.detach()).exp()
        log_p, log_ratio = self.log_weights(x, z, noise, logvar.detach())
        log_weight = log_p + beta * log_ratio
        if z.requires_grad:
            scale = 1 - beta * (1 - log_weight.detach().softmax(0))
            z.register_hook(lambda gradient: gradient * scale.unsqueeze(-1))
        bound = log_weight.logsumexp(0) - math.log(self.k)
        return {"loss": -bound, self.likelihood.name: -log_p.mean(0), "kl": self.kl(mu, logvar)}
