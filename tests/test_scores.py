"""One contract for every score, on a VAE that was trained for a moment."""

import inspect
from collections.abc import Callable

import pytest
import torch
from sklearn.metrics import roc_auc_score
from surface import SCORES, samples, surface_model
from torch import Tensor, nn

from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.models.networks import MLP
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
)

TRAIN, VAL = list(samples(300, 1).split(64)), list(samples(200, 5).split(64))
STRANGE = samples(100, 3, shift=1.5)
X = torch.cat([samples(100, 2), STRANGE])
# An optimiser's steps carry rounding errors on, and a squared distance has them relative to what Σ⁻¹ makes of them.
TOLERANCE = {"rtol": 5e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def model() -> VAE:
    return surface_model()


@pytest.fixture(scope="module", params=SCORES)
def build(request: pytest.FixtureRequest) -> Callable[[], Score]:
    return SCORES[request.param]


@pytest.fixture(scope="module")
def score(build: Callable[[], Score], model: VAE) -> Score:
    fitted = build()
    fitted.check(model)
    with torch.no_grad():
        fitted.fit(model, TRAIN, VAL)
    return fitted


@torch.no_grad()
def test_planted_anomalies_score_higher(score: Score, model: VAE) -> None:
    scores = score(model, X)
    assert scores.shape == (200,)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert roc_auc_score([0] * 100 + [1] * 100, scores) > 0.95
    assert score(model, 100 * X).isfinite().all()


def test_a_score_is_deterministic(score: Score, model: VAE) -> None:
    with torch.no_grad():
        torch.manual_seed(1)
        first = score(model, X)
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(1).get_state())  # nothing drawn from it
        torch.manual_seed(2)
        assert torch.equal(score(model, X), first)
    with torch.inference_mode():
        torch.testing.assert_close(score(model, X.clone()), first, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_score_is_of_each_sample_alone(size: int, score: Score, model: VAE) -> None:
    """The order of sums within a matrix product may change with the size of a batch, nothing else."""
    x = X[68:132]
    whole = score(model, x)
    parts = torch.cat([score(model, part) for part in x.split(size)])
    torch.testing.assert_close(parts, whole, **TOLERANCE)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(score(model, x[order]), whole[order], **TOLERANCE)
    assert score(model, x[:0]).shape == (0,)


@torch.no_grad()
def test_what_a_score_has_learned_is_in_its_state_dict(score: Score, build: Callable[[], Score], model: VAE) -> None:
    fresh = build()
    fresh.load_state_dict(score.state_dict())
    assert not any(buffer.dtype == torch.float64 for buffer in score.buffers())  # not every accelerator has doubles
    assert torch.equal(fresh(model, X), score(model, X))


def test_a_score_changes_neither_model_nor_samples(score: Score, model: VAE) -> None:
    before, x = {key: value.clone() for key, value in model.state_dict().items()}, X.clone()
    with torch.no_grad():
        score(model, x)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(x, X)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_score_keeps_its_arguments(score: Score) -> None:
    if "__init__" in vars(type(score)):
        for name in inspect.signature(type(score)).parameters:
            assert hasattr(score, name), name


def test_only_what_combines_looks_at_validation_samples(build: Callable[[], Score], model: VAE) -> None:
    fitted, other = build(), build()
    with torch.no_grad():
        fitted.fit(model, iter_once_more(TRAIN), VAL)
        other.fit(model, TRAIN, [STRANGE])
    same = all(torch.equal(a, b) for a, b in zip(fitted.buffers(), other.buffers(), strict=True))
    assert same != isinstance(fitted, Combined)
    for a, b in zip(fitted.children(), other.children(), strict=True):
        if not any(isinstance(part, Combined) for part in a.modules()):
            assert all(torch.equal(p, q) for p, q in zip(a.buffers(), b.buffers(), strict=True))


class iter_once_more:  # noqa: N801 (reads as a function)
    """Batches that are made anew each time they are gone through, as a loader's are."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __iter__(self):
        return (x.clone() for x in self.batches)


# What is refused


def test_what_a_model_lacks_is_said_when_it_is_built() -> None:
    with pytest.raises(UserError, match="NegativeELBO needs a model with `posterior`, which Autoencoder has not"):
        Autoencoder([4], MLP([3]), 2, scores=[NegativeELBO()])
    with pytest.raises(UserError, match="NAP needs hidden layers, and the network has none"):
        Autoencoder([4], network=MLP([]), scores=[NAP()])
    Autoencoder([4], network=MLP([]), scores=[NAP(["input", "latent"])])
    with pytest.raises(UserError, match="LikelihoodRegret needs a model with `posterior`, which Autoencoder has not"):
        Autoencoder([4], scores=[LikelihoodRegret()])
    with pytest.raises(UserError, match="KNearestNeighbours needs a model with `encode`"):
        KNearestNeighbours().check(nn.Linear(1, 1))
    with pytest.raises(UserError, match="LikelihoodRegret needs"):
        Autoencoder([4], scores=[Combined([ReconstructionError(), LikelihoodRegret()])])
    with pytest.raises(UserError, match=r"\[4\] are not PNG images"):
        VAE([4], scores=[InputComplexity()])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: NegativeELBO(samples=-1), "NegativeELBO: samples = -1"),
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
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unsuitable_arguments(build: Callable[[], Score], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build()
