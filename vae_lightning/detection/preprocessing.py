"""From raw samples to what a network is given: images scaled, tables standardised, in the model and nowhere else."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import UserError
from ..fitted import Fitted

_FLOATS = torch.float32, torch.float64, torch.float16, torch.bfloat16
_SIGNED = torch.int8, torch.int16, torch.int32, torch.int64
_UNSIGNED = torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64


class Preprocessing(Fitted):
    """Raw samples → x, float32 of the same shape. A subclass gives ``dtypes``, ``wants`` and ``forward``.

    What it learns are buffers, empty until it is fitted; they load from a ``state_dict`` whatever their shape.

    Attributes:
        dtypes: Of the raw samples that it takes; every other one is refused, none is guessed at.
        wants: The same in words.
    """

    dtypes: tuple[torch.dtype, ...]
    wants: str

    @property
    def fitted(self) -> bool:
        """Whether it can be applied."""
        return True

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Learn from raw batches (B, *input_shape) of normal training samples; they are gone through once."""

    @abstractmethod
    def forward(self, raw: Tensor) -> Tensor:
        """Raw (B, *input_shape) → x float32 (B, *input_shape)."""

    def restore(self, x: Tensor) -> Tensor:
        """The raw samples that x stands for, floats: (B, *input_shape) → (B, *raw shape). Says what was expected."""
        return x

    def fold(self, features: Tensor) -> Tensor:
        """Numbers of each feature, summed for the raw column or pixel they are of: (B, *input_shape) → (B, *raw)."""
        return features

    def check(self, raw: Tensor, input_shape: list[int] | None = None) -> None:
        """Refuse samples of another kind or, if it is given, of another shape.

        Raises:
            UserError: For another dtype than ``dtypes``, or another shape than (B, *input_shape).
        """
        if not isinstance(raw, Tensor):
            raise UserError(f"{self._name} takes a tensor of {self.wants}, not {type(raw).__name__}")
        if raw.dtype not in self.dtypes:
            raise UserError(f"{self._name} takes {self.wants}, not {_plain(raw.dtype)} of shape {list(raw.shape)}")
        if input_shape is not None and list(raw.shape[1:]) != list(input_shape):
            expected = ", ".join(map(str, ["samples", *input_shape]))
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
        moments = _Moments()
        for raw in batches:
            self.check(raw)
            moments.update(_double(raw))
        if not moments.count:
            raise UserError("Standardize: there are no samples to fit on")
        mean, std = moments.mean, moments.std
        high, scale = mean.float(), std.float()
        if not (good := high.isfinite() & scale.isfinite()).all():
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
        mean = _double(self.mean) + _double(self.mean_low)
        return _double(x) * _double(self.std) + mean


class _Moments:
    """Mean and variance of each feature, merged batch by batch (Chan, Golub & LeVeque 1979, 1983).

    Sums of squares about each batch's own mean: x² − mean² would cancel to nothing under a large offset.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = self.low = self.high = torch.empty(0)

    def update(self, x: Tensor) -> None:
        """Add a batch, float64 (B, *input_shape)."""
        if not (n := len(x)):
            return
        # a feature's own number as its origin: what is constant has then exactly that mean, and no spread
        offset = x[0] if not self.count else self.low
        mean = offset + (x - offset).mean(0)
        squares = (x - mean).square().sum(0)
        low, high = x.amin(0), x.amax(0)
        if not self.count:
            self.count, self.mean, self.squares, self.low, self.high = n, mean, squares, low, high
            return
        delta, total = mean - self.mean, self.count + n
        self.mean = self.mean + delta * (n / total)
        self.squares = self.squares + squares + delta.square() * (self.count * n / total)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.count = total

    @property
    def std(self) -> Tensor:
        """The standard deviation, exactly 0 for what is constant."""
        return torch.where(self.high > self.low, self.squares / self.count, 0.0).sqrt()


def _double(raw: Tensor) -> Tensor:
    return (raw.cpu() if raw.device.type == "mps" else raw).detach().double()


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
