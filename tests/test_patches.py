"""The energy of patches: the formula, a defect that is found where it is, heat maps of files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from surface import exported
from torch import Tensor

import vae_lightning as vl
from vae_lightning.commands import main
from vae_lightning.errors import UserError
from vae_lightning.models.networks import MLP
from vae_lightning.scores import PatchEnergy


class Blurred(vl.Autoencoder):
    """Reconstructs the mean of its neighbourhood."""

    def reconstruct(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1)


def stripes(n: int, seed: int, channels: int = 1, height: int = 26, width: int = 28) -> Tensor:
    """Columns 6 pixels wide, shifted anew in each image, with noise."""
    generator = torch.Generator().manual_seed(seed)
    shift = 6.3 * torch.rand(n, channels, 1, 1, generator=generator)
    wave = (torch.arange(width) + shift).expand(-1, -1, height, -1)
    return 0.5 + 0.2 * wave.sin() + 0.02 * torch.randn(wave.shape, generator=generator)


def fitted(score: PatchEnergy, x: Tensor) -> vl.Autoencoder:
    model = Blurred(list(x.shape[1:]), MLP([4]), 2, scores=[score]).eval()
    with torch.no_grad():
        model.scores["PatchEnergy"].fit(model, x.split(7), [])
    return model


@torch.no_grad()
def test_a_map_is_the_formula() -> None:
    """Patch by patch, in NumPy."""
    k, stride, window = 5, 3, 9
    train, x = stripes(60, 0, 2), stripes(3, 1, 2)
    model = fitted(PatchEnergy(patch=k, bands=2, window=window, stride=stride), train)
    expected = np.zeros((3, 8, 8))
    for source in (lambda images: images, lambda images: images - model.reconstruct(images)):
        a, b = source(train).double().numpy(), source(x).double().numpy()
        center = a.mean((0, 2, 3), keepdims=True)

        def patches(images: np.ndarray, step: int) -> np.ndarray:
            places = [range(0, side - k + 1, step) for side in images.shape[2:]]
            rows = [[images[:, :, i : i + k, j : j + k].reshape(len(images), -1) for j in places[1]] for i in places[0]]
            return np.stack(rows)

        # what directions are of is centred eight images at a time, and taken at every pixel but the last of a patch
        parts = [a[i : i + 8] for i in range(0, 60, 8)]
        flat = np.concatenate([patches(p - p.mean((0, 2, 3), keepdims=True), 1).reshape(-1, 2 * k * k) for p in parts])
        variances, directions = np.linalg.eigh(flat.T @ flat / len(flat))
        variances = variances + 1e-4 * variances.mean()

        def energies(images: np.ndarray, center=center, directions=directions, variances=variances) -> np.ndarray:
            squares = (patches(images - center, stride) @ directions[:, ::-1]) ** 2 / variances[::-1]
            bands = np.stack([squares[..., :7].mean(-1), squares[..., 7:].mean(-1)], -1)  # √50 = 7
            out = np.empty_like(bands)
            for i, j in np.ndindex(*bands.shape[:2]):
                out[i, j] = np.log(bands[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean((0, 1)))
            return (
                out - np.sort(out.reshape(-1, *out.shape[2:]), 0)[31]
            )  # of 64, the lower median; (rows, columns, N, bands)

        normal, found = energies(a), energies(b)
        mean = normal.mean(2)
        near = np.empty_like(mean)
        for i, j in np.ndindex(*mean.shape[:2]):
            near[i, j] = mean[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean((0, 1))
        deviation = (normal - near[:, :, None]).reshape(-1, 2)
        precision = np.linalg.inv(deviation.T @ deviation / len(deviation))
        d = found - near[:, :, None]
        expected += np.einsum("hwni,ij,hwnj->nhw", d, precision, d)
    maps = model.scores["PatchEnergy"].maps(model, x).numpy()
    assert maps.shape == (3, 26, 28)
    inner = maps[:, 2:24, 2:26]
    assert np.allclose(inner, np.kron(expected, np.ones((3, 3)))[:, :22, :24], rtol=1e-2, atol=1e-3)
    assert np.array_equal(maps[:, 0], maps[:, 2])  # the border repeats
    assert np.array_equal(maps[:, :, -1], maps[:, :, -3])
    assert np.array_equal(model.scores["PatchEnergy"](model, x).numpy(), maps.max((1, 2)))


@torch.no_grad()
@pytest.mark.parametrize("of", [["input"], ["error"], ["input", "error"]])
def test_a_defect_is_found_where_it_is_be_it_too_much_or_too_little(of: list[Any]) -> None:
    train, normal, more, less = (stripes(40, seed, height=60, width=70) for seed in range(4))
    model = fitted(PatchEnergy(of, patch=7), train)
    more[:, 0, 20, 30:42] += 0.15
    less[:, 0, 15:25, 30:42] = 0.5 + 0.02 * torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    score, labels = model.scores["PatchEnergy"], [0] * 40 + [1] * 40
    for strange in (more, less):
        assert roc_auc_score(labels, score(model, torch.cat([normal, strange]))) > 0.95
        rows, columns = np.unravel_index(score.maps(model, strange).flatten(1).argmax(1).numpy(), (60, 70))
        assert ((abs(rows - 20) < 12) & (abs(columns - 36) < 13)).mean() > 0.9
    assert roc_auc_score(labels, vl.scores.ReconstructionError()(model, torch.cat([normal, more]))) < 0.8
    assert score(model, torch.zeros(2, 1, 60, 70)).isfinite().all()


@torch.no_grad()
def test_it_is_the_same_for_any_batching_after_loading_and_exported() -> None:
    model, x = fitted(PatchEnergy(patch=5), stripes(60, 0)), stripes(20, 5)
    score = model.scores["PatchEnergy"]
    first = score(model, x)
    for n in (1, 3, 20):
        assert torch.allclose(torch.cat([score(model, part) for part in x.split(n)]), first, rtol=1e-4)
    copy = PatchEnergy(patch=5)
    assert not copy.fitted
    copy.load_state_dict(score.state_dict())
    assert copy.fitted
    assert torch.equal(copy(model, x), first)

    program = exported(model, score, x[:4])
    for n in (2, 20):
        assert torch.allclose(program(x[:n]), first[:n], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"of": []}, r"PatchEnergy: of = \[\] must name at least one of input, error"),
        ({"of": ["code"]}, r"PatchEnergy: of = \['code'\]"),
        ({"patch": 4}, "PatchEnergy: patch = 4 must be an odd number of pixels"),
        ({"window": 0}, "PatchEnergy: window = 0 must be an odd number of pixels"),
        ({"bands": 0}, "PatchEnergy: bands = 0 must be at least 1"),
        ({"stride": 0}, "PatchEnergy: stride = 0 must be at least 1"),
        ({"patch": 9}, "PatchEnergy: patch = 9 is larger than images of 8 × 8"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vl.Autoencoder([1, 8, 8], MLP([4]), 2, scores=[PatchEnergy(**arguments)])


def test_heat_maps_of_files_are_hot_where_the_map_is(tmp_path: Path) -> None:
    vl.SyntheticTextures("stripes", 32, train=60, test=3).write(tmp_path / "parts")
    data = vl.Images(str(tmp_path / "parts"), 32, val_fraction=0.3, workers=0)
    scores = [vl.scores.ReconstructionError(), PatchEnergy()]
    detector = vl.fit(vl.Autoencoder([1, 32, 32], vl.Grid([4, 8]), 64, scores=scores), data, max_epochs=1).detector
    detector.save(tmp_path / "detector.ckpt")
    line = ["predict", "--ckpt_path", str(tmp_path / "detector.ckpt"), "--input", str(tmp_path / "parts" / "test")]
    line += ["--output", str(tmp_path / "scored.csv"), "--alpha", "0.99", "--heatmaps"]
    assert main([*line, str(tmp_path / "heat")]) == 0
    with (tmp_path / "scored.csv").open() as file:
        alarms = [row["path"] for row in csv.DictReader(file) if row["anomaly"] in ("1", "true", "True")]
    assert sorted(str(path.relative_to(tmp_path / "heat")) for path in (tmp_path / "heat").rglob("*.png")) == alarms

    blob = next(path for path in alarms if path.startswith("blob"))
    colours = np.asarray(Image.open(tmp_path / "heat" / blob)).astype(int)
    assert colours.shape == (256, 256, 3)
    colours = colours[::8, ::8]  # an image of 32 pixels is shown larger
    (heat,) = detector.maps([tmp_path / "parts" / "test" / blob])
    saturation = colours.max(2) - colours.min(2)
    assert saturation[heat > np.quantile(heat, 0.95)].mean() > saturation[heat < np.median(heat)].mean() + 30
