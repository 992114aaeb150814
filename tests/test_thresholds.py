"""Thresholds against numpy, against the p-values they stand for, and against the share of alarms that they promise."""

import math
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest, norm
from torch import Tensor, nn

from vae_lightning.detection.conformal import alarm_rank, confident_rank
from vae_lightning.detection.thresholds import Conformal, LeakingPercentile, Percentile, Threshold
from vae_lightning.errors import UserError

INF, NAN = float("inf"), float("nan")

# A new threshold costs one line here: itself, and the share of normal samples that it lets raise an alarm.
THRESHOLDS: dict[str, tuple[Callable[[], Threshold], float]] = {
    "Conformal(0.05)": (Conformal, 0.05),
    "Conformal(0.3)": (lambda: Conformal(0.3), 0.3),
    "Percentile(95)": (Percentile, 0.05),
    "Percentile(50)": (lambda: Percentile(50), 0.5),
    "Percentile(100)": (lambda: Percentile(100), 0.0),
    "Percentile(95, linear)": (lambda: Percentile(method="linear"), 0.05),
    "Percentile(100, linear)": (lambda: Percentile(100, method="linear"), 0.0),
    "LeakingPercentile(95)": (LeakingPercentile, 0.05),
}
never = pytest.mark.filterwarnings("ignore:.*nothing raises an alarm")


@pytest.fixture(params=THRESHOLDS)
def named(request: pytest.FixtureRequest) -> tuple[Threshold, float]:
    build, share = THRESHOLDS[request.param]
    return build(), share


def fitted(threshold: Threshold, scores: Tensor) -> Threshold:
    threshold.fit(scores)
    return threshold


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@never
def test_the_share_of_alarms_is_the_one_promised(named: tuple[Threshold, float]) -> None:
    threshold, share = named
    scores, fresh = normal(2, 20_000).exp()
    threshold.fit(scores)
    assert float(threshold(scores).double().mean()) == pytest.approx(share, abs=1.01 / 20_000)
    error = (2 * max(share * (1 - share), 1 / 20_000) / 20_000) ** 0.5  # of the fit and of the count
    assert abs(float(threshold(fresh).double().mean()) - share) < 4 * error
    low, high = threshold.alarm_rate_interval
    assert low <= share <= high < share + 4 * error


@never
def test_the_decision_is_monotonic_in_the_score(named: tuple[Threshold, float]) -> None:
    threshold, _ = named
    threshold.fit(torch.linspace(0, 1, 101))
    alarms = threshold(torch.linspace(-1, 2, 301))
    assert alarms.dtype == torch.bool
    assert torch.equal(alarms, alarms.sort().values)
    assert not alarms[0]
    assert alarms[-1] == threshold.reachable


@never
def test_it_refuses_until_it_is_fitted_and_then_travels_in_the_state_dict(named: tuple[Threshold, float]) -> None:
    threshold, _ = named
    other = type(threshold)()
    assert other.value.dtype == torch.float32  # what every accelerator has
    assert other.value.isnan()
    assert other.describe().endswith(": not calibrated")
    for decide in (other, other.p_values, lambda _: other.alarm_rate_interval):
        with pytest.raises(UserError, match=r"^\w+\(.+\): not calibrated: fit it on scores"):
            decide(torch.tensor([-1e9, 1e9]))
    scores, some = normal(100), normal(50, seed=1)
    with torch.inference_mode():  # as a trainer validates
        threshold.fit(scores.clone())
    for _ in range(2):  # also over what is there already, of another length
        other.load_state_dict(threshold.state_dict())
        assert torch.equal(other.value, threshold.value)
        assert torch.equal(other.calibration, scores.sort().values)
        assert torch.equal(other(some), threshold(some))
        assert torch.equal(other.p_values(some), threshold.p_values(some))
        threshold.fit(scores := normal(60, seed=2))


@never
def test_a_sample_that_cannot_be_scored_is_never_silent(named: tuple[Threshold, float]) -> None:
    threshold, _ = named
    threshold.fit(normal(50))
    assert threshold(torch.tensor([NAN, INF, -INF])).tolist() == [True, threshold.reachable, False]
    smallest = float(np.float32(1) / np.float32(51))
    assert threshold.p_values(torch.tensor([NAN, INF, -INF])).tolist() == [smallest, smallest, 1.0]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "Conformal(α = 0.05): 0 calibration scores"),
        ([1.0, NAN, 2.0, INF], "2 of 4 calibration scores are NaN or infinite, the first at index 1"),
    ],
)
def test_scores_that_nothing_can_be_fitted_on_are_counted(scores: list[float], message: str) -> None:
    threshold = fitted(Conformal(), normal(40))
    before = threshold.value.clone()
    with pytest.raises(UserError) as error:
        threshold.fit(torch.tensor(scores))
    assert message in str(error.value)
    assert (threshold.samples, threshold.value) == (40, before)  # nothing is half fitted


@never
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.29, 1 - 0.9, 1 / 3, 0.5, 0.999])
def test_an_alarm_is_a_p_value_up_to_alpha(alpha: float, tied: bool) -> None:
    for n in [1, 2, 9, 19, 57, 98, 99, 100, 999]:
        scores = normal(n, seed=n).round() if tied else normal(n, seed=n)
        threshold = fitted(Conformal(alpha), scores)
        some = torch.cat([scores, normal(100), torch.arange(-4.0, 5.0), torch.tensor([INF, -INF])])
        some = torch.cat([some, some.nextafter(torch.tensor(INF)), some.nextafter(torch.tensor(-INF))])
        some = some[some < INF] if not threshold.reachable else some
        assert torch.equal(threshold(some), threshold.p_values(some) <= alpha), n
        assert torch.equal(fitted(Percentile(100 * (1 - alpha)), scores).value, threshold.value)
        shuffled = scores[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
        assert torch.equal(fitted(Conformal(alpha), shuffled).p_values(some), threshold.p_values(some))


def test_false_alarm_rates_follow_the_beta_law_given_the_calibration_set() -> None:
    n, alpha = 100, 0.05
    rates = norm.sf([fitted(Conformal(alpha), scores).value.item() for scores in normal(2000, n)])
    k = alarm_rank(n, alpha)
    assert kstest(rates, beta(k, n + 1 - k).cdf).pvalue > 0.01
    assert kstest(rates, beta(k + 1, n - k).cdf).pvalue < 1e-6  # the test would see a rank too many
    assert np.mean(rates) <= alpha + 3 * np.std(rates) / math.sqrt(len(rates))


def test_with_confidence_that_share_of_calibration_sets_stays_below_alpha() -> None:
    n, alpha, confidence, draws = 100, 0.05, 0.95, 2000
    error = math.sqrt(confidence * (1 - confidence) / draws)
    scores = normal(draws, n).sort(1).values
    rates = norm.sf([fitted(Conformal(alpha, confidence), row).value.item() for row in scores])
    assert np.mean(rates <= alpha) >= confidence - 3 * error
    k = confident_rank(n, alpha, confidence)
    assert torch.equal(fitted(Conformal(alpha, confidence), scores[0]).value, scores[0, -k])
    one_more = norm.sf(scores[:, -(k + 1)].numpy())
    assert np.mean(one_more <= alpha) < confidence - 3 * error


def test_interpolation_lets_more_through_than_it_promises() -> None:
    """Of uniform scores (100 − percentile) % become 1 − (1 + h) / (n + 1) with h = (n − 1)·percentile / 100."""
    n, samples = 50, normal(3000, 50)
    exact = 1 - (1 + (n - 1) * 0.95) / (n + 1)
    assert exact == pytest.approx(0.0676, abs=1e-4)
    for method, gaussian, uniform in (("linear", 0.0665, exact), ("order_statistic", 2 / 51, 2 / 51)):
        values = np.array([fitted(Percentile(95, method), row).value.item() for row in samples])
        between = np.array([fitted(Percentile(95, method), row).value.item() for row in torch.special.ndtr(samples)])
        for rates, expected in ((norm.sf(values), gaussian), (1 - between, uniform)):
            assert np.mean(rates) == pytest.approx(expected, abs=3 * np.std(rates) / math.sqrt(len(rates))), method


@pytest.mark.parametrize("method", ["linear", "order_statistic"])
def test_the_interval_holds_the_rate_of_95_percent_of_calibration_sets(method: str) -> None:
    fits = [fitted(Percentile(90, method), row) for row in normal(1000, 80)]
    rates, (low, high) = norm.sf([fit.value.item() for fit in fits]), fits[0].alarm_rate_interval
    share = np.mean((low <= rates) & (rates <= high))
    assert share >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000)
    assert share < 0.99


@pytest.mark.parametrize(
    ("threshold", "needed", "name"),
    [
        (Conformal(0.01), 99, "Conformal(α = 0.01)"),
        (Conformal(0.05), 19, "Conformal(α = 0.05)"),
        (Conformal(0.05, 0.95), 59, "Conformal(α = 0.05, confidence = 0.95)"),
        (Percentile(99), 99, "Percentile(99)"),
        (Percentile(99.9), 999, "Percentile(99.9)"),
        (Percentile(90), 9, "Percentile(90)"),
    ],
)
def test_too_few_samples_are_told_how_many_it_takes(threshold: Threshold, needed: int, name: str) -> None:
    assert threshold.needed == needed
    message = f"{name} cannot be reached with {needed - 1} calibration samples: {needed} are needed; nothing raises an"
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        threshold.fit(normal(needed - 1))
    assert str(caught[0].message) == threshold.describe() == message + " alarm"
    assert caught[0].filename == __file__  # the caller's line, not ours
    assert not threshold.reachable
    assert threshold.alarm_rate_interval == (0.0, 0.0)
    assert not threshold(torch.tensor([1e30, INF])).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threshold.fit(normal(needed))
    assert threshold.reachable
    assert threshold.value == normal(needed).max()


def test_what_no_number_of_samples_reaches_is_said_so() -> None:
    with pytest.warns(UserWarning, match=r"Percentile\(100\) cannot be reached; nothing raises an alarm"):
        threshold = fitted(Percentile(100), normal(1000))
    assert threshold.needed is None


@pytest.mark.parametrize(
    ("threshold", "line"),
    [
        (Conformal(), "Conformal(α = 0.05): 570, from 600 calibration samples; false alarms 3.4 %–6.87 %"),
        (Percentile(97.5), "Percentile(97.5): 585, from 600 calibration samples; false alarms 1.41 %–3.88 %"),
        (
            Percentile(method="linear"),
            "Percentile(95, linear): 569, from 600 calibration samples; false alarms 3.4 %–7.06 %",
        ),
    ],
)
def test_it_describes_itself_in_a_line(threshold: Threshold, line: str) -> None:
    described = fitted(threshold, torch.arange(600.0)).describe()
    assert described.startswith(line)
    assert described.endswith(" (95 % of calibration sets)")


@pytest.mark.parametrize("percentile", [0, 12.5, 50, 95, 99.9, 100])
@pytest.mark.parametrize("n", [1, 2, 57, 1000])
def test_the_linear_percentile_is_numpys(percentile: float, n: int) -> None:
    scores = normal(n, seed=1)
    threshold = fitted(Percentile(percentile, "linear"), scores)
    exact = np.percentile(scores.double().numpy(), percentile)
    assert float(threshold.value) == pytest.approx(exact, rel=2**-23)
    nearest = torch.tensor(exact).float()
    around = torch.stack([nearest, *(nearest.nextafter(torch.tensor(end)) for end in (-9.0, 9.0))])
    for some in (scores, around):
        assert torch.equal(threshold(some), some.double() > exact)


def test_single_precision_scores_are_compared_with_the_threshold_they_gave() -> None:
    """The largest normal score is not above the largest normal score."""
    scores = torch.tensor([0.1, 0.2, 0.7])
    for threshold in (Percentile(100, "linear"), Conformal(0.25)):
        threshold.fit(scores)
        assert threshold(scores).tolist() == [False, False, False]
        assert threshold(torch.nextafter(scores, torch.tensor(9.0))).tolist() == [False, False, True]
        double = torch.tensor([0.7], dtype=torch.float64)  # a little beside 0.7 in single precision
        assert not threshold(double)
        assert threshold.p_values(double) == 0.5


class Decision(nn.Module):
    def __init__(self, threshold: Threshold) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return self.threshold(scores), self.threshold.p_values(scores)


def test_it_exports_for_any_batch_to_the_same_decisions_and_p_values() -> None:
    decision = Decision(fitted(Conformal(), normal(200).mul(4).round()))
    batch = torch.export.Dim("batch")
    program = torch.export.export(decision, (normal(8),), dynamic_shapes={"scores": {0: batch}})
    assert "searchsorted" not in str(program.graph)  # which ONNX has no word for
    for n in (2, 8, 301):
        scores = torch.cat([normal(n - 1, seed=n).mul(4).round(), torch.tensor([NAN])])
        for exported, eager in zip(program.module()(scores), decision(scores), strict=True):
            assert torch.equal(exported, eager)


@pytest.mark.parametrize("percentile", [-1.0, 100.5, NAN])
def test_a_wrong_percentile_is_named(percentile: float) -> None:
    with pytest.raises(UserError, match=f"Percentile: percentile = {percentile} is not in"):
        Percentile(percentile)


def test_other_wrong_arguments_are_named() -> None:
    for wrong in (0.0, 1.0, -0.1, 5, NAN):
        with pytest.raises(UserError, match=f"Conformal: alpha = {wrong} is not in"):
            Conformal(wrong)
        with pytest.raises(UserError, match=f"Conformal: confidence = {wrong} is not in"):
            Conformal(0.1, wrong)
    with pytest.raises(UserError, match="Percentile: method = cubic is not one of order_statistic, linear"):
        Percentile(95, "cubic")


def test_only_the_leaking_one_is_fitted_on_test_samples() -> None:
    assert (Percentile.fitted_on, Percentile().leaks) == ("val", False)
    assert (LeakingPercentile.fitted_on, LeakingPercentile().leaks) == ("test", True)
    assert (Conformal().leaks, LeakingPercentile().method) == (False, "linear")
