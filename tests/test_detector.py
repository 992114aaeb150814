"""The detector: scores, a threshold for each, and a state that travels."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vae_lightning.detection.detector import Detector
from vae_lightning.detection.thresholds import Percentile
from vae_lightning.errors import UserError
from vae_lightning.models import VAE, Autoencoder
from vae_lightning.models.networks import MLP
from vae_lightning.scores import NegativeELBO, NegativeLogLikelihood, ReconstructionError, Score


class Distance(Score):
    """To the nearest of the samples that it was fitted on: a score whose state has no shape before the fit."""

    requires = ()
    memory: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.empty(0))

    def fit(self, model: Any, train: Iterable[Tensor], val: Iterable[Tensor]) -> None:
        self.memory = torch.cat(list(train))

    def forward(self, model: Any, x: Tensor) -> Tensor:
        return torch.cdist(x, self.memory).amin(1)


@pytest.fixture
def model() -> VAE:
    torch.manual_seed(0)
    return VAE([4], MLP([6]), 2).eval()


BATCHES = list(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).split(16))


def test_every_score_is_given_for_every_sample(model: VAE) -> None:
    detector = Detector([ReconstructionError(), NegativeELBO(), NegativeLogLikelihood()], Percentile())
    scores = detector(model, BATCHES[0])
    assert list(scores) == ["ReconstructionError", "NegativeELBO", "NegativeLogLikelihood"]
    assert detector.primary == "ReconstructionError"
    for name, score in detector.scores.items():
        assert torch.equal(scores[name], score(model, BATCHES[0]))


def test_scores_of_one_class_are_told_apart(model: VAE) -> None:
    detector = Detector([NegativeELBO(), NegativeELBO(8), ReconstructionError(), NegativeELBO(8, seed=1)], Percentile())
    assert list(detector.scores) == ["NegativeELBO", "NegativeELBO_2", "ReconstructionError", "NegativeELBO_4"]
    assert list(detector(model, BATCHES[0])) == list(detector.scores) == list(detector.thresholds)


def test_each_score_has_a_threshold_fitted_on_all_batches(model: VAE) -> None:
    detector = Detector([ReconstructionError(), NegativeELBO(), Distance()], Percentile(80))
    assert not detector.fitted
    detector.fit(model, BATCHES)
    assert detector.fitted
    with torch.no_grad():
        for name, score in detector.scores.items():
            everything = score(model, torch.cat(BATCHES)).double().numpy()
            assert float(detector.thresholds[name].value) == pytest.approx(np.percentile(everything, 80), rel=1e-6)
    assert not any(p.grad is not None for p in model.parameters())


def test_the_given_threshold_is_not_shared(model: VAE) -> None:
    threshold = Percentile(70)
    one, other = Detector([ReconstructionError()], threshold), Detector([ReconstructionError()], threshold)
    one.fit(model, BATCHES)
    assert not other.fitted
    assert threshold.value.isnan()
    assert one.thresholds["ReconstructionError"].percentile == 70


def test_fitted_state_travels_whatever_its_shape(model: VAE) -> None:
    detector, fresh = (Detector([Distance(), ReconstructionError()], Percentile()) for _ in range(2))
    detector.fit(model, BATCHES)
    fresh.load_state_dict(detector.state_dict())
    assert fresh.fitted
    x = torch.randn(9, 4)
    with torch.no_grad():
        for name, expected in detector(model, x).items():
            assert torch.equal(fresh(model, x)[name], expected)
            assert torch.equal(fresh.thresholds[name](expected), detector.thresholds[name](expected))


def test_a_second_fit_forgets_the_first(model: VAE) -> None:
    twice, once = (Detector([Distance(), ReconstructionError()], Percentile()) for _ in range(2))
    twice.fit(model, [10 * x for x in BATCHES])
    twice.fit(model, BATCHES)
    once.fit(model, BATCHES)
    for a, b in zip(twice.state_dict().values(), once.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_it_is_in_the_state_dict_of_the_model(model: VAE) -> None:
    assert "detector.thresholds.ReconstructionError.value" in model.state_dict()
    assert isinstance(model.detector, nn.Module)


def test_a_detector_without_scores_is_refused() -> None:
    with pytest.raises(UserError, match="scores is empty: name at least one score"):
        Detector([], Percentile())
    with pytest.raises(UserError, match="scores is empty"):
        Autoencoder([4], MLP([3]), 2, scores=[])


def test_what_a_model_lacks_is_named_at_once() -> None:
    detector = Detector([ReconstructionError(), NegativeELBO()], Percentile())
    with pytest.raises(UserError, match="NegativeELBO needs a model with `posterior`, which Autoencoder has not"):
        detector.check(Autoencoder([4], MLP([3]), 2))
