"""A mixture of Gaussians: its density is known, so results can be checked against it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from ..detection.preprocessing import Standardize
from ..errors import UserError
from .base import AnomalyDataModule
from .splits import Part


class SyntheticMixture(AnomalyDataModule):
    """Normal samples from several Gaussians, anomalies from one that is wider and shifted.

    Components are equally likely, with covariance ``variance``·I and means drawn once from N(0, ``spread``²·I).
    Classes 0 … ``components`` − 1 are the components; the last class is the anomalies.

    Args:
        samples: Of normal and anomalous samples together.
        features: Of each sample.
        components: Gaussians that normal samples come from.
        variance: Of a component, along each feature.
        spread: Standard deviation of the components' means, along each feature.
        anomaly_fraction: Share of anomalies, in (0, 1).
        anomaly_shift: Mean of the anomalies, along each feature.
        anomaly_variance: Of the anomalies, along each feature.
        test_fraction: Share of the samples, stratified by class, that is the test part.
        data_seed: Of the means and samples.
        **kwargs: The split, see ``AnomalyDataModule``.
    """

    preprocessing = Standardize()

    def __init__(
        self,
        samples: int = 10_000,
        features: int = 10,
        components: int = 3,
        variance: float = 0.5,
        spread: float = 1.0,
        anomaly_fraction: float = 0.02,
        anomaly_shift: float = 1.0,
        anomaly_variance: float = 1.0,
        test_fraction: float = 0.2,
        data_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        for key, value in (("samples", samples), ("features", features), ("components", components)):
            if value < 1:
                raise UserError(f"SyntheticMixture: {key} = {value} must be at least 1")
        if samples < 2 * (components + 1):
            raise UserError(
                f"SyntheticMixture: samples = {samples} must be at least {2 * (components + 1)}, two of each class"
            )
        for key, share in (("anomaly_fraction", anomaly_fraction), ("test_fraction", test_fraction)):
            if not 0 < share < 1:
                raise UserError(f"SyntheticMixture: {key} = {share} is not a share: give a number between 0 and 1")
        for key, scale in (("variance", variance), ("spread", spread), ("anomaly_variance", anomaly_variance)):
            if not 0 < scale < math.inf:
                raise UserError(f"SyntheticMixture: {key} = {scale} must be positive")
        self.samples, self.features, self.components = samples, features, components
        self.variance, self.spread = variance, spread
        self.anomaly_fraction, self.anomaly_shift, self.anomaly_variance = (
            anomaly_fraction,
            anomaly_shift,
            anomaly_variance,
        )
        self.test_fraction, self.data_seed = test_fraction, data_seed
        self.input_shape = [features]
        self.classes = [f"component {i}" for i in range(components)] + ["anomaly"]
        super().__init__(**kwargs)

    @property
    def default_anomaly_classes(self) -> list[int]:
        return [self.components]

    def means(self) -> Tensor:
        """The components' means, (components, features)."""
        generator = torch.Generator().manual_seed(self.data_seed)
        return self.spread * torch.randn(self.components, self.features, generator=generator)

    def density(self) -> MixtureSameFamily:
        """The density of normal samples, before standardisation."""
        components = Independent(Normal(self.means(), self.variance**0.5), 1)
        return MixtureSameFamily(Categorical(torch.ones(self.components)), components)

    def load(self) -> tuple[Part, Part]:
        generator = torch.Generator().manual_seed(self.data_seed + 1)
        n_anomalies = max(2, round(self.samples * self.anomaly_fraction))
        component = torch.randint(self.components, (self.samples - n_anomalies,), generator=generator)
        noise = torch.randn(self.samples, self.features, generator=generator)
        normal = self.means()[component] + self.variance**0.5 * noise[n_anomalies:]
        strange = self.anomaly_shift + self.anomaly_variance**0.5 * noise[:n_anomalies]
        x, target = (
            torch.cat([normal, strange]),
            torch.cat([component, component.new_full((n_anomalies,), self.components)]),
        )
        # half a second of every start, that other data need not take
        from sklearn.model_selection import train_test_split

        try:
            train, test = train_test_split(
                torch.arange(self.samples), test_size=self.test_fraction, stratify=target, random_state=self.data_seed
            )
        except ValueError:
            raise UserError(
                f"SyntheticMixture: samples = {self.samples} are too few for each of {len(self.classes)} classes to be "
                f"in both parts with test_fraction = {self.test_fraction}: raise either"
            ) from None
        return Part(x[train], target[train]), Part(x[test], target[test])
