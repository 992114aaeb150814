"""Thresholds against numpy and against the share of alarms that they promise."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from vae_lightning.detection.thresholds import LeakingPercentile, Percentile, Threshold
from vae_lightning.errors import UserError

# A new threshold costs one line here: itself, and the share of normal samples that it lets raise an alarm.
THRESHOLDS: dict[str, tuple[Callable[[], Threshold], float]] = {
    "Percentile(95)": (Percentile, 0.05),
    "Percentile(50)": (lambda: Percentile(50), 0.5),
    "Percentile(100)": (lambda: Percentile(100), 0.0),
    "LeakingPercentile(95)": (LeakingPercentile, 0.05),
}


@pytest.fixture(params=THRESHOLDS)
def named(request: pytest.FixtureRequest) -> tuple[Threshold, float]:
    build, share = THRESHOLDS[request.param]
    return build(), share


def test_the_share_of_alarms_is_the_one_promised(named: tuple[Threshold, float]) -> None:
    threshold, share = named
    generator = torch.Generator().manual_seed(0)
    scores, fresh = torch.randn(2, 20_000, generator=generator).exp()
    threshold.fit(scores)
    assert float(threshold(scores).double().mean()) == pytest.approx(share, abs=1 / 20_000)
    error = (2 * max(share * (1 - share), 1 / 20_000) / 20_000) ** 0.5  # of the fit and of the count
    assert abs(float(threshold(fresh).double().mean()) - share) < 4 * error


def test_the_decision_is_monotonic_in_the_score(named: tuple[Threshold, float]) -> None:
    threshold, _ = named
    threshold.fit(torch.linspace(0, 1, 101))
    alarms = threshold(torch.linspace(-1, 2, 301))
    assert alarms.dtype == torch.bool
    assert torch.equal(alarms, alarms.sort().values)
    assert not alarms[0]
    assert alarms[-1]


def test_it_is_unfitted_until_it_is_fitted_and_then_travels_in_the_state_dict(named: tuple[Threshold, float]) -> None:
    threshold, _ = named
    other = type(threshold)()
    assert other.value.dtype == torch.float32  # what every accelerator has
    assert other.value.isnan()
    assert not other(torch.tensor([-1e9, 1e9])).any()  # no decision without a threshold
    threshold.fit(torch.rand(100))
    other.load_state_dict(threshold.state_dict())
    assert torch.equal(other.value, threshold.value)


@pytest.mark.parametrize("percentile", [0, 12.5, 50, 95, 99.9, 100])
@pytest.mark.parametrize("n", [1, 2, 57, 1000])
def test_the_percentile_is_numpys(percentile: float, n: int) -> None:
    scores = torch.randn(n, generator=torch.Generator().manual_seed(1))
    threshold = Percentile(percentile)
    threshold.fit(scores)
    exact = np.percentile(scores.double().numpy(), percentile)
    assert float(threshold.value) == pytest.approx(exact, rel=2**-23)
    nearest = torch.tensor(exact).float()
    around = torch.stack([nearest, *(nearest.nextafter(torch.tensor(end)) for end in (-9.0, 9.0))])
    for some in (scores, around):
        assert torch.equal(threshold(some), some.double() > exact)


def test_single_precision_scores_are_compared_with_the_threshold_they_gave() -> None:
    """The largest normal score is not above the largest normal score."""
    scores = torch.tensor([0.1, 0.2, 0.7])
    threshold = Percentile(100)
    threshold.fit(scores)
    assert threshold(scores).tolist() == [False, False, False]
    assert threshold(torch.nextafter(scores, torch.tensor(9.0))).tolist() == [False, False, True]


@pytest.mark.parametrize("percentile", [-1.0, 100.5, float("nan")])
def test_a_wrong_percentile_is_named(percentile: float) -> None:
    with pytest.raises(UserError, match=f"Percentile: percentile = {percentile} "):
        Percentile(percentile)


def test_only_the_leaking_one_is_fitted_on_test_samples() -> None:
    assert (Percentile.fitted_on, Percentile().leaks) == ("val", False)
    assert (LeakingPercentile.fitted_on, LeakingPercentile().leaks) == ("test", True)
