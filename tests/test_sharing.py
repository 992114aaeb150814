"""Passes that scores share: the same scores, fewer passes, and nothing kept."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_lightning.detection import Detector, Percentile, Unchanged
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.models.networks import MLP
from vae_lightning.scores import (
    NAP,
    SAP,
    Combined,
    ImportanceWeighted,
    KNearestNeighbours,
    LikelihoodRegret,
    NegativeELBO,
    NegativeLogLikelihood,
    ReconstructionError,
    ReconstructionProbability,
    Score,
)
from vae_lightning.scores.sharing import each, shared, sharing

BATCHES = list(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).split(25))


def scores() -> list[Score]:
    drawn = [NegativeELBO(4), ImportanceWeighted(6), ReconstructionProbability(3), LikelihoodRegret(steps=3)]
    fitted = [NAP(), KNearestNeighbours(2), Combined([NAP(), ReconstructionError()])]
    return [ReconstructionError(), NegativeELBO(), NegativeLogLikelihood(), SAP(), *drawn, *fitted]


def build(given: list[Score] | None = None) -> VAE:
    torch.manual_seed(0)
    return VAE([4], MLP([6]), 2, scores=given, threshold=Percentile(80), preprocessing=Unchanged()).eval()


def fitted(given: list[Score]) -> Detector:
    detector = build(given).detector
    detector.fit(BATCHES, BATCHES)
    detector.calibrate(BATCHES)
    return detector


@pytest.fixture
def model() -> VAE:
    return build()


def count_passes(model: Autoencoder) -> dict[str, int]:
    """Samples that go through encoder and decoder from now on."""
    counts = {"encoder": 0, "decoder": 0}

    def count(name: str, x: Tensor) -> None:
        counts[name] += len(x)

    for name in counts:
        getattr(model, name).register_forward_pre_hook(lambda _, args, name=name: count(name, args[0]))
    return counts


def test_shared_passes_give_the_scores_of_separate_ones() -> None:
    detector = fitted(scores())
    for x in BATCHES:
        with torch.inference_mode():
            together = detector(x).each
        for name, score in detector.model.scores.items():
            with torch.no_grad():
                assert torch.equal(together[name], score(detector.model, x)), name


def test_thresholds_are_those_of_separate_calibrations() -> None:
    together = fitted(scores()).model.thresholds
    for threshold, score in zip(together.values(), scores(), strict=True):
        alone = fitted([score])
        assert torch.equal(alone.threshold.value, threshold.value), score
        assert torch.equal(alone.threshold.calibration, threshold.calibration), score


def test_scores_of_the_reconstruction_make_one_pass() -> None:
    detector = build([ReconstructionError(), NegativeELBO(), NegativeLogLikelihood()]).detector
    counts = count_passes(detector.model)
    detector.fit(BATCHES, BATCHES)
    detector.calibrate(BATCHES)
    assert counts == {"encoder": 60, "decoder": 60}
    detector(BATCHES[0])
    assert counts == {"encoder": 85, "decoder": 85}


def test_a_model_is_left_alone(model: VAE) -> None:
    before = dict(vars(model))
    with torch.no_grad():
        view = sharing(model, BATCHES[0])
        view.encode(BATCHES[0])
    assert type(view) is VAE
    assert vars(model) == before
    assert not hasattr(model, "passes")
    assert all(a is b for a, b in zip(view.parameters(), model.parameters(), strict=True))


def test_nothing_is_kept_after_the_batch(model: VAE) -> None:
    with torch.no_grad():
        for view, x in each(model, BATCHES):
            kept = [weakref.ref(t) for t in (view, x, view.encode(x), view.reconstruct(x), view.passes)]
            break
        del view, x
    gc.collect()
    assert [ref() for ref in kept] == [None] * 5


@torch.no_grad()
def test_another_tensor_is_no_copy_of_x(model: VAE) -> None:
    x, counts = BATCHES[0].clone(), count_passes(model)
    view = sharing(model, x)
    for t in (x, x, view.passes.copy(x)):
        assert torch.equal(view.encode(t), model.encoder(x).chunk(2, 1)[0])
    counts.update(encoder=0)
    view.encode(x)
    assert counts["encoder"] == 0
    view.encode(x.clone())  # were it equal: who made it may write into x and not into it
    assert counts["encoder"] == 25


class Careless(Score):
    """Works in place, on all that it is given."""

    requires = ("posterior", "hidden", "reconstruct")

    def forward(self, model: Any, x: Tensor) -> Tensor:
        x.mul_(2)
        r = model.reconstruct(x)
        r.sub_(x).square_()
        mu, logvar = model.posterior(x)
        mu.add_(3), logvar.zero_()
        for h in (*model.hidden(x), model.encode(x), model.decode(mu)):
            h.zero_()
        return r.flatten(1).sum(1).add_(model.encode(r).sum(1))


class CarelessLate(Score):
    """Asks for what is remembered, writes into it, and asks on with what it wrote into."""

    def forward(self, model: Any, x: Tensor) -> Tensor:
        r = model.reconstruct(x)
        first = model.encode(r).sum(1)
        r.numpy()[:] = 0  # a write that PyTorch does not count
        codes = model.encode(x).mul_(2)
        return first + model.encode(r).sum(1) + model.decode(codes).flatten(1).sum(1)


@pytest.mark.parametrize("careless", [Careless, CarelessLate])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_score_that_writes_in_place_changes_nothing(careless: type[Score], context: Any, model: VAE) -> None:
    if context is torch.enable_grad:
        model.requires_grad_(False)
    before, x = BATCHES[0].clone(), BATCHES[0].clone()
    others = [s for s in scores() if not any(True for _ in s.buffers())]
    with context():
        alone = [score(model, before.clone()) for score in [careless(), *others]]
        for order in (1, -1):
            view = sharing(model, x)
            together = [score(view, x) for score in [careless(), *others][::order]][::order]
            for a, b, score in zip(together, alone, [careless(), *others], strict=True):
                assert torch.equal(a, b), score
    assert torch.equal(x, before)


@torch.no_grad()
def test_writing_into_a_batch_while_fitting_changes_no_data(model: VAE) -> None:
    batches = [x.clone() for x in BATCHES]
    for view, x in each(model, batches):
        plain = model.encode(x.clone() * 2)
        view.encode(x)
        x.mul_(2)
        assert torch.equal(view.encode(x), plain)
    assert all(torch.equal(a, b) for a, b in zip(batches, BATCHES, strict=True))


@torch.no_grad()
def test_a_batch_that_its_owner_changes_is_a_new_one(model: VAE) -> None:
    x = BATCHES[0].clone()
    view = sharing(model, x)
    view.reconstruct(x)
    x.mul_(3)
    assert torch.equal(view.reconstruct(x), model.reconstruct(x))


class Deeper(VAE):
    """A model that overrides shared methods by means of their own."""

    @shared
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) + 1

    @shared
    def hidden(self, x: Tensor) -> list[Tensor]:
        return [*super().hidden(x), super().encode(x), x]


@torch.no_grad()
def test_super_is_another_method() -> None:
    model, x = Deeper([4], MLP([6]), 2).eval(), BATCHES[0]
    view = sharing(model, x)
    for _ in range(2):
        assert torch.equal(view.encode(x), model.posterior(x)[0] + 1)
        assert torch.equal(view.hidden(x)[1], model.posterior(x)[0])
        view.hidden(x)[2].zero_()
        assert torch.equal(view.hidden(x)[2], x)


def test_threads_score_through_one_model() -> None:
    detector = fitted(scores())
    inputs = [torch.randn(30, 4, generator=torch.Generator().manual_seed(i)) for i in range(8)]

    def score(x: Tensor) -> dict[str, Tensor]:
        return detector(x).each

    expected = [score(x) for x in inputs]
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=start.wait) as pool:
        for found, alone in zip(pool.map(score, inputs * 10), expected * 10, strict=True):
            assert all(torch.equal(found[name], alone[name]) for name in alone)


@torch.no_grad()
def test_a_change_of_weights_shows_in_the_next_batch() -> None:
    detector = fitted([ReconstructionError()])
    before = detector.score(BATCHES[0])
    for parameter in detector.model.parameters():
        parameter.mul_(2)
    assert not torch.equal(detector.score(BATCHES[0]), before)


def test_gradients_are_computed_anew(model: VAE) -> None:
    x = BATCHES[0].clone().requires_grad_()
    (plain,) = torch.autograd.grad(ReconstructionError()(model, x).sum(), x)
    view = sharing(model, x)
    with torch.no_grad():
        view.reconstruct(x)
    for _ in range(2):  # a remembered graph could be gone through only once
        (again,) = torch.autograd.grad(ReconstructionError()(view, x).sum(), x)
        assert torch.equal(again, plain)
