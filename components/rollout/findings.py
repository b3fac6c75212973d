"""What is found in the figures of a step, and how rates of canary and stable are compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fti.common.inference_service import CANARY, STABLE
from fti.rollout.counters import ROWS, Counts
from fti.rollout.outcomes import Outcomes
from fti.rollout.sequential import log_evidence_of_more, rate_bounds

Verdict = Literal["success", "failure", "inconclusive"]
Band = tuple[float, float, float]  # a figure and its bounds


@dataclass(frozen=True)
class Seen:
    """What a step has seen.

    Attributes:
        counts: Variant -> its counters. At 100 % the stable model's are those of the step before.
        percent: The canary's share of the traffic; 0 where it is a shadow, which is sent every request too.
        requests_of_unit: The most requests of one unit (user), which all go to one variant where splits are sticky.
        outcomes: What became of the predictions, as far as it is known.
        last: Whether this is the last step beside the stable model.
        blur: By how many requests the canary's count may be off.
        named: How many requests name their unit, where nothing says how many of them are of one.
    """

    counts: Mapping[str, Counts]
    percent: int
    requests_of_unit: float = 1.0
    outcomes: Outcomes = field(default_factory=Outcomes)
    last: bool = False
    blur: int = 0
    named: int = 0

    @property
    def share(self) -> float:
        """The canary's share of all answers, those of a shadow included."""
        return self.percent / 100 if self.percent else 0.5


@dataclass(frozen=True)
class Finding:
    """What is known of one figure.

    Attributes:
        name: Of the guardrail, and of what it looks at.
        title: What is counted or measured.
        canary: The canary's figure and its bounds.
        stable: The stable model's.
        log_evidence: Of harm, over all steps so far; `limit` or more is a failure.
        limit: See there; infinite where the bounds alone decide.
        excess: The most by which the canary may be worse, as far as is known.
        margin: By how much it may be.
        verdict: success, failure or inconclusive.
        percent: Whether the figures are shares, which people read in percent.
        needed: Whether the step may not end well without its success.
    """

    name: str
    title: str
    canary: Band
    stable: Band
    log_evidence: float
    limit: float
    excess: float
    margin: float
    verdict: Verdict
    percent: bool = True
    needed: bool = True

    def harm(self) -> str:
        """Why it is a failure, in one sentence."""
        evidence = f"; evidence {math.exp(min(self.log_evidence, 50)):.3g}" if math.isfinite(self.limit) else ""
        return f"{self.name}: {self._said(self.canary[0])} against {self._said(self.stable[0])} of stable{evidence}"

    def doubt(self) -> str:
        """Why it is no success yet, in one sentence."""
        if not math.isfinite(self.excess):
            return f"{self.name}: too little is known"
        return f"{self.name}: up to {self._said(self.excess)} worse than stable; allowed {self._said(self.margin)}"

    def _said(self, figure: float) -> str:
        return f"{figure:.2%}" if self.percent else f"{figure:.4g}"


@dataclass(frozen=True)
class Weight:
    """How many observations count as one, because they belong together and go to one variant together.

    Attributes:
        most: The most that belong together. Divided by it, counts give evidence that is exact: a likelihood ratio to
            the power of x, 0 <= x <= 1, has an expectation of at most 1 where x = 0 and x = 1 have.
        typical: What their spread is worth on average (Kish's design effect), for bounds of rates.
    """

    most: float
    typical: float


def weight_of_rows(seen: Seen) -> Weight:
    """The weight of rows, which come many in a request, and of their requests."""
    counts = Counts()
    for each in seen.counts.values():
        counts = counts.plus({name: n for name, n in each.items() if name.partition("/")[0] == ROWS})
    before, first, second, most = 0, 0.0, 0.0, 1.0
    largest = 1.0
    for bound, cumulative in counts.histogram(ROWS):
        largest = bound if math.isfinite(bound) else 2 * largest
        requests, before = cumulative - before, cumulative
        if requests > 0:
            first, second, most = first + requests * largest, second + requests * largest**2, largest
    typical = second / first if first else 1.0
    return Weight(most * seen.requests_of_unit, typical * seen.requests_of_unit)


def compare(
    name: str,
    title: str,
    of: Mapping[str, tuple[int, int]],
    seen: Seen,
    *,
    weight: Weight,
    margin: float,
    alpha: float,
    evidence: Mapping[str, float],
) -> Finding:
    """Compares how often something bad happens to the canary and to the stable model.

    Args:
        name: Of the finding.
        title: What is counted, for people.
        of: Variant -> how often it happened, out of how many.
        seen: The step.
        weight: How many count as one.
        margin: By how much the canary's rate may exceed the stable model's.
        alpha: The probability of a false failure.
        evidence: Finding -> log evidence from the steps before.
    """
    canary, stable = (band_of(*of[variant], weight.typical, alpha / 2) for variant in (CANARY, STABLE))
    log_evidence, limit = evidence.get(name, 0.0), -math.log(alpha)
    if seen.percent == 100 or not of[STABLE][1]:  # nobody to compare with at the same time
        worse = canary[1] > (stable[2] if of[STABLE][1] else margin)
        limit = math.inf
    else:
        happened = (of[CANARY][0] / weight.most, (of[CANARY][0] + of[STABLE][0]) / weight.most)
        log_evidence += log_evidence_of_more(*happened, seen.share)
        worse = log_evidence >= limit
    excess = canary[2] - stable[1]
    verdict: Verdict = "success" if excess <= margin else "failure" if worse else "inconclusive"
    return Finding(name, title, canary, stable, log_evidence, limit, excess, margin, verdict)


def band_of(events: int, trials: int, weight: float, alpha: float) -> Band:
    """A rate and its bounds.

    Args:
        events: How often it happened.
        trials: Out of how many.
        weight: How many count as one.
        alpha: The probability that the rate is ever outside of its bounds.
    """
    events = max(0, min(events, trials))
    low, high = rate_bounds(events / weight, trials / weight, alpha)
    return (events / trials if trials else math.nan, low, high)
