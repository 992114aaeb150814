"""Noise that belongs to a sample: a function of the sample's content, drawn by integer arithmetic.

A generator's draws go by place: a sample would get other noise in another batch, and an exported graph keeps no
generator. One draw for all samples has neither fault, but then the errors of a mean over many samples do not average
out. So each sample's own numbers are hashed into two keys, and (keys, draw, feature) into a normal number. Every step
of the hash is a sum, a product or a remainder of integers below 2⁶³: exact, on every device and in every order.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

PRIME = 2**31 - 1  # the product of two remainders, and twice that, fits into an int64
ROUNDS = (1203793447, 338492719)  # any numbers will do
UNIT, FINE = 2**8, 2**29  # a number is hashed in steps of 1 / (UNIT · FINE) = 7e-12 up to 2³⁰ / UNIT = 4e6

Number = TypeVar("Number", int, Tensor)


def sample_noise(x: Tensor, samples: int, features: int, seed: int) -> Tensor:
    """Standard normal noise of each sample's own: (B, …) → float32 (samples, B, features).

    Independent between samples, draws and features; the same for any batching, order and device. Samples that are
    equal to the bit get equal noise; so do samples whose features differ by less than 7e-12 each, or only beyond ±4e6.
    """
    return SampleNoise(x, samples, features, seed)[0:samples]


class SampleNoise:
    """``sample_noise`` whose draws are made when they are asked for: ``noise[start:stop]``.

    Of a number r for each draw and feature, and the sample's own a and b, (a r + b)² mod PRIME is uniform, and the
    transform of Box and Muller 1958 makes two uniform numbers two normal ones.
    """

    def __init__(self, x: Tensor, samples: int, features: int, seed: int) -> None:
        pairs = -(-features // 2)
        self.features = features
        self.a, self.b = sample_keys(x, seed)[..., None]
        self.r = _scrambled(samples * 2 * pairs, seed, 1, x.device).view(samples, 1, 2 * pairs)

    def __getitem__(self, draws: slice) -> Tensor:
        v = (self.a * self.r[draws] + self.b) % PRIME
        uniform = ((v * v % PRIME).float() + 0.5) * 2.0**-31  # in (0, 1], float32
        u, angle = uniform.chunk(2, dim=-1)
        radius, angle = (-2 * u.log()).sqrt(), 2 * torch.pi * angle
        return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., : self.features]


def sample_keys(x: Tensor, seed: int) -> Tensor:
    """Two numbers in [0, PRIME) that the content of each sample hashes to: (B, …) → int64 (2, B).

    Σ_i c_i d_i mod PRIME over the digits d_i of all features, with pseudo-random c_i: two samples that differ agree in
    both keys with probability PRIME⁻². Carter and Wegman 1979, "Universal classes of hash functions".
    """
    units, rest = _digits(x.flatten(1))
    start, c_units, c_rest = (
        _scrambled(2 * (1 + 2 * units.shape[1]), seed, 0, x.device).view(2, -1).tensor_split([1, 1 + units.shape[1]], 1)
    )
    sums = [((units * c + rest * c_) % PRIME).sum(1) for c, c_ in zip(c_units, c_rest, strict=True)]
    return (torch.stack(sums) + start) % PRIME


def _digits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each number as two integers of up to 2³⁰, its nearest unit and the rest: (B, D) → 2 × (B, D)."""
    scaled = (x.float() * UNIT).clamp(-(2.0**30), 2.0**30)
    unit = scaled.round()
    return unit.long(), ((scaled - unit) * FINE).round().long()


def _scrambled(n: int, seed: int, stream: int, device: torch.device) -> Tensor:
    """Pseudo-random numbers in [0, PRIME), n of them, others for each seed and stream."""
    key = stream
    for word in (seed % PRIME, seed // PRIME % PRIME):
        key = _permute((key + word) % PRIME)
    return _permute((_permute(torch.arange(n, device=device)) + key) % PRIME)


def _permute(v: Number) -> Number:
    """A permutation of 0 … PRIME − 1 without visible order: v → (v + c)⁵, in rounds, as 5 does not divide PRIME − 1.

    Albrecht et al. 2016, "MiMC: Efficient Encryption and Cryptographic Hashing with Minimal Multiplicative Complexity",
    section 2.1.
    """
    for c in ROUNDS:
        v = (v + c) % PRIME
        square = v * v % PRIME
        v = square * square % PRIME * v % PRIME
    return v
