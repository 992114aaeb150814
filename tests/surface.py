"""What the tests of scores share: every score, samples near a bent surface, and a small VAE of them."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vae_lightning.models import VAE
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP
from vae_lightning.scores import (
    NAP,
    SAP,
    Combined,
    ImportanceWeighted,
    InputComplexity,
    KNearestNeighbours,
    LatentDensity,
    LikelihoodRegret,
    Mahalanobis,
    NegativeELBO,
    NegativeLogLikelihood,
    Neighbours,
    ReconstructionError,
    ReconstructionProbability,
    Score,
    Standardized,
)

# A new score costs one line here.
SCORES: dict[str, Callable[[], Score]] = {
    "ReconstructionError": ReconstructionError,
    "NegativeLogLikelihood": NegativeLogLikelihood,
    "NegativeELBO": NegativeELBO,
    "NegativeELBO-samples": lambda: NegativeELBO(samples=16),
    "ImportanceWeighted": lambda: ImportanceWeighted(k=20),
    "ReconstructionProbability": ReconstructionProbability,
    "LikelihoodRegret": lambda: LikelihoodRegret(steps=20),
    "InputComplexity": lambda: InputComplexity(compressor="zlib"),
    "SAP": SAP,
    "SAP-hidden": lambda: SAP(["hidden"]),
    "NAP": NAP,
    "Mahalanobis": Mahalanobis,
    "Mahalanobis-errors": lambda: Mahalanobis(["code", "difference", "errors"]),
    "LatentDensity": lambda: LatentDensity(components=4),
    "LatentDensity-several": lambda: LatentDensity([1, 4, 8]),
    "LatentDensity-errors": lambda: LatentDensity(2, ["code", "difference", "errors", "blocks"]),
    "KNearestNeighbours": KNearestNeighbours,
    "Neighbours": Neighbours,
    "Neighbours-code": lambda: Neighbours("code", k=3),
    "Standardized": lambda: Standardized(NegativeELBO()),
    "Standardized-fitted": lambda: Standardized(Mahalanobis()),
    "Combined": lambda: Combined([ReconstructionError(), NAP(), LatentDensity(components=2)]),
    "Combined-nested": lambda: Combined([Combined([SAP(), NAP()]), ImportanceWeighted(k=3)], weights=[1.0, 2.0]),
}


def samples(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Points near a bent surface of two dimensions in ten, in [0, 1]; shifted ones lie on it, but elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, 2, generator=generator) + shift
    angles = torch.arange(10) * 0.6
    surface = (3 * (z - 0.5) @ torch.stack([angles.cos(), angles.sin()])).sigmoid()
    return (surface + 0.01 * torch.randn(n, 10, generator=generator)).clamp(0, 1)


@functools.cache
def surface_model() -> VAE:
    """Trained on samples for a moment; not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE([10], network=MLP([32, 16]), latent_dim=2, likelihood=Gaussian(0.01), beta=1.0)
        x, optimizer = samples(1000, 0), torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(600):
            loss = model.objective(x, 1.0)["loss"].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.zero_grad()
    return model.eval()


class Scoring(torch.nn.Module):
    """A score of a model as a module."""

    def __init__(self, model: Any, score: Score) -> None:
        super().__init__()
        self.model, self.score = model, score

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.model, x)


def exported(model: Any, score: Score, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What torch.export makes of a score, for batches of any size; x is an example of two samples or more."""
    return torch.export.export(Scoring(model, score), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
