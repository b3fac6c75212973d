"""The gate's rule, and the intervals that it rests on."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fti.common.errors import ConfigError
from fti.common.metrics import best_threshold, calibration_error, metrics_of
from fti.evaluate.compare import Interval, estimate, improvement, metric_to_compare
from fti.evaluate.curves import ROC_POINTS, roc_points
from fti.evaluate.gate import Rival, check_floors, check_rival


def two_columns(probability):
    return np.column_stack([1 - probability, probability])


@pytest.mark.parametrize(
    ("floors", "passed"),
    [
        ({"roc_auc": 0.8}, [True]),
        ({"roc_auc": 0.81}, [True]),
        ({"roc_auc": 0.82}, [False]),
        ({"log_loss": 0.5}, [True]),
        ({"log_loss": 0.3, "roc_auc": 0.5}, [False, True]),
        ({}, []),
    ],
)
def test_floors(floors, passed):
    checks = check_floors({"roc_auc": 0.81, "log_loss": 0.4}, floors)
    assert [check.passed for check in checks] == passed


@pytest.mark.parametrize(
    ("floors", "message"), [({"rocauc": 1}, "did you mean roc_auc"), ({"roc_auc": "high"}, "'high'")]
)
def test_floors_that_cannot_be_are_refused(floors, message):
    with pytest.raises(ConfigError, match=message):
        check_floors({"roc_auc": 0.81}, floors)


@pytest.mark.parametrize(
    ("low", "margin", "passed"),
    [(0.01, 0.0, True), (0.0, 0.0, False), (0.01, 0.02, False), (-0.005, -0.01, True), (-0.02, -0.01, False)],
)
def test_the_lower_end_of_the_interval_decides(low, margin, passed):
    rival = Rival("the baseline", "d", {}, Interval(low + 0.01, low, low + 0.02))
    assert check_rival(rival, "roc_auc", margin).passed is passed


def test_a_rival_that_cannot_be_compared_speaks_against_the_model():
    check = check_rival(Rival("the served model", "d", {}, None, "it is another task"), "roc_auc", 0)
    assert not check.passed
    assert "it is another task" in check.reason


@given(st.integers(0, 10_000), st.integers(5, 60), st.integers(1, 6))
def test_the_area_under_the_curve_is_scikit_learns_ties_included(seed, rows, levels):
    random = np.random.default_rng(seed)
    target = np.append(random.integers(0, 2, rows), [0, 1])
    probability = random.integers(0, levels + 1, rows + 2) / levels
    found = estimate("roc_auc", target, two_columns(probability))
    assert found.value == pytest.approx(roc_auc_score(target, probability))
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "brier"])
def test_intervals_are_as_wide_as_the_bootstraps(metric):
    random = np.random.default_rng(0)
    target = random.integers(0, 2, 800)
    ours, theirs = (1 / (1 + np.exp(-(target - 0.5) * k - random.normal(size=800))) for k in (1.6, 1.2))
    found = improvement(metric, target, two_columns(ours), two_columns(theirs))
    names = {"roc_auc": 1, "log_loss": -1, "brier": -1}
    draws = []
    for _ in range(300):
        rows = random.integers(0, 800, 800)
        new, old = (estimate(metric, target[rows], two_columns(p[rows])).value for p in (ours, theirs))
        draws.append(names[metric] * (new - old))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)
    assert found.value == pytest.approx(float(np.mean(draws)), abs=0.01)


def test_the_root_mean_squared_error_improves_when_it_falls():
    random = np.random.default_rng(1)
    target = random.normal(size=500)
    good, bad = target + 0.1 * random.normal(size=500), target + random.normal(size=500)
    found = improvement("rmse", target, good, bad)
    assert 0.7 < found.low < found.value < found.high < 1.1
    assert improvement("rmse", target, good, good) == Interval(0, 0, 0)


def test_metrics_that_cannot_be_compared_are_refused():
    assert metric_to_compare("regression", "auto") == "rmse"
    with pytest.raises(ConfigError, match="Allowed: roc_auc"):
        metric_to_compare("binary", "f1")


@given(st.integers(0, 10_000), st.integers(2, 400))
def test_the_roc_curve_is_bounded_and_finite(seed, rows):
    random = np.random.default_rng(seed)
    target = np.append(random.integers(0, 2, rows), [0, 1])
    false, true, thresholds = roc_points(target, random.random(rows + 2).astype(np.float32))
    assert len(false) == len(true) == len(thresholds) <= ROC_POINTS
    assert np.isfinite([false, true, thresholds]).all()
    assert (false[0], true[0]) == (0, 0)
    assert (false[-1], true[-1]) == (1, 1)


def test_the_threshold_has_the_best_f1():
    random = np.random.default_rng(2)
    target = random.integers(0, 2, 300)
    probability = np.clip(0.4 * target + 0.3 * random.normal(size=300) + 0.3, 0, 1)
    best = metrics_of("binary", target, two_columns(probability), best_threshold(target, probability))["f1"]
    for threshold in np.linspace(0, 1, 101):
        assert metrics_of("binary", target, two_columns(probability), float(threshold))["f1"] <= best + 1e-12


def test_a_calibrated_model_has_no_calibration_error():
    probability = np.repeat([0.1, 0.5, 0.9], 100)
    target = np.concatenate([np.arange(100) < 100 * p for p in (0.1, 0.5, 0.9)]).astype(int)
    assert calibration_error(target, probability, bins=3) == pytest.approx(0, abs=1e-9)
    assert calibration_error(1 - target, probability, bins=3) == pytest.approx(1.6 / 3)


def test_one_row_of_a_class_proves_nothing():
    target = np.array([1, *[0] * 9])
    better = np.column_stack([1 - target, target]).astype(float)
    worse = np.full((10, 2), 0.5)
    found = improvement("roc_auc", target, better, worse)
    assert (found.low, found.high) == (-math.inf, math.inf)
