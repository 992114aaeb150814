"""Finding anomalies with autoencoders and variational autoencoders, on PyTorch Lightning.

The names that a notebook imports. Each is looked up when it is first asked for: the import itself takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import ANOMALY, NORMAL
    from .data import (
        MNIST,
        AnomalyDataModule,
        Arrays,
        Corrupted,
        Digits,
        FashionMNIST,
        Images,
        Part,
        SyntheticMixture,
        SyntheticTextures,
    )
    from .detection import Conformal, Detector, Percentile, Scores
    from .errors import UserError
    from .estimators import AutoencoderDetector, VAEDetector
    from .models import IWAE, VAE, AnomalyModel, Autoencoder, Ensemble, Grid
    from .models.likelihoods import Bernoulli, Gaussian, MeanSquaredError
    from .models.networks import MLP, Conv
    from .training.fitting import Run, fit
    from .training.trainer import Trainer

    __version__: str

_HOMES = {
    "batch": ("ANOMALY", "NORMAL"),
    "data": (
        "MNIST",
        "AnomalyDataModule",
        "Arrays",
        "Corrupted",
        "Digits",
        "FashionMNIST",
        "Images",
        "SyntheticMixture",
        "SyntheticTextures",
        "Part",
    ),
    "detection": ("Conformal", "Detector", "Percentile", "Scores"),
    "errors": ("UserError",),
    "estimators": ("AutoencoderDetector", "VAEDetector"),
    "models": ("IWAE", "VAE", "AnomalyModel", "Autoencoder", "Ensemble", "Grid"),
    "models.likelihoods": ("Bernoulli", "Gaussian", "MeanSquaredError"),
    "models.networks": ("MLP", "Conv"),
    "training.fitting": ("Run", "fit"),
    "training.trainer": ("Trainer",),
}
_MODULES = "data", "detection", "estimators", "models", "scores", "training"

__all__ = [
    "ANOMALY",
    "IWAE",
    "MLP",
    "MNIST",
    "NORMAL",
    "VAE",
    "AnomalyDataModule",
    "AnomalyModel",
    "Arrays",
    "Autoencoder",
    "AutoencoderDetector",
    "Bernoulli",
    "Conformal",
    "Conv",
    "Corrupted",
    "Detector",
    "Digits",
    "Ensemble",
    "FashionMNIST",
    "Gaussian",
    "Grid",
    "Images",
    "MeanSquaredError",
    "Part",
    "Percentile",
    "Run",
    "Scores",
    "SyntheticMixture",
    "SyntheticTextures",
    "Trainer",
    "UserError",
    "VAEDetector",
    "__version__",
    "fit",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value  # not asked again
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
