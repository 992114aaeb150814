"""What the tests of mixed columns share: payments as a data set, its schema counted by hand, and a detector of them."""

from collections import Counter
from typing import Any

import numpy as np
import torch

from vae_lightning import fit
from vae_lightning.data import AnomalyDataModule, Part
from vae_lightning.data.records import ANOMALIES, records
from vae_lightning.detection import Columns, Detector
from vae_lightning.models import VAE, Mixed
from vae_lightning.models.networks import MLP
from vae_lightning.schema import Column, Schema
from vae_lightning.scores import NegativeELBO, NegativeLogLikelihood, ReconstructionError

NUMBERS = ["hour", "amount", "items", "tip", "distance", "card_days"]
CATEGORIES = ["merchant", "kind", "country", "currency", "entry"]


class Payments(AnomalyDataModule):
    """Payments, trained on normal ones."""

    def __init__(self, rows: int = 1000, levels: int = 60, transform: Any = "none", **kwargs: Any) -> None:
        self.train, self.test = records(rows), records(400, anomalies=0.5, seed=1)
        columns = [Column(name) for name in NUMBERS]
        for name in CATEGORIES:
            words = tuple(word for word, _ in Counter(self.train[name].tolist()).most_common())
            columns.append(Column(name, "categorical", words[:levels], words[levels:]))
        self.schema = Schema(tuple(columns))
        gaps = [i for i, name in enumerate(NUMBERS) if np.isnan(self.train[name]).any()]
        self.preprocessing = Columns([column.codes for column in columns], gaps, transform)
        self.input_shape, self.classes = [self.preprocessing.width], ["normal", *ANOMALIES]
        super().__init__(**kwargs)

    def load(self) -> tuple[Part, Part]:
        parts = []
        for table in (self.train, self.test):
            target = [self.classes.index(label) for label in table["label"]]
            parts.append(Part(self.schema.encode(table).x, torch.tensor(target)))
        return parts[0], parts[1]

    @property
    def default_anomaly_classes(self) -> list[int]:
        return [1, 2, 3, 4]

    def about(self) -> dict[str, Any]:
        return {**super().about(), "columns": self.schema.names, "schema": self.schema.to_json()}


def trained(data: Payments, max_epochs: int = 3, likelihood: Mixed | None = None) -> Detector:
    """A small VAE, trained for a moment."""
    scores = [NegativeLogLikelihood(), ReconstructionError(), NegativeELBO(2)]
    model = VAE(data.input_shape, MLP([32]), 6, likelihood or Mixed(), scores=scores)
    return fit(model, data, max_epochs=max_epochs, verbose=False, device="cpu").detector
