"""Confidence sequences for means, against an independent library and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ville import AsymptoticABTest, AsymptoticCS

from fti.rollout.means import Moments, difference_bounds, mean_bounds


def moments(values: np.ndarray) -> Moments:
    return Moments(len(values), float(values.mean()), float(values.var(ddof=1)))


@given(st.integers(100, 5000), st.sampled_from([0.001, 0.01, 0.05, 0.2]), st.integers(0, 9))
def test_the_bounds_of_a_mean_are_those_of_an_independent_library(n: int, alpha: float, seed: int) -> None:
    values = np.random.default_rng(seed).exponential(size=n)
    oracle = AsymptoticCS(alpha=alpha, t_opt=1000)
    oracle.update(values)
    assert mean_bounds(moments(values), alpha) == pytest.approx((oracle.lower_[-1], oracle.upper_[-1]), rel=1e-5)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_bounds_of_a_difference_are_near_those_of_an_independent_library(share: float) -> None:
    random = np.random.default_rng(3)
    values, canary = random.normal(5, 2, 20_000), random.random(20_000) < share
    oracle = AsymptoticABTest(alpha=0.05, propensity=share, t_opt=1000)
    oracle.update(values, canary)
    found = difference_bounds(moments(values[canary]), moments(values[~canary]), 0.05)
    low, high = oracle.interval()
    assert found == pytest.approx((low, high), abs=0.1 * (high - low))


def test_few_units_say_nothing() -> None:
    assert mean_bounds(Moments(99, 1.0, 1.0), 0.05) == (-math.inf, math.inf)
    assert difference_bounds(Moments(10_000, 1.0, 1.0), Moments(99, 0.0, 1.0), 0.05) == (-math.inf, math.inf)


def test_looking_all_the_time_does_not_raise_false_alarms() -> None:
    """800 comparisons without a difference, of skewed figures, a look after every 100 of 10,000 units."""
    random = np.random.default_rng(11)
    alarms = 0
    for _ in range(800):
        values, canary = random.exponential(size=10_000), random.random(10_000) < 0.25
        n, looks = np.cumsum(canary), np.arange(499, 10_000, 100)
        sums = [np.cumsum(np.where(group, values**k, 0.0)) for group in (canary, ~canary) for k in (1, 2)]
        for at in looks:
            groups = []
            for place, count in ((0, n[at]), (2, at + 1 - n[at])):
                mean = sums[place][at] / count
                groups.append(Moments(int(count), mean, (sums[place + 1][at] - count * mean**2) / (count - 1)))
            low, high = difference_bounds(groups[0], groups[1], 0.05)
            if not low <= 0 <= high:
                alarms += 1
                break
    assert alarms / 800 <= 0.05
