"""How strange the texture is at each pixel, in the image and in what its reconstruction leaves over."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .base import at_least
from .maps import Mapped, local_mean
from .whitening import reservoir

Of = Literal["input", "error"]
AT_ONCE = 8  # images whose filters' answers are held at once: 1,000 with 81 filters would take 5 GB


class PatchEnergy(Mapped):
    """The energy of patches in bands of their principal directions, under a Gaussian of normal places.

    v_i and λ_i are the principal directions of normal k × k patches and their variances, in B bands from the broad
    strokes of the texture down to its noise. E_b(p) is log of the mean of (v_iᵀ patch)² / λ_i over the directions of
    band b and the window around pixel p, less its median over the image; f(p) holds the E_b. The map is the sum of
    (f(p) − m(p))ᵀ Σ⁻¹ (f(p) − m(p)) of the input and of the error x − x̂, each with its own directions, the mean m(p) of
    normal training images around p and the covariance Σ of all their places. Its largest value is the score.

    So too little of something is as strange as too much, and a defect need not be large: most directions hold nothing
    but noise in normal patches. A Gaussian of features at each place is that of Defard et al. 2021, "PaDiM", whose
    features are a network's that was trained on other images; these are of the normal images alone.

    Args:
        of: ``input``, ``error`` or both.
        patch: The k, odd, in pixels; a little more than what repeats itself in the texture.
        bands: At most so many.
        window: Height and width in pixels that energies are averaged over, odd.
        stride: Pixels from one patch to the next: of 2, a quarter of the work of 1.
        capacity: Images that it is fitted on at most.
    """

    center: Tensor
    filters: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        of: list[Of] = ["input", "error"],  # noqa: B006 (never changed)
        patch: int = 9,
        bands: int = 3,
        window: int = 7,
        stride: int = 2,
        capacity: int = 100,
    ) -> None:
        super().__init__()
        known = get_args(Of)
        if not of or not set(of) <= set(known):
            raise UserError(f"PatchEnergy: of = {of} must name at least one of {', '.join(known)}")
        for name, pixels in (("patch", patch), ("window", window)):
            if pixels < 1 or pixels % 2 == 0:
                raise UserError(f"PatchEnergy: {name} = {pixels} must be an odd number of pixels")
        at_least(1, self, bands=bands, stride=stride)
        at_least(2, self, capacity=capacity)
        self.of, self.patch, self.bands, self.capacity = list(of), patch, bands, capacity
        self.window, self.stride = window, stride
        self.places = window // stride // 2 * 2 + 1  # of the window, along each axis
        self.requires = ("reconstruct",) if "error" in of else ()
        for name in ("center", "filters", "mean", "whitening"):
            self.register_buffer(name, torch.empty(0))

    def check(self, model: nn.Module) -> None:
        super().check(model)
        height, width = model.input_shape[1:]  # type: ignore[index]
        if min(height, width) < self.patch:
            raise UserError(
                f"model.init_args.scores: PatchEnergy: patch = {self.patch} is larger than images of {height} × {width}"
            )

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        images = reservoir(train, self.capacity, 2, "PatchEnergy")
        parts = [self._sources(model, x) for x in images.split(AT_ONCE)]
        self.center = torch.cat(parts, 1).mean((1, 3, 4), keepdim=True)
        self.filters = torch.stack([self._directions(part[i] for part in parts) for i in range(len(self.of))])
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for part in parts:
            found = self._energies(part).cpu().double()  # not every accelerator has doubles
            count, total = count + found.shape[1], total + found.sum(1)
            squares = squares + torch.einsum("sbihw,sbjhw->sij", found, found)
        mean = local_mean(total / count, self.places)
        mixed = torch.einsum("sihw,sjhw->sij", mean, total)
        covariance = squares - mixed - mixed.mT + count * torch.einsum("sihw,sjhw->sij", mean, mean)
        covariance = covariance / (count * mean[0, 0].numel())
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-6)
        covariance = covariance + 1e-6 * scale * torch.eye(covariance.shape[1])
        self.mean = mean[:, None].to(self.mean)
        self.whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).to(self.whitening)

    def maps(self, model: Any, x: Tensor) -> Tensor:
        sources = self._sources(model, x)
        # a graph holds no loop over a number of images that it does not know
        parts = [sources] if torch.compiler.is_compiling() else sources.split(AT_ONCE, 1)
        found = torch.cat([self._distances(part) for part in parts])
        found = found.repeat_interleave(self.stride, 1).repeat_interleave(self.stride, 2)
        height, width = (side - self.patch + 1 for side in x.shape[2:])
        # patches that reach out of the image are not looked at: at its border stands what the nearest one says
        return F.pad(found[:, None, :height, :width], [self.patch // 2] * 4, mode="replicate")[:, 0]

    def _distances(self, sources: Tensor) -> Tensor:
        deviation = self._energies(sources) - self.mean
        return torch.einsum("sij,sbjhw->sbihw", self.whitening, deviation).square().sum((0, 2))

    def _sources(self, model: Any, x: Tensor) -> Tensor:
        """What is looked at: (B, C, H, W) → (sources, B, C, H, W)."""
        return torch.stack([x if what == "input" else x - model.reconstruct(x) for what in self.of])

    def _directions(self, images: Iterator[Tensor]) -> Tensor:
        """The principal directions over their standard deviations, largest first, as filters: (n, C, k, k)."""
        count, products, k = 0, torch.zeros(()), self.patch
        for x in images:
            # neighbouring patches say nearly the same: every third will do
            patches = F.unfold(x - x.mean((0, 2, 3), keepdim=True), k, stride=max(1, k // 3))
            patches = patches.transpose(1, 2).flatten(0, 1)
            count, products = count + len(patches), products + (patches.T @ patches).cpu().double()
        variances, directions = torch.linalg.eigh(products / count)
        variances = variances.clamp_min(0)
        variances = variances + (1e-4 * variances.mean()).clamp_min(1e-12)
        return (directions / variances.sqrt()).T.flip(0).to(x).view(-1, x.shape[1], k, k)

    def _energies(self, sources: Tensor) -> Tensor:
        """E of each band of each source: (sources, B, C, H, W) → (sources, B, bands, rows, columns)."""
        found, cuts = [], self._cuts(self.filters.shape[1])
        for x, filters in zip(sources - self.center, self.filters, strict=True):
            squares = F.conv2d(x, filters, stride=self.stride).square()
            found.append(torch.stack([squares[:, i:j].mean(1) for i, j in itertools.pairwise(cuts)], 1))
        energies = local_mean(torch.stack(found), self.places).clamp_min(1e-6).log()
        # an image's own level: the median, which a defect that is large in a small image leaves as it is
        return energies - energies.flatten(3).median(3).values[..., None, None]

    def _cuts(self, n: int) -> list[int]:
        """Where bands begin and end: each holds a multiple of the directions of the one before."""
        edges = {round(n ** (i / self.bands)) for i in range(1, self.bands + 1)}
        return [0, *sorted(edges)]
