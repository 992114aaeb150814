"""What a detector knows of itself: its scores, its threshold, and what it was trained on."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from ..decoding import Decoder
from ..errors import UserError
from ..schema import Schema
from ..scores.maps import Mapped
from . import card, storage
from .thresholds import Conformal, Threshold

Self = TypeVar("Self", bound="Profile")


class Profile:
    """A model as a detector; see :class:`~vae_lightning.detection.Detector`.

    Args:
        model: A trained :class:`~vae_lightning.models.AnomalyModel`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._schema: tuple[Any, Schema] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the scores; the first one decides."""
        return list(self.model.scores)

    @property
    def mapped(self) -> list[str]:
        """Names of the scores that say how anomalous each pixel is, see ``maps``."""
        return [name for name, score in self.model.scores.items() if isinstance(score, Mapped)]

    @property
    def threshold(self) -> Threshold:
        """The threshold of the score that decides."""
        return self.model.thresholds[self.names[0]]

    @property
    def alpha(self) -> float | None:
        """The false-alarm rate that the threshold promises; None if it promises none."""
        return self.threshold.alpha if isinstance(self.threshold, Conformal) else None

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns it was trained on, in order."""
        return self.model.trained_on.get("columns")

    @property
    def schema(self) -> Schema | None:
        """The columns of the table it was trained on; None if they were all numbers.

        Raises:
            UserError: When the file holds another one than its preprocessing was made for.
        """
        content = self.model.trained_on.get("schema")
        if content is None:
            return None
        if self._schema is None or self._schema[0] is not content:
            schema = Schema.from_json(content)
            if [column.codes for column in schema] != getattr(self.model.preprocessing, "codes", None):
                raise UserError("schema and preprocessing do not match: train it again")
            self._schema = content, schema
        return self._schema[1]

    @property
    def classes(self) -> list[str] | None:
        """The classes it takes for normal."""
        return self.model.trained_on.get("normal")

    @property
    def decoder(self) -> Decoder:
        """How it reads image files.

        Raises:
            UserError: When it was not trained on any.
        """
        about = self.model.trained_on
        if about.get("images") is None:
            raise UserError(
                f"the detector reads no image files: it was trained on {about.get('data', 'samples')}, which does not "
                "say how: give it samples, or train with the data module Images"
            )
        return Decoder.of(about["images"])

    @property
    def calibrated(self) -> bool:
        """Whether it has thresholds that belong to its weights."""
        return all(threshold.fitted for threshold in self.model.thresholds.values())

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    def to(self: Self, device: str | torch.device) -> Self:
        """Move it; samples follow it."""
        self.model.to(device)
        return self

    def __repr__(self) -> str:
        return card.text(card.facts(self))

    def _repr_html_(self) -> str:
        return card.html(card.facts(self))

    def check_calibrated(self) -> None:
        """Raise a UserError if there are no thresholds that belong to the weights: it refuses to score."""
        if not self.calibrated:
            raise UserError(f"the detector is not calibrated: {storage.RECALIBRATE}")
