"""The variational autoencoder; β-VAE and annealing are arguments of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..scores.sharing import shared
from .annealing import Annealing, Constant
from .autoencoder import Autoencoder
from .likelihoods import Likelihood, full_precision
from .networks import Network


class VAE(Autoencoder):
    """Minimises −E_q[log p(x | z)] + β KL(q(z | x) ‖ p(z)), with q = N(μ, diag σ²) and p = N(0, I).

    Kingma and Welling 2014, "Auto-Encoding Variational Bayes", eq. 10; Higgins et al. 2017, "beta-VAE", eq. 4.
    β = 1 is the negative ELBO.

    Args:
        input_shape: Of one sample; the command line takes it from the data.
        network: Architecture of encoder and decoder.
        latent_dim: Size of z.
        likelihood: Of x given the decoder's output; ``Bernoulli`` for binary cross-entropy.
        beta: Weight of the KL term, a number or a schedule.
        **kwargs: Scores, threshold, optimizer and lr_scheduler, see ``AnomalyModel``.
    """

    posterior_parameters = 2

    def __init__(
        self,
        input_shape: list[int],
        network: Network | None = None,
        latent_dim: int = 20,
        likelihood: Likelihood | None = None,
        beta: float | Annealing = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape, network, latent_dim, likelihood, **kwargs)
        self.annealing = beta if isinstance(beta, Annealing) else Constant(beta)

    def beta_at(self, step: int, steps_per_epoch: int) -> float:
        return self.annealing(step, steps_per_epoch)

    @property
    def final_beta(self) -> float:
        return self.annealing.final

    def objective(self, x: Tensor, beta: float) -> dict[str, Tensor]:
        mu, logvar = self.posterior(self.corrupted(x))
        z = mu + (0.5 * logvar).exp() * self.noise(*mu.shape)  # reparameterisation: the gradient reaches μ and σ
        nll, kl = -self.likelihood.log_prob(self.decode(z), x), self.kl(mu, logvar)
        return {"loss": nll + beta * kl, self.likelihood.name: nll, "kl": kl}

    @shared
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² of q(z | x): (B, *input_shape) → 2 × (B, latent_dim)."""
        mu, logvar = full_precision(self.encoder(x)).chunk(2, dim=1)
        return mu, logvar

    @shared
    def encode(self, x: Tensor) -> Tensor:
        """The posterior mean: (B, *input_shape) → μ (B, latent_dim)."""
        return self.posterior(x)[0]

    @staticmethod
    def kl(mu: Tensor, logvar: Tensor) -> Tensor:
        """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ (μ² + σ² − 1 − log σ²) in nats: 2 × (B, latent_dim) → (B,)."""
        return VAE.kl_terms(mu, logvar).sum(1)

    @staticmethod
    def kl_terms(mu: Tensor, logvar: Tensor) -> Tensor:
        """What each latent dimension adds to it: 2 × (B, latent_dim) → (B, latent_dim)."""
        return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)

    def log_weights(self, x: Tensor, z: Tensor, noise: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
        """Log p(x | z) and log p(z) / q(z | x) in nats at z = μ + σ·noise, the factors of an importance weight.

        (B, *input_shape), z (k, B, latent_dim), noise (k, B or 1, latent_dim), (B, latent_dim) → 2 × (k, B).
        """
        log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(-1)
        return self.likelihood.log_prob(self.decode(z), x), log_ratio
