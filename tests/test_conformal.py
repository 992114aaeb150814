"""Conformal p-values and ranks against exact arithmetic, and what they promise against simulation."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from vae_lightning.detection.conformal import (
    EPSILON,
    alarm_rank,
    benjamini_hochberg,
    confident_rank,
    false_alarm_interval,
    needed,
    needed_for_fdr,
    p_values,
)

INF = float("inf")
ALPHAS = [f"0.{digits:04d}".rstrip("0") for digits in (1, 10, 50, 123, 500, 700, 1000, 2900, 3333, 5700, 5800, 9999)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scores_of(kind: str, n: int, seed: int) -> Tensor:
    """Ascending: continuous, or tied heavily, or with infinities among them, which are tied too."""
    scores = torch.randn(n, generator=generator(seed))
    if kind == "tied":
        scores = scores.round()
    if kind == "infinite":
        scores[::5], scores[1::5] = INF, -INF
    return scores.sort().values


def exact_p(calibration: Tensor, score: float) -> tuple[int, int]:
    """Numerator and denominator, counted one by one."""
    return 1 + sum(c >= score for c in calibration.tolist()), len(calibration) + 1


@pytest.mark.parametrize("kind", ["continuous", "tied", "infinite"])
@pytest.mark.parametrize("n", [1, 2, 57, 300])
def test_p_values_are_counted_exactly_whichever_way(kind: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = scores_of(kind, n, 0)
    some = torch.cat([scores_of(kind, 40, 1), calibration, torch.tensor([INF, -INF, 0.0, -0.0, float("nan")])])
    p = p_values(calibration, some)
    counts = [exact_p(calibration, score) for score in some.tolist()]
    expected = [np.float32(count) / np.float32(total) for count, total in counts]
    assert p.dtype == torch.float32
    assert p.tolist() == [float(value) for value in expected]
    assert set(p.tolist()) <= {float(np.float32(k) / np.float32(n + 1)) for k in range(1, n + 2)}
    assert p[-1] == p.min()  # NaN: never a reason to be silent
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch, "searchsorted", None)
    assert torch.equal(p_values(calibration, some), p)


@pytest.mark.parametrize("kind", ["continuous", "tied"])
def test_only_the_order_of_scores_matters(kind: str) -> None:
    calibration, some = scores_of(kind, 100, 0), scores_of(kind, 100, 1)
    p = p_values(calibration, some)
    assert len(p.unique()) > 3
    for increasing in (lambda s: s * 2.0**20, lambda s: s / 1024, lambda s: s.double().exp().float()):
        assert len(increasing(torch.cat([calibration, some])).unique()) == len(torch.cat([calibration, some]).unique())
        assert torch.equal(p_values(increasing(calibration), increasing(some)), p)
    order = torch.randperm(100, generator=generator(2))
    assert torch.equal(p_values(calibration, some[order]), p[order])


@pytest.mark.parametrize("levels", [None, 4, 1])
def test_p_values_are_super_uniform(levels: int | None) -> None:
    """P(p ≤ t) ≤ t; equal for continuous scores and t = j / (n + 1), far below it under heavy ties."""
    draws, n = 2000, 39
    scores = torch.rand(draws, n + 1, generator=generator())
    if levels is not None:
        scores = (scores * levels).floor()
    p = torch.cat([p_values(row[1:].sort().values, row[:1]) for row in scores])
    for t in torch.linspace(0.025, 1, 40).double().tolist():
        share, error = float((p <= t + 1e-6).double().mean()), math.sqrt(t * (1 - t) / draws)
        assert share <= t + 3 * error + 1e-9, t
        assert levels is not None or share >= t - 4 * error - 1e-9, t


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_alarm_rank_is_the_one_of_exact_arithmetic(alpha: str) -> None:
    for n in [*range(1, 400), 999, 1999, 20_000, 999_999]:
        exact, k = Fraction(alpha) * (n + 1), alarm_rank(n, float(alpha))
        assert k == math.floor(exact * (1 + Fraction(EPSILON if n > 2000 else 0))), n  # to single precision


def test_a_level_that_arithmetic_left_beside_its_decimal_is_taken_for_it() -> None:
    assert math.floor(0.29 * 100) == 28  # what luck would give
    assert alarm_rank(99, 0.29) == 29
    assert alarm_rank(9, 1 - 0.9) == alarm_rank(9, 0.1) == 1
    assert [alarm_rank(9, alpha) for alpha in (0.0, 1.0)] == [0, 9]


@pytest.mark.parametrize("alpha", ["0.05", "0.1", "0.29", "0.5", "0.9"])
@pytest.mark.parametrize("confidence", ["0.19", "0.5", "0.9", "0.95", "0.9999"])
def test_the_confident_rank_is_the_one_of_exact_binomial_sums(alpha: str, confidence: str) -> None:
    """P(Beta(k, n + 1 − k) ≤ α) = P(Binomial(n, α) ≥ k): k or more of n uniform scores fall below α."""
    a = Fraction(alpha)
    for n in [1, 2, 3, 10, 33, 80]:
        chances = [math.comb(n, i) * a**i * (1 - a) ** (n - i) for i in range(n + 1)]
        good = [k for k in range(1, n + 1) if sum(chances[k:]) >= Fraction(confidence)]
        assert confident_rank(n, float(alpha), float(confidence)) == max(good, default=0), n


@pytest.mark.parametrize(
    ("alpha", "confidence", "n"),
    [
        (0.05, None, 19),
        (0.01, None, 99),
        (0.29, None, 3),
        (0.9, None, 1),
        (1 / 3, None, 2),
        (1e-6, None, 999_999),
        (0.05, 0.95, 59),  # Wilks's numbers, this one the best known
        (0.01, 0.95, 299),
        (0.01, 0.99, 459),
        (0.1, 0.19, 2),
        (0.5, 0.5, 1),
    ],
)
def test_what_is_needed_is_the_least_that_will_do(alpha: float, confidence: float | None, n: int) -> None:
    def rank(n: int) -> int:
        return alarm_rank(n, alpha) if confidence is None else confident_rank(n, alpha, confidence)

    assert needed(alpha, confidence) == n
    assert rank(n) >= 1
    assert n == 1 or rank(n - 1) == 0


def test_the_interval_holds_the_level_of_the_beta_law() -> None:
    low, high = false_alarm_interval(600, 30)
    assert low < 30 / 601 < high
    rates = torch.rand(4000, 600, generator=generator()).sort(1).values[:, 29].double()  # of the 30-th largest score
    error = 3 * math.sqrt(0.025 * 0.975 / 4000)
    assert float((rates < low).double().mean()) == pytest.approx(0.025, abs=error)
    assert float((rates > high).double().mean()) == pytest.approx(0.025, abs=error)
    narrow = false_alarm_interval(600, 30, level=0.5)
    assert np.diff(beta.cdf(narrow, 30, 571)) == pytest.approx(0.5)
    assert false_alarm_interval(50, 0) == (0.0, 0.0)
    assert false_alarm_interval(50, 51) == (1.0, 1.0)


def reference(p: list[Fraction], level: Fraction) -> list[bool]:
    """Benjamini and Hochberg as they write it, in exact arithmetic."""
    ordered = sorted(p)
    passed = [value for i, value in enumerate(ordered, start=1) if value <= i * level / len(p)]
    return [value <= max(passed, default=Fraction(-1)) for value in p]


@pytest.mark.parametrize("level", ["0.05", "0.1", "0.29", "0.5"])
def test_benjamini_hochberg_is_the_papers_also_where_levels_are_met_exactly(level: str) -> None:
    rng, found = np.random.default_rng(0), set()
    for m in [1, 2, 5, 10, 29, 40]:
        for n in [19, 99, 199, 999]:
            for _ in range(10):
                ranks = rng.integers(1, rng.integers(2, n + 3), m)
                p = torch.tensor(ranks).float() / torch.tensor(float(n + 1))
                expected = reference([Fraction(int(k), n + 1) for k in ranks], Fraction(level))
                assert benjamini_hochberg(p, float(level)).tolist() == expected, (m, n, ranks)
                found |= set(expected)
    assert found == {False, True}
    assert benjamini_hochberg(torch.empty(0), float(level)).shape == (0,)


def test_false_discoveries_stay_below_the_level() -> None:
    """Many samples, one calibration set: E[FDP] ≤ π₀·level, where p ≤ level alone would give several times that."""
    n, m, anomalies, level, repeats = 1000, 200, 20, 0.1, 600
    rates, naive, power = [], [], []
    draw = generator()
    for _ in range(repeats):
        scores = torch.randn(n + m, generator=draw)
        scores[n : n + anomalies] += 4
        p = p_values(scores[:n].sort().values, scores[n:])
        for found, into in ((benjamini_hochberg(p, level), rates), (p <= level, naive)):
            into.append(float(found[anomalies:].sum()) / max(1, int(found.sum())))
        power.append(float(benjamini_hochberg(p, level)[:anomalies].double().mean()))
    bound, error = (1 - anomalies / m) * level, np.std(rates) / math.sqrt(repeats)
    assert np.mean(rates) <= bound + 3 * error
    assert np.mean(naive) > 3 * bound
    assert np.mean(power) > 0.8


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1, 0.29, 0.9])
@pytest.mark.parametrize("m", [1, 7, 29, 100, 1000])
def test_a_lone_discovery_needs_that_many_calibration_samples(m: int, level: float) -> None:
    def found(n: int) -> int:
        p = torch.ones(m)
        p[0] = p_values(torch.zeros(n), torch.ones(1))
        return int(benjamini_hochberg(p, level).sum())

    n = needed_for_fdr(m, level)
    assert n == max(1, math.ceil(m / Fraction(str(level))) - 1)
    assert found(n) == 1
    assert n == 1 or found(n - 1) == 0
