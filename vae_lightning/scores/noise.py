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
ROUNDS = (1203793447, 338492719, 1763945621, 912559807)  # any numbers will do
UNIT, FINE = 2**8, 2**29  # a number is hashed in steps of 1 / (UNIT · FINE) = 7e-12 up to 2³⁰ / UNIT = 4e6

Number = TypeVar("Number", int, Tensor)


def sample_noise(x: Tensor, samples: int, features: int, seed: int) -> Tensor:
    """Standard normal noise of each sample's own: (B, …) → float32 (samples, B, features).

    Independent between samples, draws and features; the same for any batching, order and device. Samples that are
    equal to the bit get equal noise; so do samples whose features differ by less than 7e-12 each, or only beyond ±4e6.
    """
    return keyed_noise(sample_keys(x, seed), range(samples), features, seed)


def sample_keys(x: Tensor, seed: int) -> Tensor:
    """Two numbers in [0, PRIME) that the content of each sample hashes to: (B, …) → int64 (2, B).

    Σ_i c_i d_i mod PRIME over the digits d_i of all features, with pseudo-random c_i: two samples that differ agree in
    both keys with probability PRIME⁻². Carter and Wegman 1979, "Universal classes of hash functions".
    """
    digits = _digits(x.flatten(1))
    c = _scrambled(range(4 * digits.shape[1] + 2), seed, 0, x.device)
    keys = []
    for start, c_high, c_low in zip(c[:2], *c[2:].view(2, 2, -1).unbind(1), strict=True):
        terms = (digits[..., 0] * c_high + digits[..., 1] * c_low) % PRIME
        keys.append((terms.sum(1) + start) % PRIME)
    return torch.stack(keys)


def keyed_noise(keys: Tensor, draws: range, features: int, seed: int) -> Tensor:
    """The draws with these numbers, of the samples with these keys: (2, B) → float32 (draws, B, features).

    Of a number r for each draw and feature, and the sample's own a and b, (a r + b)² mod PRIME is uniform; the
    transform of Box and Muller 1958 makes two uniform numbers two normal ones.
    """
    pairs = -(-features // 2)
    counters = range(2 * pairs * draws.start, 2 * pairs * draws.stop)
    r = _scrambled(counters, seed, 1, keys.device).view(len(draws), 1, 2 * pairs)
    a, b = keys[..., None]
    v = (r * (a % (PRIME - 1) + 1) + b) % PRIME
    uniform = ((v * v % PRIME).float() + 0.5) * 2.0**-31  # in (0, 1], float32
    u, angle = uniform.chunk(2, dim=-1)
    radius, angle = (-2 * u.log()).sqrt(), 2 * torch.pi * angle
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., :features]


def _digits(x: Tensor) -> Tensor:
    """Each number as two integers below 2³⁰, its nearest unit and the rest: (B, D) → (B, D, 2)."""
    scaled = (x.float() * UNIT).clamp(-(2.0**30), 2.0**30)
    unit = scaled.round()
    return torch.stack([unit, ((scaled - unit) * FINE).round()], -1).long()


def _scrambled(counters: range, seed: int, stream: int, device: torch.device) -> Tensor:
    """A pseudo-random number in [0, PRIME) for each counter, others for each seed and stream."""
    key = stream
    for word in (seed % PRIME, seed // PRIME % PRIME):
        key = _permute((key + word) % PRIME)
    return _permute((_permute(torch.arange(counters.start, counters.stop, device=device)) + key) % PRIME)


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
