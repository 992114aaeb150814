"""Passes that scores share: the same scores, fewer passes, and nothing kept."""

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor

from vae_lightning.detection.detector import Detector
from vae_lightning.detection.thresholds import Percentile
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
from vae_lightning.scores.sharing import each, sharing

BATCHES = list(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).split(25))


def scores() -> list[Score]:
    drawn = [NegativeELBO(4), ImportanceWeighted(6), ReconstructionProbability(3), LikelihoodRegret(steps=3)]
    fitted = [NAP(), KNearestNeighbours(2), Combined([NAP(), ReconstructionError()])]
    return [ReconstructionError(), NegativeELBO(), NegativeLogLikelihood(), SAP(), *drawn, *fitted]


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE([4], MLP([6]), 2).eval()


def count_passes(model: Autoencoder) -> dict[str, int]:
    """Samples that go through encoder and decoder from now on."""
    counts = {"encoder": 0, "decoder": 0}

    def count(name: str, x: Tensor) -> None:
        counts[name] += len(x)

    for name in counts:
        getattr(model, name).register_forward_pre_hook(lambda _, args, name=name: count(name, args[0]))
    return counts


def test_shared_passes_give_the_scores_of_separate_ones(model: VAE) -> None:
    detector = Detector(scores(), Percentile(80))
    detector.fit(model, BATCHES)
    for x in BATCHES:
        with torch.inference_mode():
            together = detector(model, x)
        for name, score in detector.scores.items():
            with torch.no_grad():
                assert torch.equal(together[name], score(model, x)), name


def test_thresholds_are_those_of_separate_calibrations(model: VAE) -> None:
    together = Detector(scores(), Percentile(80))
    alone = copy.deepcopy(together)
    together.fit(model, BATCHES)
    for name, score in alone.scores.items():
        detector = Detector([score], Percentile(80))
        detector.fit(model, BATCHES)
        assert torch.equal(detector.thresholds[detector.primary].value, together.thresholds[name].value), name


def test_scores_of_the_reconstruction_make_one_pass(model: VAE) -> None:
    detector = Detector([ReconstructionError(), NegativeELBO(), NegativeLogLikelihood()], Percentile())
    counts = count_passes(model)
    detector.fit(model, BATCHES)
    assert counts == {"encoder": 60, "decoder": 60}
    with torch.no_grad():
        detector(model, BATCHES[0])
    assert counts == {"encoder": 85, "decoder": 85}


def test_nothing_is_kept_after_the_batch(model: VAE) -> None:
    x = BATCHES[0].clone()
    with torch.no_grad(), sharing(model, x):
        kept = weakref.ref(model.encode(x))
        assert model.encode(x) is kept()
        assert model.encode(x.clone()) is not kept()  # another tensor, were it equal
    gc.collect()
    assert kept() is None
    assert model.passes is None
    with pytest.raises(RuntimeError, match="a score fails"), sharing(model, x):
        raise RuntimeError("a score fails")
    assert model.passes is None
    for _ in each(model, BATCHES):
        break
    gc.collect()
    assert model.passes is None


@torch.no_grad()
def test_a_change_of_weights_shows_in_the_next_batch(model: VAE) -> None:
    detector = Detector([ReconstructionError()], Percentile())
    before = detector(model, BATCHES[0])["ReconstructionError"]
    for parameter in model.parameters():
        parameter.mul_(2)
    assert not torch.equal(detector(model, BATCHES[0])["ReconstructionError"], before)


def test_gradients_are_computed_anew(model: VAE) -> None:
    x = BATCHES[0].clone().requires_grad_()
    (plain,) = torch.autograd.grad(ReconstructionError()(model, x).sum(), x)
    with sharing(model, x):
        with torch.no_grad():
            model.reconstruct(x)
        for _ in range(2):  # a remembered graph could be gone through only once
            (shared,) = torch.autograd.grad(ReconstructionError()(model, x).sum(), x)
            assert torch.equal(shared, plain)
