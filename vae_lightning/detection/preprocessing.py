"""From raw samples to what a network is given: images scaled, numbers standardised, in the model and nowhere else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import UserError
from ..fitted import Fitted
from .statistics import Moments

_FLOATS = torch.float32, torch.float64, torch.float16, torch.bfloat16
_SIGNED = torch.int8, torch.int16, torch.int32, torch.int64
_UNSIGNED = torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64


class Preprocessing(Fitted):
    """Raw samples → x, float32. A subclass gives ``dtypes``, ``wants`` and ``forward``.

    What it learns are buffers, empty until it is fitted; they load from a ``state_dict`` whatever their shape.

    Attributes:
        dtypes: Of the raw samples that it takes; every other one is refused, none is guessed at.
        wants: The same in words.
        takes_missing: Whether NaN stands for a missing value; otherwise it is refused, as infinity always is.
    """

    dtypes: tuple[torch.dtype, ...]
    wants: str
    takes_missing: bool = False

    @property
    def fitted(self) -> bool:
        """Whether it can be applied."""
        return True

    def raw_shape(self, input_shape: list[int]) -> list[int]:
        """The shape of a raw sample, where ``input_shape`` is that of a prepared one; often the same."""
        return list(input_shape)

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from raw batches (B, *raw_shape) of normal training samples; they are gone through once."""

    @abstractmethod
    def forward(self, raw: Tensor) -> Tensor:
        """Raw (B, *raw_shape) → x float32 (B, *input_shape)."""

    def restore(self, x: Tensor) -> Tensor:
        """The raw samples that x stands for, floats: (B, *input_shape) → (B, *raw shape). Says what was expected."""
        return x

    def fold(self, features: Tensor) -> Tensor:
        """Numbers of each feature, summed for the raw column or pixel they are of: (B, *input_shape) → (B, *raw)."""
        return features

    def check(self, raw: Tensor, raw_shape: list[int] | None = None) -> None:
        """Refuse samples of another kind or, if it is given, of another shape.

        Raises:
            UserError: For another dtype than ``dtypes``, or another shape than (B, *raw_shape).
        """
        if not isinstance(raw, Tensor):
            raise UserError(f"{self._name} takes a tensor of {self.wants}, not {type(raw).__name__}")
        if raw.dtype not in self.dtypes:
            raise UserError(f"{self._name} takes {self.wants}, not {_plain(raw.dtype)} of shape {list(raw.shape)}")
        if raw_shape is not None and list(raw.shape[1:]) != list(raw_shape):
            expected = ", ".join(map(str, ["samples", *raw_shape]))
            raise UserError(f"{self._name} takes {self.wants} of shape [{expected}], not {list(raw.shape)}")

    @property
    def _name(self) -> str:
        return type(self).__name__


class Unchanged(Preprocessing):
    """float32 as it is, for samples that are prepared already."""

    dtypes = (torch.float32,)
    wants = "float32"

    def forward(self, raw: Tensor) -> Tensor:
        self.check(raw)
        return raw


class Images(Preprocessing):
    """uint8 from 0 to 255 → [0, 1]. An image of any other kind is refused: its white may be 1, 255 or 65,535."""

    dtypes = (torch.uint8,)
    wants = "uint8 from 0 to 255"

    def forward(self, raw: Tensor) -> Tensor:
        self.check(raw)
        return raw.float() / 255

    def restore(self, x: Tensor) -> Tensor:
        return x * 255


class Standardize(Preprocessing):
    """(x − mean) / standard deviation of each feature, both of normal training samples (divided by N, not N − 1).

    A feature that is constant in training is only centred. The same number gives the same bits as float32, float64 or
    integer, and large offsets survive: the mean is subtracted in double precision where the device has it. Not every
    accelerator can hold a double, though, so the mean is kept as two float32 numbers.

    Attributes:
        mean, mean_low: float32 (*input_shape); their sum is the mean, to 48 bits.
        std: float32 (*input_shape), 1 for constant features.
    """

    dtypes = (*_FLOATS, *_SIGNED, *_UNSIGNED)
    wants = "real numbers"
    mean: Tensor
    mean_low: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "mean_low", "std"):
            self.register_buffer(name, torch.empty(0))

    @property
    def fitted(self) -> bool:
        return self.mean.numel() > 0

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn mean and standard deviation, in one pass and double precision.

        Raises:
            UserError: Without any sample, or for a feature that float32 cannot hold (NaN and infinity among them).
        """
        moments = Moments()
        for raw in batches:
            self.check(raw)
            moments.update(as_double(raw))
        if not moments.rows:
            raise UserError("Standardize: there are no samples to fit on")
        mean, std = moments.mean, moments.std
        high, scale = mean.float(), std.float()
        if not (good := high.isfinite() & scale.isfinite() & (moments.count == moments.rows)).all():
            feature = "column " + ", ".join(map(str, (~good).nonzero()[0].tolist()))
            raise UserError(f"Standardize: {feature} holds NaN, infinity, or numbers beyond float32")
        # a spread that float32 holds no normal number for is no spread to divide by
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
        device = self.mean.device
        self.mean, self.std = high.to(device), scale.to(device)
        self.mean_low = (mean - high.double()).float().to(device)

    def forward(self, raw: Tensor) -> Tensor:
        if not self.fitted:
            raise UserError("Standardize is not fitted: fit it on normal training samples, or load a state_dict")
        self.check(raw, list(self.mean.shape))
        if raw.device.type == "mps":  # has no double
            centred = (raw.float() - self.mean) - self.mean_low
        else:
            centred = (raw.double() - (self.mean.double() + self.mean_low.double())).float()
        return centred / self.std

    def restore(self, x: Tensor) -> Tensor:
        mean = as_double(self.mean) + as_double(self.mean_low)
        return as_double(x) * as_double(self.std) + mean


def as_double(raw: Tensor) -> Tensor:
    """float64, on the CPU where the device has none."""
    return (raw.cpu() if raw.device.type == "mps" else raw).detach().double()


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
