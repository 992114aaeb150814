"""The promise of a threshold, score by score: of new normal samples as many raise an alarm as Beta's law allows."""

import copy

import pytest
import torch
from scipy.stats import betabinom
from surface import SCORES, samples, surface_model

from vae_lightning.detection import Conformal, Detector, Unchanged

N, NEW = 199, 2000  # calibration samples, and new ones


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("name", [name for name in SCORES if name != "LikelihoodRegret"])
def test_the_rate_of_false_alarms_is_the_one_promised(name: str, alpha: float) -> None:
    """The score is fitted on training samples, the weights too: none of that makes the threshold too low or too high.

    The number of alarms among new samples follows the beta-binomial law of the rank; a tail of one in 10⁵ is allowed.
    """
    model = copy.copy(surface_model())
    model.__dict__["_modules"] = copy.copy(model._modules)
    model.preprocessing = Unchanged()
    model.scores = torch.nn.ModuleDict({name: SCORES[name]()})  # type: ignore[assignment]
    model.thresholds = torch.nn.ModuleDict({name: Conformal(alpha)})  # type: ignore[assignment]
    detector = Detector(model)
    detector.fit([samples(1000, 0)], [samples(200, 1)])
    detector.calibrate(samples(N, 2))
    alarms = int(detector.predict(samples(NEW, 3)).sum())
    k = round(alpha * (N + 1))
    law = betabinom(NEW, k, N + 1 - k)
    assert law.ppf(1e-5) <= alarms <= law.isf(1e-5)
    p = detector.p_values(samples(NEW, 3))
    assert torch.equal(detector.predict(samples(NEW, 3)), p <= alpha)
