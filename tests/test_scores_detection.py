"""The scores that are fitted or look inside the model, each against an independent truth."""

import io
import math
import zlib

import numpy as np
import pytest
import sklearn.covariance
import sklearn.mixture
import torch
from lightning.pytorch import Trainer
from PIL import Image
from scipy.stats import chisquare
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from vae_lightning.detection.detector import Detector
from vae_lightning.detection.thresholds import Percentile
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.models.likelihoods import Gaussian
from vae_lightning.models.networks import MLP, Conv
from vae_lightning.scores import (
    NAP,
    SAP,
    Combined,
    InputComplexity,
    KNearestNeighbours,
    LatentDensity,
    LikelihoodRegret,
    Mahalanobis,
    NegativeELBO,
    ReconstructionError,
    ReconstructionProbability,
    Score,
    alternate,
    latent_features,
)
from vae_lightning.scores.whitening import ledoit_wolf, reservoir

SCORES = {
    "SAP": lambda: SAP(),
    "SAP-hidden": lambda: SAP(["hidden"]),
    "NAP": lambda: NAP(),
    "Mahalanobis": lambda: Mahalanobis(),
    "Mahalanobis-errors": lambda: Mahalanobis(["code", "difference", "errors"]),
    "LatentDensity": lambda: LatentDensity(components=4),
    "LatentDensity-several": lambda: LatentDensity([1, 4, 8]),
    "LatentDensity-errors": lambda: LatentDensity(2, ["code", "difference", "errors", "blocks"]),
    "KNearestNeighbours": lambda: KNearestNeighbours(),
    "ReconstructionProbability": lambda: ReconstructionProbability(),
    "LikelihoodRegret": lambda: LikelihoodRegret(steps=20),
    "InputComplexity": lambda: InputComplexity(compressor="zlib"),
    "Combined": lambda: Combined([ReconstructionError(), NAP(), LatentDensity(components=2)]),
}


def samples(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Points near a bent surface of two dimensions in ten, in [0, 1]; shifted ones lie on it, but elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, 2, generator=generator) + shift
    angles = torch.arange(10) * 0.6
    surface = (3 * (z - 0.5) @ torch.stack([angles.cos(), angles.sin()])).sigmoid()
    return (surface + 0.01 * torch.randn(n, 10, generator=generator)).clamp(0, 1)


@pytest.fixture(scope="module")
def model() -> VAE:
    torch.manual_seed(0)
    model = VAE([10], network=MLP([32, 16]), latent_dim=2, likelihood=Gaussian(0.01), beta=1.0)
    x, optimizer = samples(1000, 0), torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(600):
        loss = model.objective(x, 1.0)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    return list(samples(300, 1).split(64))


class Identity(nn.Module):
    """Encodes x as itself."""

    def encode(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("name", SCORES)
@torch.no_grad()
def test_contract(name: str, model: VAE, batches: list[Tensor]) -> None:
    score = SCORES[name]()
    score.check(model)
    score.fit(model, batches)
    normal, strange = samples(100, 2), samples(100, 3, shift=1.5)
    x = torch.cat([normal, strange])
    scores = score(model, x)
    assert scores.shape == (200,)
    assert scores.isfinite().all()
    assert not scores.requires_grad
    assert roc_auc_score([0] * 100 + [1] * 100, scores) > 0.95
    torch.testing.assert_close(score(model, x), scores, rtol=0, atol=0)
    alone = torch.cat([score(model, x[:3]), score(model, x[3:])])
    torch.testing.assert_close(alone, scores, rtol=1e-3, atol=1e-3)
    fresh = SCORES[name]()
    fresh.load_state_dict(score.state_dict())
    torch.testing.assert_close(fresh(model, x), scores, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(score(model, x.clone()), scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (200, 5)])
def test_ledoit_wolf_is_scikit_learns(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).double() * torch.linspace(0.1, 3, shape[1]) + 1
    truth = sklearn.covariance.LedoitWolf().fit(x.numpy())
    covariance = ledoit_wolf(x, rank=100)
    outside = torch.eye(shape[1]).double() - covariance.directions @ covariance.directions.T
    sigma = covariance.directions @ torch.diag(covariance.variances) @ covariance.directions.T
    sigma = sigma + (0 if covariance.rest.isinf() else covariance.rest * outside)
    np.testing.assert_allclose(sigma, truth.covariance_, atol=1e-10)


def test_ledoit_wolf_keeps_the_total_variance_with_few_directions() -> None:
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    whole, part = ledoit_wolf(x, rank=20), ledoit_wolf(x, rank=3)
    torch.testing.assert_close(part.variances, whole.variances[:3])
    assert part.variances.sum() + 17 * part.rest == pytest.approx(float(whole.variances.sum()))


@pytest.mark.parametrize("n", [8, 100])
def test_mahalanobis_is_scikit_learns(n: int) -> None:
    x = torch.randn(n, 20, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, 20)
    score = Mahalanobis()
    score.fit(Identity(), [x])
    truth = sklearn.covariance.LedoitWolf().fit(x.numpy())
    new = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(score(Identity(), new), truth.mahalanobis(new.numpy()), rtol=1e-4)


@pytest.mark.parametrize("score", [Mahalanobis(), LatentDensity(components=2)])
def test_codes_that_do_not_vary(score: Score) -> None:
    score.fit(Identity(), [torch.ones(20, 3)])
    scores = score(Identity(), torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.1]]))
    assert scores.isfinite().all()
    assert scores[0] < scores[1]


def test_latent_density_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 3, generator=generator) + m for m in (0.0, 5.0)])
    x = x * torch.tensor([1.0, 10.0, 0.1]) - 3
    score = LatentDensity(components=2, regularization=1e-3)
    score.fit(Identity(), x.split(100))
    scaler = StandardScaler().fit(x.double().numpy())
    truth = sklearn.mixture.GaussianMixture(2, reg_covar=1e-3, random_state=0, max_iter=200)
    truth.fit(scaler.transform(x.double().numpy()))
    new = 4 * torch.randn(50, 3, generator=generator)
    expected = np.log(scaler.scale_).sum() - truth.score_samples(scaler.transform(new.double().numpy()))
    np.testing.assert_allclose(score(Identity(), new), expected, rtol=1e-4)


def test_the_number_of_components_is_the_one_that_left_out_samples_ask_for() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = 8 * torch.eye(3)[torch.randint(3, (600,), generator=generator)]
    x = centers + torch.randn(600, 3, generator=generator)
    scaled = StandardScaler().fit_transform(x.numpy())
    left_out, rest = scaled[::10], np.delete(scaled, np.s_[::10], axis=0)
    truth = {k: sklearn.mixture.GaussianMixture(k, reg_covar=1e-3, random_state=0).fit(rest) for k in (1, 3, 60)}
    density = {k: mixture.score(left_out) for k, mixture in truth.items()}
    assert density[3] > max(density[1], density[60])
    score = LatentDensity([1, 3, 60, 1000], regularization=1e-3)
    score.fit(Identity(), x.split(100))
    assert len(score.means) == 3
    expected = torch.from_numpy(truth[3].means_) * x.std(0, correction=0) + x.mean(0)
    torch.testing.assert_close(score.means.sort(0).values, expected.float().sort(0).values, rtol=1e-3, atol=1e-3)
    few = LatentDensity([2, 30])
    few.fit(Identity(), [x[:40]])
    assert len(few.means) == 2  # 30 components are not tried on 40 samples


@torch.no_grad()
def test_features_of_images_say_where_the_error_is() -> None:
    torch.manual_seed(0)
    model = VAE([3, 14, 28], network=Conv([4]), latent_dim=2).eval()
    x = torch.rand(5, 3, 14, 28)
    features = latent_features(model, x, ["code", "difference", "errors", "blocks"])
    assert features.shape == (5, 2 + 2 + 3 + 49)
    torch.testing.assert_close(features[:, :2], model.encode(x))
    d = (x - model.reconstruct(x)).square()
    torch.testing.assert_close(features[:, 4].exp(), d.sum((1, 2, 3)))
    torch.testing.assert_close(features[:, -1].exp(), d[:, :, -2:, -4:].mean((1, 2, 3)))


def test_nearest_neighbours_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    x, new = torch.randn(100, 4, generator=generator), torch.randn(20, 4, generator=generator)
    score = KNearestNeighbours(k=3)
    score.fit(Identity(), x.split(30))
    truth, _ = NearestNeighbors(n_neighbors=3).fit(x.numpy()).kneighbors(new.numpy())
    np.testing.assert_allclose(score(Identity(), new), truth.mean(1), rtol=1e-5)


def test_reservoir_is_a_uniform_draw_of_bounded_size() -> None:
    counts = np.zeros(50)
    for start in range(400):  # 50 places in the stream, at another offset each time
        rows = torch.arange(start, start + 50)
        drawn = reservoir(rows.roll(-7 * start).split(13), 20, 1, "it")
        assert len(drawn) == len(drawn.unique()) == 20
        counts[drawn.numpy() - start] += 1
    assert chisquare(counts).pvalue > 1e-3
    torch.testing.assert_close(reservoir([rows], 20, 1, "it"), reservoir(rows.split(9), 20, 1, "it"))
    torch.testing.assert_close(reservoir(rows.split(9), 50, 1, "it"), rows)


@pytest.mark.parametrize(
    ("score", "needed"), [(LatentDensity(components=10), 20), (KNearestNeighbours(k=8), 8), (Mahalanobis(), 2)]
)
def test_too_few_calibration_samples(score: Score, needed: int) -> None:
    with pytest.raises(UserError, match=f"{type(score).__name__} needs {needed} normal .* got {needed - 1}"):
        score.fit(Identity(), [torch.randn(needed - 1, 3)])


def test_a_ruined_model_is_not_fitted_on() -> None:
    with pytest.raises(UserError, match="Mahalanobis cannot be fitted: the model's outputs are NaN"):
        Mahalanobis().fit(Identity(), [torch.full((9, 3), math.nan)])


def linear_model(sigma: float) -> tuple[VAE, Tensor]:
    """Decoder x = W z + N(0, σ²), WᵀW diagonal, so that the true posterior is diagonal; the encoder halves its mean."""
    w = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(0))).Q * torch.tensor([2.0, 1.0])
    model = VAE([6], network=MLP([]), latent_dim=2, likelihood=Gaussian(sigma**2)).eval()
    precision = 1 + w.square().sum(0) / sigma**2
    with torch.no_grad():
        model.decoder[0][0].weight.copy_(w)
        model.decoder[0][0].bias.zero_()
        model.encoder[0][1].weight.copy_(torch.cat([0.5 * w.T / sigma**2 / precision[:, None], torch.zeros(2, 6)]))
        model.encoder[0][1].bias.copy_(torch.cat([torch.zeros(2), -precision.log()]))
    return model, w


@torch.no_grad()
def test_reconstruction_probability_in_closed_form() -> None:
    model, w = linear_model(sigma=0.5)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    mu, logvar = model.posterior(x)
    spread = (logvar.exp() * w.square().sum(0)).sum(1)
    truth = 0.5 * (((x - mu @ w.T).square().sum(1) + spread) / 0.25 + 6 * math.log(2 * math.pi * 0.25))
    found = ReconstructionProbability(samples=20000)(model, x)
    torch.testing.assert_close(found, truth, rtol=0.01, atol=0.1)


@torch.no_grad()
def test_likelihood_regret_is_the_gap_to_the_evidence() -> None:
    # with a diagonal true posterior the best ELBO is log p(x) itself
    model, w = linear_model(sigma=0.5)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    marginal = torch.distributions.MultivariateNormal(torch.zeros(6), w @ w.T + 0.25 * torch.eye(6))
    gap = marginal.log_prob(x) + NegativeELBO(samples=5000)(model, x)
    found = LikelihoodRegret(steps=300, lr=0.02, samples=5000)(model, x)
    assert (gap > 0).all()
    torch.testing.assert_close(found, gap, rtol=0.02, atol=0.02)


def test_likelihood_regret_leaves_the_models_gradients_alone() -> None:
    model, _ = linear_model(sigma=0.5)
    LikelihoodRegret(steps=2)(model, torch.randn(3, 6))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_input_complexity_is_the_compressed_length() -> None:
    class Flat(Score):
        requires = ()

        def forward(self, model: object, x: Tensor) -> Tensor:
            return torch.full((len(x),), 1000.0)

    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.full((3, 12, 12), 0.5), torch.rand(3, 12, 12, generator=generator)])
    lengths = []
    for image in (x * 255).round().byte().numpy():
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG", optimize=True)
        lengths.append([len(file.getvalue()), len(zlib.compress(image.tobytes(), 9))])
    expected = 1000 - 8 * math.log(2) * torch.tensor(lengths).float()
    torch.testing.assert_close(InputComplexity(Flat(), "png")(None, x), expected[:, 0])
    torch.testing.assert_close(InputComplexity(Flat(), "zlib")(None, x), expected[:, 1])
    assert expected[0, 0] > expected[1, 0]


@torch.no_grad()
def test_pathway_scores_by_hand(model: VAE, batches: list[Tensor]) -> None:
    x = samples(5, 4)
    r = model.reconstruct(x)
    d = [x - r]
    for block in model.encoder[:-1]:
        x, r = block(x), block(r)
        d.append(x - r)
    d.append((model.encoder[-1](x) - model.encoder[-1](r))[:, :2])
    torch.testing.assert_close(SAP()(model, samples(5, 4)), torch.cat(d, 1).square().sum(1))
    torch.testing.assert_close(SAP(["input"])(model, samples(5, 4)) / 10, ReconstructionError()(model, samples(5, 4)))
    torch.testing.assert_close(NAP().represent(model, samples(5, 4)), torch.cat(d, 1))
    nap = NAP(capacity=10_000)
    nap.fit(model, batches)
    # the mean squared distance of what Σ was fitted on is its rank, at most: less where the shrinkage adds variance
    assert 5 < torch.cat([nap(model, x) for x in batches]).mean() < 10 + 32 + 16 + 2


@torch.no_grad()
def test_combined_is_the_mean_of_standard_scores(model: VAE, batches: list[Tensor]) -> None:
    parts = [ReconstructionError(), NegativeELBO()]
    combined = Combined(parts, weights=[1.0, 3.0])
    combined.fit(model, batches)
    x, calibration = samples(20, 5), torch.cat(batches)
    expected = sum(
        w * (s(model, x) - s(model, calibration).mean()) / s(model, calibration).std()
        for w, s in zip([1.0, 3.0], parts, strict=True)
    )
    torch.testing.assert_close(combined(model, x), expected, rtol=1e-4, atol=1e-4)


def held_out_scores(score: Score, model: nn.Module, val: list[Tensor], train: list[Tensor] | None = None) -> Tensor:
    """Of each validation sample, once ``score`` is fitted."""
    scorers = score.calibrate(model, val, train)
    return torch.cat([alternate(scorers, model, x) for x in val])


@torch.no_grad()
def test_held_out_scores_have_not_seen_their_sample() -> None:
    # 30 samples in 20 dimensions: what was fitted on lies far closer to the mean than anything new
    x, new = torch.randn(2, 60, 20, generator=torch.Generator().manual_seed(0))
    score = KNearestNeighbours(k=1)
    score.fit(Identity(), [x])
    assert score(Identity(), x).max() < 1e-2
    held_out = held_out_scores(KNearestNeighbours(k=1), Identity(), list(x.split(7)))
    assert len(held_out) == 60
    assert held_out.mean() == pytest.approx(float(score(Identity(), new).mean()), rel=0.1)


@torch.no_grad()
def test_scores_are_fitted_on_the_split_they_ask_for(model: VAE, batches: list[Tensor]) -> None:
    train, x = [samples(400, 6)], samples(20, 7)
    for build in (
        lambda on: LatentDensity(2, fit_on=on),
        lambda on: NAP(fit_on=on),
        lambda on: KNearestNeighbours(fit_on=on),
    ):
        for on, expected in (("train", train), ("val", batches)):
            calibrated, fitted = build(on), build(on)
            scores = held_out_scores(calibrated, model, batches, train)
            fitted.fit(model, expected)
            torch.testing.assert_close(calibrated(model, x), fitted(model, x))
            if on == "train":
                torch.testing.assert_close(scores, torch.cat([fitted(model, b) for b in batches]))


def test_what_a_model_lacks_is_said_when_it_is_built() -> None:
    with pytest.raises(UserError, match="NAP needs hidden layers, and the network has none"):
        Autoencoder([4], network=MLP([]), scores=[NAP()])
    Autoencoder([4], network=MLP([]), scores=[NAP(["input", "latent"])])
    with pytest.raises(UserError, match="LikelihoodRegret needs a model with `posterior`, which Autoencoder has not"):
        Autoencoder([4], scores=[LikelihoodRegret()])
    with pytest.raises(UserError, match="KNearestNeighbours needs a model with `encode`"):
        KNearestNeighbours().check(nn.Linear(1, 1))
    with pytest.raises(UserError, match="LikelihoodRegret needs"):
        Autoencoder([4], scores=[Combined([ReconstructionError(), LikelihoodRegret()])])
    with pytest.raises(UserError, match=r"\[4\] are no PNG images"):
        VAE([4], scores=[InputComplexity()])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: NAP([]), "layers = \\[\\]"),
        (lambda: SAP(["output"]), "layers = \\['output'\\]"),  # type: ignore[list-item]
        (lambda: Mahalanobis([]), "features = \\[\\]"),
        (lambda: Mahalanobis(capacity=1), "capacity = 1"),
        (lambda: LatentDensity(components=0), "components = 0"),
        (lambda: LatentDensity(components=[]), "components = 0"),
        (lambda: LatentDensity(regularization=0), "regularization = 0"),
        (lambda: KNearestNeighbours(k=0), "k = 0"),
        (lambda: LikelihoodRegret(steps=0), "steps = 0"),
        (lambda: ReconstructionProbability(samples=0), "samples = 0"),
        (lambda: Combined([NAP()]), "holds 1"),
        (lambda: Combined([NAP(), SAP()], weights=[1.0]), "weights = \\[1.0\\]"),
    ],
)
def test_unsuitable_arguments(build, says: str) -> None:
    with pytest.raises(UserError, match=says):
        build()


def test_thresholds_keep_their_promise_for_scores_that_fit_closely() -> None:
    # 5 % of new normal samples may raise an alarm; a threshold on the fitted samples themselves lets most do so
    x, new = torch.randn(2, 400, 30, generator=torch.Generator().manual_seed(0))
    detector = Detector([KNearestNeighbours(k=1), LatentDensity(components=8)], Percentile(95))
    detector.fit(Identity(), list(x.split(64)))
    for name, scores in detector(Identity(), new).items():
        assert detector.thresholds[name](scores).float().mean() < 0.1, name


def test_a_checkpoint_brings_nested_scores_back(tmp_path, model: VAE, batches: list[Tensor]) -> None:
    torch.manual_seed(0)
    scores = [
        Combined([NAP(["hidden"]), InputComplexity(NegativeELBO(samples=2), "zlib")]),
        LatentDensity(components=2),
    ]
    saved = VAE([10], network=MLP([32, 16]), latent_dim=2, scores=scores)
    saved.eval()
    saved.detector.fit(saved, batches)
    trainer = Trainer(max_epochs=0, logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(saved)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = VAE.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    for name, expected in saved.detector(saved, batches[0]).items():
        torch.testing.assert_close(loaded.detector(loaded, batches[0])[name], expected)
