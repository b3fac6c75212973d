"""Counters that restart, appear and vanish."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fti.common.settings import Settings
from fti.rollout import gateway
from fti.rollout.counters import Counts, Odometer
from fti.rollout.gateway import GatewayMetrics
from fti.rollout.predictor_metrics import all_counts, counted, own_counts, samples_of

TEXT = """
# TYPE fti_requests counter
fti_requests_total{model_name="late",revision="a",protocol="v1",code="200"} 90.0
fti_requests_total{model_name="late",revision="a",protocol="grpc",code="503"} 4.0
fti_requests_total{model_name="late",revision="a",protocol="v1",code="422"} 6.0
fti_requests_total{model_name="other",revision="a",protocol="v1",code="200"} 7.0
# TYPE fti_request_seconds histogram
fti_request_seconds_bucket{model_name="late",revision="a",protocol="v1",le="0.1"} 70.0
fti_request_seconds_bucket{model_name="late",revision="a",protocol="v1",le="0.25"} 80.0
fti_request_seconds_bucket{model_name="late",revision="a",protocol="v1",le="+Inf"} 96.0
fti_request_seconds_bucket{model_name="late",revision="a",protocol="grpc",le="0.1"} 4.0
fti_request_seconds_bucket{model_name="late",revision="a",protocol="grpc",le="0.25"} 4.0
fti_request_seconds_bucket{model_name="late",revision="a",protocol="grpc",le="+Inf"} 4.0
# TYPE fti_looked_up counter
fti_looked_up_total{model_name="late",revision="a",view="delays",status="fresh"} 80.0
fti_looked_up_total{model_name="late",revision="a",view="delays",status="stale"} 7.0
fti_looked_up_total{model_name="late",revision="a",view="delays",status="missing"} 3.0
# TYPE fti_score histogram
fti_score_bucket{model_name="late",revision="a",le="0.5"} 60.0
fti_score_bucket{model_name="late",revision="a",le="+Inf"} 90.0
"""


def test_what_predictors_say() -> None:
    counts = counted({(name, labels): value for name, labels, value in samples_of(TEXT, "late")})
    seconds = {"seconds/0.1": 74, "seconds/0.25": 84, "seconds/inf": 100}
    own = {"looked_up/delays": 90, "stale/delays": 10, "scores/0.5": 60, "scores/inf": 90, **seconds}
    assert own_counts(counts) == own
    of_requests = {"requests": 100, "failures": 4, "refusals": 6, "sent": 100}
    assert all_counts(counts, 200) == {**own, **of_requests, "slow": 16}
    assert all_counts(counts, 90)["slow"] == 26 and all_counts(counts, 60_000)["slow"] == 0
    assert counts.histogram("scores") == [(0.5, 60), (math.inf, 90)]


def test_the_first_look_only_marks_where_counting_begins() -> None:
    odometer = Odometer[str]()
    assert odometer.read({"a": 40}) == {"a": 0}
    assert odometer.read({"a": 45, "new": 3}) == {"a": 5, "new": 3}
    assert odometer.read({"new": 4}) == {"a": 5, "new": 4}  # a does not answer now
    assert odometer.read({"a": 50, "new": 4}) == {"a": 10, "new": 4}
    assert odometer.read({"a": 2, "new": 4}) == {"a": 12, "new": 4}  # it began anew


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=50), st.integers(0, 100))
def test_nothing_is_counted_twice_or_lost(steps: list[tuple[int, bool]], begin: int) -> None:
    odometer, value, grown = Odometer[str](), begin, 0
    odometer.read({"a": value})
    for more, restart in steps:
        if restart and more < value:
            value = 0
        value, grown = value + more, grown + more
        assert odometer.read({"a": value}) == {"a": grown}


def test_counts_add_up() -> None:
    counts = Counts(requests=3).plus({"failures": 1})
    assert (counts["requests"], counts["failures"], counts["slow"]) == (3, 1, 0)
    assert counts.since({"requests": 2, "slow": 1}) == {"requests": 1, "failures": 1, "slow": -1}


def test_a_look_at_one_variant_says_nothing_of_when_the_others_counters_began(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {1: _rows(100), 2: _rows(5000)}
    monkeypatch.setattr(gateway, "_metrics_text", texts.get)
    metrics = GatewayMetrics(settings, 100)

    def rows(variant: str, port: int) -> int:
        return metrics._of_predictor("late", variant, {"pid": port, "port": port})["looked_up/plane"]

    assert rows("stable", 1) == 0  # what was before the first look is not counted
    texts[2] = ""  # the canary does not answer for once
    assert rows("canary", 2) == 0
    texts[2] = _rows(5000)
    assert rows("canary", 2) == 0
    texts[2] = _rows(5010)
    assert rows("canary", 2) == 10


def _rows(count: int) -> str:
    name = "fti_looked_up_total"
    labels = 'model_name="late",revision="r",view="plane",status="stale"'
    return f"# TYPE fti_looked_up counter\n{name}{{{labels}}} {count}.0\n"


def test_explanations_are_no_predictions() -> None:
    labels = (("code", "504"), ("model_name", "late"), ("protocol", "explain"))
    assert counted({("fti_requests_total", labels): 3}) == {}


def test_requests_that_ask_for_a_variant_are_not_counted() -> None:
    asked = TEXT.replace('revision="a"', 'revision="a",asked="yes"')
    samples = {(name, labels): value for name, labels, value in samples_of(asked, "late")}
    assert samples and counted(samples) == {}
    same = TEXT.replace('revision="a"', 'revision="a",asked="no"')
    assert counted({(name, labels): value for name, labels, value in samples_of(same, "late")})["requests"] == 100
