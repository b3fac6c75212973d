"""The statistics, against an independent library, by their laws, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ville import BernoulliCS, BernoulliTest

from fti.rollout.sequential import (
    _log_evidence_at_least,
    log_evidence,
    log_evidence_of_difference,
    log_evidence_of_more,
    rate_bounds,
)

outcomes = st.lists(st.booleans(), min_size=1, max_size=200)
rates = st.floats(0.01, 0.99)


@given(outcomes, rates)
def test_the_evidence_is_that_of_an_independent_library(seen: list[bool], rate: float) -> None:
    oracle = BernoulliTest(rate, prior=(1.0, 1.0))
    oracle.update(np.array(seen, dtype=float))
    assert log_evidence(sum(seen), len(seen), rate) == pytest.approx(oracle.log_e_values_[-1], abs=1e-8)


@given(outcomes, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_bounds_are_those_of_an_independent_library(seen: list[bool], alpha: float) -> None:
    oracle = BernoulliCS(alpha=alpha, prior=(0.5, 0.5), intersect=False)
    oracle.update(np.array(seen, dtype=float))
    assert rate_bounds(sum(seen), len(seen), alpha) == pytest.approx((oracle.lower_[-1], oracle.upper_[-1]), abs=1e-6)


@given(st.integers(0, 400), st.integers(0, 400), rates)
def test_fewer_events_than_expected_are_no_evidence_of_more(events: int, more: int, rate: float) -> None:
    trials = events + more
    if trials and events / trials <= rate:
        assert log_evidence_of_more(events, trials, rate) < math.log(4)


@pytest.mark.parametrize(("canary", "stable"), [(0, 0), (0, 10), (1, 20), (50, 1000)])
def test_the_evidence_of_more_is_its_integral(canary: int, stable: int) -> None:
    from scipy.integrate import quad

    n, share = canary + stable, 0.05

    def ratio(q: float) -> float:
        return math.exp(canary * math.log(q / share) + stable * math.log((1 - q) / (1 - share))) / (1 - share)

    integral, _ = quad(ratio, share, 1, points=[0.06, 0.1, 0.2], limit=500)
    assert log_evidence_of_more(canary, n, share) == pytest.approx(math.log(integral), abs=1e-4)


@pytest.mark.parametrize(("events", "trials", "rate"), [(0, 1000, 0.5), (20, 1000, 0.5), (3, 900, 0.25)])
def test_far_fewer_events_are_bounded_from_below(events: int, trials: int, rate: float) -> None:
    exact = log_evidence_of_more(events, trials, rate)
    assert exact - 1.5 < _log_evidence_at_least(events, trials, rate) <= exact
    assert math.isfinite(log_evidence_of_more(0, 100_000, 0.5))


def test_looking_all_the_time_does_not_raise_false_alarms() -> None:
    """2,000 histories without harm, a look after each event: at most alpha ever reach 1/alpha."""
    from scipy.special import betaln
    from scipy.stats import beta

    random = np.random.default_rng(7)
    share, alpha, looks = 0.1, 0.05, 400
    canary = np.cumsum(random.random((2000, looks)) < share, axis=1)
    n = np.arange(1, looks + 1)
    log_e = betaln(1 + canary, 1 + n - canary) - canary * math.log(share) - (n - canary) * math.log1p(-share)
    log_e += beta.logsf(share, 1 + canary, 1 + n - canary) - math.log(1 - share)
    assert log_e[3, 99] == pytest.approx(log_evidence_of_more(int(canary[3, 99]), 100, share))
    assert (log_e.max(axis=1) >= math.log(1 / alpha)).mean() <= alpha


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=8), st.floats(0.05, 0.95))
def test_the_evidence_of_a_difference_is_that_of_an_independent_library(
    kinds: list[tuple[int, int]], share: float
) -> None:
    expected = 0.0
    for mine, others in kinds:
        if mine + others:
            oracle = BernoulliTest(share, prior=(20 * share, 20 * (1 - share)))
            oracle.update(np.array([1.0] * mine + [0.0] * others))
            expected += float(oracle.log_e_values_[-1])
    canary, stable = zip(*kinds, strict=True)
    assert log_evidence_of_difference(canary, stable, share) == pytest.approx(expected, abs=1e-6)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 1))
def test_a_part_of_an_observation_is_no_more_evidence_than_the_whole(share: float, other: float, part: float) -> None:
    """Under the null hypothesis the likelihood ratio to the power of a part has an expectation of at most 1."""
    ratios = (other / share) ** part, ((1 - other) / (1 - share)) ** part
    assert share * ratios[0] + (1 - share) * ratios[1] <= 1 + 1e-12


def test_scores_of_users_that_stay_with_a_variant_raise_no_false_alarms() -> None:
    """500 histories of users with 1 to 10 requests, each user with a score of its own, looked at 20 times."""
    random = np.random.default_rng(3)
    alarms = {1: 0, 10: 0}
    for _ in range(500):
        requests = random.integers(1, 11, 300)
        of = random.permutation(np.repeat(np.arange(300), requests))
        kind, mine = random.integers(0, 5, 300)[of], (random.random(300) < 0.25)[of]
        for most in alarms:
            alarms[most] += any(
                log_evidence_of_difference(
                    np.bincount(kind[:end][mine[:end]], minlength=5) / most,
                    np.bincount(kind[:end][~mine[:end]], minlength=5) / most,
                    0.25,
                )
                >= math.log(1 / 0.05)
                for end in np.linspace(1, len(of), 20, dtype=int)
            )
    assert alarms[10] / 500 <= 0.05 < alarms[1] / 500  # were each request to count, they would


@given(st.floats(0, 50), st.floats(0, 50), st.sampled_from([0.001, 0.05]))
def test_the_bounds_of_parts_lie_around_the_rate(events: float, more: float, alpha: float) -> None:
    low, high = rate_bounds(events, events + more, alpha)
    assert 0 <= low <= (events / (events + more) if events + more else 0.0) + 1e-9 and high <= 1
    assert low <= high
