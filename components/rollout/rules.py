"""What a step has seen, judged: go on, take it back, wait, or do not trust the figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fti.common.inference_service import CANARY, STABLE
from fti.rollout.counters import FAILURES, REFUSALS, REQUESTS, SCORES, SENT, SLOW
from fti.rollout.findings import Finding, Seen, band_of
from fti.rollout.guardrails import Guardrail, Outcome, Rate, Shift, Staleness
from fti.rollout.outcomes import Goal
from fti.rollout.sequential import log_evidence, log_evidence_of_more

_MISMATCH_ALPHA = 0.001
MOST_OF_UNIT = 100  # requests, for as long as nothing says how many: enough to take back what is plainly broken
MISSING_COPIES = 0.05  # of a shadow's requests: more is a mismatch


@dataclass(frozen=True)
class Limits:
    """What is asked of a canary. A margin of 1 lets anything pass: that guardrail is off.

    Attributes:
        alpha: The probability of a false rollback, and of a false promotion, each over the whole rollout.
        latency_budget_ms: From when a request is slow, milliseconds; rounded up to a bound of the histograms.
        failure_margin: By how much the canary's share of failed requests may exceed the stable model's, 0 to 1.
        refusal_margin: The same for requests answered 4xx: a canary may ask for more than callers send.
        slow_margin: The same for requests over the latency budget.
        staleness_margin: The same for rows looked up without a fresh value, for each feature view.
        shift_margin: How far the distribution of scores may be from the stable model's: the largest difference of the
            shares of scores above any cut-off. A new model may differ; one that answers a constant differs more.
        min_requests: How many requests the canary must have had in each step.
        requests_of_unit: The most requests of one unit in a step, where splits are sticky; where the inference log
            names units, what it shows counts if it is more. 0: not said; then requests that name units pass no step.
        goal: What the canary shall be good for, measured on outcomes.
    """

    alpha: float = 0.05
    latency_budget_ms: float = 100.0
    failure_margin: float = 0.02
    refusal_margin: float = 0.02
    slow_margin: float = 0.05
    staleness_margin: float = 0.05
    shift_margin: float = 0.3
    min_requests: int = 200
    requests_of_unit: int = 0
    goal: Goal | None = None

    def guardrails(self) -> tuple[Guardrail, ...]:
        """All that are not off."""
        rails = (
            Rate(FAILURES, "Requests not answered at the first try", self.failure_margin),
            Rate(REFUSALS, "Requests answered 4xx", self.refusal_margin),
            Rate(SLOW, "Requests over the latency budget", self.slow_margin),
            Staleness(self.staleness_margin),
            Shift(self.shift_margin),
        )
        kept = tuple(rail for rail in rails if rail.margin < 1)
        return (*kept, Outcome(self.goal)) if self.goal else kept


@dataclass(frozen=True)
class Judgement:
    """What a step's figures say together.

    Attributes:
        outcome: One failure is a failure; success only where all succeed; mismatch where the split is not as asked.
        reason: Why, in one sentence.
        findings: Of each guardrail.
    """

    outcome: Literal["success", "failure", "inconclusive", "mismatch"]
    reason: str
    findings: tuple[Finding, ...]


def judge(seen: Seen, limits: Limits, evidence: Mapping[str, float]) -> Judgement:
    """Judges a step.

    Args:
        seen: The figures of this step.
        limits: What is asked.
        evidence: Finding -> log evidence of harm from the steps before.
    """
    rails = limits.guardrails()
    alpha = limits.alpha / len(rails) / 2  # half for the steps beside the stable model, half for the one at 100 %
    findings = tuple(finding for rail in rails for finding in rail.findings(seen, alpha, evidence))
    if mismatch := _mismatch(seen):
        return Judgement("mismatch", mismatch, findings)
    for finding in findings:
        if finding.verdict == "failure":
            return Judgement("failure", finding.harm() + _taken_for_granted(seen), findings)
    if doubt := _doubt(seen, limits, findings):
        return Judgement("inconclusive", doubt, findings)
    return Judgement("success", "no guardrail is worse than its margin", findings)


def _doubt(seen: Seen, limits: Limits, findings: tuple[Finding, ...]) -> str:
    """Why the step cannot end well yet; empty where it can."""
    canary = seen.counts[CANARY]
    if canary[REQUESTS] < limits.min_requests:
        return f"{canary[REQUESTS]} of {limits.min_requests} requests"
    if seen.named > MOST_OF_UNIT:
        return _of_units(seen)
    scored = canary.histogram(SCORES)
    if limits.staleness_margin < 1 and not (scored and scored[-1][1]):
        return "the canary's predictor has scored nothing that it has told of"
    if not seen.percent and _missing_copies(seen)[2] > MISSING_COPIES:
        return f"up to {_missing_copies(seen)[2]:.1%} of its copies are missing; allowed {MISSING_COPIES:.0%}"
    doubt = next((finding.doubt() for finding in findings if finding.needed and finding.verdict == "inconclusive"), "")
    return f"{doubt}; {_of_units(seen)}" if doubt and seen.named > 1 else doubt


def _of_units(seen: Seen) -> str:
    return (
        f"{seen.named} requests name their unit (x-fti-unit), and all of a unit go to one model: they prove less "
        "than as many others, and nothing says how many a unit has. Say the most of a step (--requests-of-unit) or "
        "set FTI_INFERENCE_LOG, for fti serve and fti rollout alike"
    )


def _taken_for_granted(seen: Seen) -> str:
    return f", if no unit has more than {MOST_OF_UNIT} requests: nothing says" if seen.named > MOST_OF_UNIT else ""


def _mismatch(seen: Seen) -> str:
    """Why the figures cannot come from the split that was asked, so that nothing follows; empty where they can."""
    if seen.percent == 0:
        return _copies_lost(seen)
    if seen.percent == 100:
        return ""
    outcomes, (canary, stable) = seen.outcomes, (seen.counts[variant][REQUESTS] for variant in (CANARY, STABLE))
    known = {variant: moments.n for variant, moments in outcomes.means.items()}
    splits = {
        "requests": (canary, stable, seen.requests_of_unit),
        "units": (outcomes.units.get(CANARY, 0), outcomes.units.get(STABLE, 0), 1.0),
        "known outcomes": (known.get(CANARY, 0), known.get(STABLE, 0), 1.0),
    }
    for what, (mine, others, weight) in splits.items():
        total = mine + others
        blur = seen.blur if what == "requests" else 0
        nearest = min(max(seen.share * total, mine - blur), mine + blur)  # to what was asked
        if log_evidence(nearest / weight, total / weight, seen.share) >= -math.log(_MISMATCH_ALPHA):
            share = 100 * mine / total
            return f"the canary got {share:.1f} % of the {what}, not {seen.percent} %: it cannot be compared"
    return ""


def _copies_lost(seen: Seen) -> str:
    lost, sent, _ = _missing_copies(seen)
    if log_evidence_of_more(lost, sent, MISSING_COPIES) < -math.log(_MISMATCH_ALPHA):
        return ""
    return f"{lost:,.0f} of {sent:,.0f} copies of requests never arrived: a shadow that misses some cannot be judged"


def _missing_copies(seen: Seen) -> tuple[float, float, float]:
    """How many copies of requests have not been sent to a shadow, of how many, and the upper bound of their share."""
    sent = seen.counts[STABLE][SENT]
    lost = max(0, sent - seen.counts[CANARY][SENT])
    return float(lost), float(sent), band_of(lost, sent, 1.0, _MISMATCH_ALPHA)[2]
