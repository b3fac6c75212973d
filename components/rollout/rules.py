"""What the counts of one step say: go on, take it back, wait, or do not trust them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fti.common.inference_service import CANARY, STABLE
from fti.rollout.metrics import Counts
from fti.rollout.sequential import log_evidence, log_evidence_of_more, rate_bounds

Outcome = Literal["success", "failure", "inconclusive", "mismatch"]

GUARDRAILS = {"failures": "failure_margin", "refusals": "refusal_margin", "slow": "slow_margin"}
_MISMATCH_ALPHA = 0.001


@dataclass(frozen=True)
class Limits:
    """What is asked of a canary.

    Attributes:
        alpha: The probability of a false rollback, and of a false promotion, each over the whole rollout.
        latency_budget_ms: From when a request is slow, milliseconds; rounded up to a bound of the histograms.
        failure_margin: By how much the canary's share of failed requests may exceed the stable model's, 0 to 1.
        refusal_margin: The same for requests answered 4xx: a canary may ask for more than callers send.
        slow_margin: The same for requests over the latency budget.
        min_requests: How many requests the canary must have had in each step.
    """

    alpha: float = 0.05
    latency_budget_ms: float = 100.0
    failure_margin: float = 0.02
    refusal_margin: float = 0.02
    slow_margin: float = 0.05
    min_requests: int = 200


@dataclass(frozen=True)
class Finding:
    """What is known of one guardrail.

    Attributes:
        name: `failures`, `refusals` or `slow`.
        canary: The canary's rate and its bounds.
        stable: The stable model's.
        log_evidence: Of harm, over all steps so far; `log(guardrails / alpha)` or more is a failure.
        excess: The most by which the canary's rate may exceed the stable model's, as far as is known.
        margin: By how much it may.
        outcome: success, failure or inconclusive.
    """

    name: str
    canary: tuple[float, float, float]
    stable: tuple[float, float, float]
    log_evidence: float
    excess: float
    margin: float
    outcome: Outcome


@dataclass(frozen=True)
class Judgement:
    """What a step's counts say together.

    Attributes:
        outcome: One failure is a failure; success only where all succeed; mismatch where the split is not as asked.
        reason: Why, in one sentence.
        findings: Of each guardrail.
    """

    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...]


def judge(counts: Mapping[str, Counts], percent: int, limits: Limits, evidence: Mapping[str, float]) -> Judgement:
    """Judges a step.

    Harm is tested given how many requests went wrong at all: without harm each of them is the canary's with the
    probability of its share of the traffic, whatever the rate is and however it moves with the hour of the day. That
    the canary is no worse than the margin is read off the bounds of both rates.

    Args:
        counts: Variant -> its counts in this step.
        percent: The canary's share of the traffic; 0 where it is a shadow, which is sent every request too.
        limits: What is asked.
        evidence: Guardrail -> log evidence of harm from the steps before.
    """
    canary, stable = counts[CANARY], counts[STABLE]
    findings = tuple(_finding(name, counts, percent, limits, evidence.get(name, 0.0)) for name in GUARDRAILS)
    if mismatch := _mismatch(canary.requests, canary.requests + stable.requests, percent):
        return Judgement("mismatch", mismatch, findings)
    for finding in findings:
        if finding.outcome == "failure":
            return Judgement("failure", _harm(finding), findings)
    if canary.requests < limits.min_requests:
        return Judgement("inconclusive", f"{canary.requests} of {limits.min_requests} requests", findings)
    for finding in findings:
        if finding.outcome == "inconclusive":
            reason = f"{finding.name}: up to {finding.excess:.2%} more than stable; allowed {finding.margin:.2%}"
            return Judgement("inconclusive", reason, findings)
    return Judgement("success", "no guardrail is worse than its margin", findings)


def _finding(name: str, counts: Mapping[str, Counts], percent: int, limits: Limits, evidence: float) -> Finding:
    # Half of alpha for the steps beside the stable model, half for the one at 100 %.
    alpha, margin = limits.alpha / len(GUARDRAILS) / 2, getattr(limits, GUARDRAILS[name])
    of_canary, of_stable = getattr(counts[CANARY], name), getattr(counts[STABLE], name)
    canary = _rate(of_canary, counts[CANARY].requests, alpha / 2)
    stable = _rate(of_stable, counts[STABLE].requests, alpha / 2)
    if percent == 100:  # nobody to compare with at the same time: stable is what it was before
        worse = canary[1] > stable[2]
    else:
        evidence += log_evidence_of_more(of_canary, of_canary + of_stable, _share(percent))
        worse = evidence >= -math.log(alpha)
    excess = canary[2] - stable[1]
    outcome: Outcome = "success" if excess <= margin else "failure" if worse else "inconclusive"
    return Finding(name, canary, stable, evidence, excess, margin, outcome)


def _mismatch(canary: int, requests: int, percent: int) -> str:
    """Why the split cannot be the one that was asked; empty where it can. A shadow answers in its own time."""
    if percent in {0, 100} or log_evidence(canary, requests, percent / 100) < -math.log(_MISMATCH_ALPHA):
        return ""
    seen = 100 * canary / requests
    return f"the canary got {seen:.1f} % of the requests, not {percent} %: it cannot be compared"


def _share(percent: int) -> float:
    """The canary's share of all answers, those of a shadow included."""
    return percent / 100 if percent else 0.5


def _rate(events: int, requests: int, alpha: float) -> tuple[float, float, float]:
    events = min(events, requests)
    low, high = rate_bounds(events, requests, alpha)
    return (events / requests if requests else math.nan, low, high)


def _harm(finding: Finding) -> str:
    return (
        f"{finding.name}: {finding.canary[0]:.2%} of the canary's requests against {finding.stable[0]:.2%} of the "
        f"stable model's; evidence {math.exp(min(finding.log_evidence, 50)):.3g}"
    )
