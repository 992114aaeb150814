"""Scores with a map: the contract of scores on images, a defect that is where the map says, and the AUROC of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from surface import exported
from torch import Tensor

import vae_lightning as vl
from vae_lightning.data import SyntheticTextures
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.models.grid import Grid
from vae_lightning.models.networks import MLP
from vae_lightning.scores import PatchError, ReconstructionError
from vae_lightning.scores.maps import local_mean
from vae_lightning.training.callbacks.pixels import PixelAUROC


class Blank(Autoencoder):
    """Reconstructs grey, whatever it sees."""

    def reconstruct(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)


def noise(n: int, seed: int) -> Tensor:
    """Images whose lower half is noisier than the upper one, and each of a contrast of its own."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.02, 0.2, 24)[:, None] * (0.5 + torch.rand(n, 1, 1, 1, generator=generator))
    return 0.5 + spread * torch.randn(n, 1, 24, 20, generator=generator)


@pytest.fixture(scope="module")
def fitted() -> tuple[Blank, PatchError]:
    model, score = Blank([1, 24, 20], MLP([4]), 2).eval(), PatchError([1, 3, 5])
    with torch.no_grad():
        score.fit(model, noise(200, 0).split(32), [])
    return model, score


def test_local_means_are_those_of_the_pixels_that_are_there() -> None:
    x = torch.rand(2, 3, 7, 5, dtype=torch.float64)
    found = local_mean(x, 5)
    for i in range(7):
        for j in range(5):
            near = x[..., max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
            assert torch.allclose(found[..., i, j], near.mean((-1, -2)))


@torch.no_grad()
def test_a_map_is_the_formula(fitted: tuple[Blank, PatchError]) -> None:
    model, score = fitted
    train, x = noise(200, 0), noise(5, 1)

    def errors(images: Tensor, k: int) -> Tensor:
        local = local_mean((images[:, 0] - 0.5).square(), k).double()
        return local / local.mean((1, 2), keepdim=True)

    expected = 0
    for k in (1, 3, 5):
        r = errors(train, k)
        mean = local_mean(r.mean(0), k)
        std = (local_mean(r.square().mean(0), k) - mean.square()).sqrt()
        expected = expected + (errors(x, k) - mean) / std.maximum(std.mean() / 10) / 3
    found = score.maps(model, x)
    assert torch.allclose(found.double(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(score(model, x), found.flatten(1).amax(1))
    assert found.dtype == torch.float32


@torch.no_grad()
def test_a_defect_is_found_where_it_is_however_quiet_the_place(fitted: tuple[Blank, PatchError]) -> None:
    model, score = fitted
    normal, strange = noise(100, 2), noise(100, 3)
    strange[:, 0, 3:6, 8:11] += 0.15  # in the quiet half, where it is less than the noise of the other
    labels = [0] * 100 + [1] * 100
    assert roc_auc_score(labels, score(model, torch.cat([normal, strange]))) > 0.95
    plain = ReconstructionError()(model, torch.cat([normal, strange]))
    assert roc_auc_score(labels, plain) < 0.65
    places = score.maps(model, strange).flatten(1).argmax(1)
    inside = (places // 20 >= 2) & (places // 20 <= 6) & (places % 20 >= 7) & (places % 20 <= 11)
    assert inside.float().mean() > 0.9


@torch.no_grad()
def test_the_contract_of_scores(fitted: tuple[Blank, PatchError]) -> None:
    model, score = fitted
    x = noise(20, 4)
    before, first = x.clone(), score(model, x)
    assert first.shape == (20,)
    assert first.isfinite().all()
    assert torch.equal(score(model, x), first)
    assert torch.equal(x, before)
    for sizes in (1, 7):
        batched = torch.cat([score(model, part) for part in x.split(sizes)])
        assert torch.allclose(batched, first, rtol=1e-5, atol=1e-5)
    copy = PatchError([1, 3, 5])
    assert not copy.fitted
    copy.load_state_dict(score.state_dict())
    assert copy.fitted
    assert torch.equal(copy(model, x), first)
    blank = torch.full((2, 1, 24, 20), 0.5)  # no error anywhere
    assert score(model, blank).isfinite().all()


@torch.no_grad()
def test_it_can_be_exported_for_batches_of_any_size() -> None:
    torch.manual_seed(0)
    model = VAE([1, 16, 16], Grid([4, 8], patch=4), 8, scores=[PatchError([3, 5])]).eval()
    x = torch.rand(30, 1, 16, 16)
    score = model.scores["PatchError"]
    score.fit(model, x.split(10), [])

    program = exported(model, score, x[:4])
    for n in (2, 7, 30):
        assert torch.allclose(program(x[:n]), score(model, x[:n]), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_meant_is_refused() -> None:
    for scales in ([], [4], [0], [3, -1]):
        with pytest.raises(UserError, match="PatchError: scales = "):
            PatchError(scales)
    with pytest.raises(UserError, match=r"PatchError needs images .* samples are of shape \[5\]"):
        Autoencoder([5], MLP([4]), 2, scores=[PatchError()])


# Networks whose code is a grid


def test_a_place_of_the_code_is_seen_in_its_neighbourhood_alone() -> None:
    torch.manual_seed(0)
    model = Autoencoder([2, 64, 32], Grid([4, 8, 8], patch=4), 3 * 8).eval()  # 4 × 2 places
    z = torch.zeros(2, 24)
    z.view(2, 3, 4, 2)[1, :, 0, 0] = 1
    with torch.no_grad():
        x = model.reconstruct(z_to_x(model, z))
        changed = (model.likelihood.mean(model.decode(z))[1] - model.likelihood.mean(model.decode(z))[0]).abs().amax(0)
    assert x.shape == (2, 2, 64, 32)
    assert changed[:16, :16].max() > 0
    assert not changed[48:].any()


def z_to_x(model: Autoencoder, z: Tensor) -> Tensor:
    return model.likelihood.mean(model.decode(z))


@pytest.mark.parametrize(
    ("shape", "latent_dim", "message"),
    [
        ([5], 8, r"Grid: samples of shape \[5\] are not images"),
        ([1, 30, 32], 8, "Grid: 30 × 32 pixels cannot be divided into places of 16 × 16"),
        ([1, 32, 32], 5, "Grid: latent_dim must be a multiple of the code's 4 places: 32 for 8 at each"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(shape: list[int], latent_dim: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Autoencoder(shape, Grid([4, 8, 8]), latent_dim)


# The AUROC of pixels


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_pixels_are_ranked_as_scikit_learn_ranks_them(scale: float) -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((30, 16, 16)) < 0.1
    maps = scale * (rng.normal(size=masks.shape) + masks)
    maps[:3] = np.round(maps[:3] / scale) * scale  # ties
    metric = PixelAUROC()
    for part in np.array_split(np.arange(30), 4):
        metric.update(torch.from_numpy(maps[part]).float(), torch.from_numpy(masks[part]))
    assert metric.compute().item() == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-4)


def test_infinite_and_missing_scores_of_pixels_are_the_largest() -> None:
    metric = PixelAUROC()
    maps = torch.tensor([[[torch.nan, torch.inf, 1.0, -0.0, 0.0, -torch.inf]]])
    metric.update(maps, torch.tensor([[[True, True, False, False, False, False]]]))
    assert metric.compute().item() == 1.0
    empty = PixelAUROC()
    empty.update(maps, torch.zeros(1, 1, 6, dtype=torch.bool))
    assert empty.compute().isnan()


def test_a_test_logs_it_where_there_are_masks(tmp_path: Path) -> None:
    data = SyntheticTextures("stripes", 32, train=40, test=5, val_fraction=0.2)
    data.write(tmp_path / "parts")
    files = vl.Images(str(tmp_path / "parts"), 32, val_fraction=0.2)

    def fit(data: vl.AnomalyDataModule) -> vl.Run:
        scores = [PatchError([3, 5]), ReconstructionError()]
        return vl.fit(Autoencoder([1, 32, 32], Grid([4, 8]), 64, scores=scores), data, max_epochs=2, verbose=False)

    for source in (data, files):
        run = fit(source)
        part = source.load()[1]
        maps = run.detector.maps(part.x)
        assert maps.shape == (20, 32, 32)
        found = [source.mask(i) for i in range(20)]
        masks = torch.stack([torch.zeros(32, 32, dtype=torch.bool) if mask is None else mask for mask in found])
        expected = roc_auc_score(masks.flatten(), maps.flatten())
        assert run.metrics["test/pixel_auroc"] == pytest.approx(expected, abs=1e-3)
        assert torch.equal(run.detector.score(part.x, "PatchError"), maps.flatten(1).amax(1))
        assert "test/pixel_auroc/PatchError" not in run.metrics
    with pytest.raises(UserError, match="there is no map of ReconstructionError: the detector has maps of PatchError"):
        run.detector.maps(part.x, "ReconstructionError")
    assert (
        "test/pixel_auroc"
        not in vl.fit(
            Autoencoder([1, 8, 8], latent_dim=2, scores=[PatchError([3])]), vl.Digits(), max_epochs=1, verbose=False
        ).metrics
    )
