"""What each guardrail lets pass, and what it does not."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.inference_service import CANARY, STABLE
from fti.rollout.counters import Counts
from fti.rollout.findings import Finding, Seen, weight_of_rows
from fti.rollout.guardrails import Outcome, Shift, Staleness
from fti.rollout.means import Moments
from fti.rollout.outcomes import Goal, Outcomes
from fti.rollout.rules import Limits, judge

CUTS = [place / 20 for place in range(1, 21)]


def histogram(scores: np.ndarray, cuts: list[float] = CUTS) -> dict[str, int]:
    """As predictors count scores."""
    return {f"scores/{cut}": int((scores <= cut).sum()) for cut in cuts} | {"scores/inf": len(scores)}


def seen(canary: dict[str, int], stable: dict[str, int], percent: int = 50, **more: Any) -> Seen:
    return Seen({CANARY: Counts(canary), STABLE: Counts(stable)}, percent, **more)


def shift(canary: np.ndarray, stable: np.ndarray, percent: int = 50, margin: float = 0.3) -> Finding:
    (finding,) = Shift(margin).findings(seen(histogram(canary), histogram(stable), percent), 0.005, {})
    return finding


RANDOM = np.random.default_rng(5)
USUAL = RANDOM.beta(1, 5, 3000)  # as of rare events


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        (RANDOM.beta(1, 5, 3000), "success"),
        (np.clip(USUAL + 0.04, 0, 1), "success"),  # every score a little higher, many over a cut-off
        (RANDOM.beta(1.5, 5, 3000), "success"),
        (np.full(3000, 0.2), "failure"),  # a constant
        (1 - USUAL, "failure"),  # the other class
        (RANDOM.random(3000), "failure"),
        (RANDOM.beta(1, 5, 20), "inconclusive"),
    ],
)
def test_scores_may_move_but_not_far(scores: np.ndarray, verdict: str) -> None:
    assert shift(scores, USUAL).verdict == verdict


def test_scores_that_nobody_has_seen_or_on_another_scale_are_no_success() -> None:
    nothing = seen(histogram(np.array([])), histogram(USUAL))
    other = seen(histogram(USUAL, [5.0, 10.0]), histogram(USUAL))
    for step in (nothing, other, seen({}, histogram(USUAL)), seen({}, {})):
        (finding,) = Shift(0.3).findings(step, 0.01, {})
        assert finding.verdict == "inconclusive"


def test_a_finding_names_the_cut_off_and_both_shares() -> None:
    finding = shift(np.full(2000, 0.62), np.full(2000, 0.12))
    assert finding.title == "Scores over 0.15, where they differ most"
    assert finding.harm().startswith("shift: 100.00% against 0.00% of stable")


def stale(canary: tuple[int, int], stable: tuple[int, int], percent: int = 50, **rows: int) -> list[Finding]:
    canary_counts, stable_counts = (
        {"looked_up/delays": of[0], "stale/delays": of[1], **{f"rows/{bound}": n for bound, n in rows.items()}}
        for of in (canary, stable)
    )
    return Staleness(0.05).findings(seen(canary_counts, stable_counts, percent), 0.01, {})


def test_a_view_that_is_stale_for_the_canary_alone() -> None:
    assert stale((2000, 20), (2000, 20))[0].verdict == "success"
    assert stale((2000, 400), (2000, 20))[0].verdict == "failure"
    assert stale((20_000, 4000), (20_000, 4000))[0].verdict == "success"  # the store is late for both
    # A view that only the canary reads is held against the margin itself.
    assert stale((2000, 20), (0, 0))[0].verdict == "success"
    assert stale((2000, 400), (0, 0))[0].verdict == "failure"
    assert stale((0, 0), (2000, 0)) == []
    assert stale((2000, 1990), (2000, 0))[0].name == "staleness of delays"


def test_at_all_of_the_traffic_another_hour_is_no_harm() -> None:
    """Nobody answers beside it: who was asked about, and so what was stale and which scores came, was another mix."""
    assert stale((900, 1000), (0, 1000), percent=100) == []
    assert Shift(0.3).findings(seen(histogram(1 - USUAL), histogram(USUAL), 100), 0.005, {}) == []


def test_rows_of_one_request_are_not_evidence_each() -> None:
    """One request of 512 rows, all stale, that by chance fell to the canary."""
    counts = {
        CANARY: Counts({"looked_up/a": 1512, "stale/a": 512, "rows/1.0": 1000, "rows/512.0": 1001, "rows/inf": 1001}),
        STABLE: Counts({"looked_up/a": 1000, "stale/a": 0, "rows/1.0": 1000, "rows/512.0": 1000, "rows/inf": 1000}),
    }
    step = Seen(counts, 50)
    weight = weight_of_rows(step)
    assert weight.most == 512 and weight.typical == pytest.approx((2000 + 512**2) / 2512)
    (finding,) = Staleness(0.05).findings(step, 0.01, {})
    assert finding.verdict == "inconclusive"
    alone = {
        variant: Counts({k: v for k, v in of.items() if not k.startswith("rows")}) for variant, of in counts.items()
    }
    assert Staleness(0.05).findings(Seen(alone, 50), 0.01, {})[0].verdict == "failure"  # were they requests


def goal(wanted: str, canary: Moments, stable: Moments, percent: int = 50, last: bool = True, **more: Any) -> Finding:
    rail = Outcome(Goal("outcomes", "log_loss", wanted, 0.02))  # type: ignore[arg-type]
    outcomes = Outcomes({CANARY: canary, STABLE: stable}, **more)
    (finding,) = rail.findings(
        Seen({CANARY: Counts(), STABLE: Counts()}, percent, outcomes=outcomes, last=last), 0.01, {}
    )
    return finding


MANY = 200_000


@pytest.mark.parametrize(
    ("wanted", "loss", "verdict"),
    [
        ("no-worse", 0.40, "success"),
        ("no-worse", 0.405, "success"),
        ("no-worse", 0.45, "failure"),
        ("better", 0.36, "success"),
        ("better", 0.40, "inconclusive"),
        ("better", 0.41, "failure"),
    ],
)
def test_the_goal_is_no_harm_or_a_benefit(wanted: str, loss: float, verdict: str) -> None:
    assert goal(wanted, Moments(MANY, loss, 0.16), Moments(MANY, 0.4, 0.16)).verdict == verdict


def test_few_outcomes_are_waited_for_in_the_last_step_only() -> None:
    few = Moments(99, 0.1, 0.1)
    finding = goal("no-worse", few, few)
    assert (finding.verdict, finding.needed, finding.doubt()) == ("inconclusive", True, "goal: too little is known")
    assert not goal("no-worse", few, few, percent=5, last=False).needed


def test_more_of_an_outcome_is_better() -> None:
    rail = Outcome(Goal("outcomes", "outcome", "no-worse", 0.01))
    for mean, verdict in ((0.20, "failure"), (0.30, "success")):
        outcomes = Outcomes({CANARY: Moments(MANY, mean, 0.2), STABLE: Moments(MANY, 0.25, 0.2)})
        (finding,) = rail.findings(Seen({}, 50, outcomes=outcomes), 0.01, {})
        assert finding.verdict == verdict


def test_a_shadow_is_compared_request_by_request() -> None:
    of = Moments(500, 0.4, 0.16)
    assert goal("no-worse", of, of, percent=0).verdict == "inconclusive"
    assert goal("no-worse", of, of, percent=0, paired=Moments(500, 0.0, 0.0004)).verdict == "success"
    assert goal("no-worse", of, of, percent=0, paired=Moments(500, 0.05, 0.0004)).verdict == "failure"


def test_outcomes_that_are_known_of_one_variant_more_often_are_not_trusted() -> None:
    requests = {"requests": 5000, **histogram(RANDOM.beta(1, 5, 5000))}
    outcomes = Outcomes({CANARY: Moments(1000, 0.4, 0.1), STABLE: Moments(2000, 0.4, 0.1)})
    judgement = judge(seen(requests, requests, outcomes=outcomes), Limits(goal=Goal("outcomes")), {})
    assert judgement.outcome == "mismatch" and "33.3 % of the known outcomes, not 50 %" in judgement.reason
    users = Outcomes(units={CANARY: 100, STABLE: 300})
    judgement = judge(seen(requests, requests, outcomes=users), Limits(), {})
    assert judgement.outcome == "mismatch" and "25.0 % of the units" in judgement.reason


@hypothesis_settings(max_examples=50)
@given(st.integers(1, 99), st.lists(st.integers(0, 50), min_size=20, max_size=20))
def test_the_same_scores_are_never_far(percent: int, buckets: list[int]) -> None:
    """Without a difference in the shares there is no failure, however small a share the canary has."""
    cumulative = np.cumsum(buckets)
    one = {f"scores/{cut}": int(n) for cut, n in zip(CUTS, cumulative, strict=True)} | {
        "scores/inf": int(cumulative[-1])
    }
    canary, stable = ({name: n * k for name, n in one.items()} for k in (percent, 100 - percent))
    (finding,) = Shift(0.01).findings(seen(canary, stable, percent), 0.01, {})
    assert finding.verdict != "failure" and math.isfinite(finding.log_evidence)


def test_requests_without_a_single_score_prove_nothing() -> None:
    """Such as somebody's health checks, where the guardrail of the scores is off."""
    silent = {"requests": 2000, "scores/0.5": 0, "scores/inf": 0}
    judgement = judge(seen(silent, silent), Limits(shift_margin=1), {})
    assert judgement.outcome == "inconclusive" and "scored nothing" in judgement.reason
