"""The guardrails: one small object each, which says what it finds in the figures of a step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fti.common.inference_service import CANARY, STABLE
from fti.rollout.counters import LOOKED_UP, REQUESTS, SCORES, STALE
from fti.rollout.findings import Band, Finding, Seen, Verdict, Weight, band_of, compare, weight_of_rows
from fti.rollout.means import Moments, difference_bounds, mean_bounds
from fti.rollout.outcomes import Goal
from fti.rollout.sequential import log_evidence_of_difference


class Guardrail(Protocol):
    """What must not become worse. To add one, write such an object and name it in `Limits.guardrails`."""

    @property
    def name(self) -> str:
        """What it is called."""

    def findings(self, seen: Seen, alpha: float, evidence: Mapping[str, float]) -> list[Finding]:
        """What it finds.

        Args:
            seen: The figures of this step.
            alpha: The probability of a false failure, over all findings and looks.
            evidence: Finding -> log evidence of harm from the steps before.
        """


@dataclass(frozen=True)
class Rate:
    """Something bad that happens to some requests, such as failures.

    Harm is tested given how often it happened at all: without harm each time is the canary's with the probability of
    its share, whatever the rate is and however it moves with the hour. That the canary is no worse than the margin
    is read off the bounds of both rates.

    Attributes:
        name: The counter.
        title: What is counted, for people.
        margin: By how much the canary's rate may exceed the stable model's, 0 to 1.
    """

    name: str
    title: str
    margin: float

    def findings(self, seen: Seen, alpha: float, evidence: Mapping[str, float]) -> list[Finding]:
        """One: of all requests."""
        of = {variant: (counts[self.name], counts[REQUESTS]) for variant, counts in seen.counts.items()}
        weight = Weight(seen.requests_of_unit, seen.requests_of_unit)
        return [
            compare(self.name, self.title, of, seen, weight=weight, margin=self.margin, alpha=alpha, evidence=evidence)
        ]


@dataclass(frozen=True)
class Staleness:
    """Rows whose features were not fresh in the online store, view by view: stale, missing or not to be had.

    It hangs on who is asked about, hour by hour, so it is judged only beside the stable model.

    Attributes:
        margin: By how much the canary's share of such rows may exceed the stable model's, 0 to 1.
        name: Of the guardrail.
    """

    margin: float
    name: str = "staleness"

    def findings(self, seen: Seen, alpha: float, evidence: Mapping[str, float]) -> list[Finding]:
        """One for each view that the canary reads; none at 100 %."""
        if seen.percent == 100:
            return []
        views = sorted(view for view, rows in seen.counts[CANARY].group(LOOKED_UP).items() if rows)
        weight = weight_of_rows(seen)
        return [
            compare(
                f"{self.name} of {view}",
                f"Rows of {view} without a fresh value",
                {of: (counts[f"{STALE}/{view}"], counts[f"{LOOKED_UP}/{view}"]) for of, counts in seen.counts.items()},
                seen,
                weight=weight,
                margin=self.margin,
                alpha=alpha / len(views),
                evidence=evidence,
            )
            for view in views
        ]


@dataclass(frozen=True)
class Shift:
    """How far the canary's scores are distributed otherwise than the stable model's.

    The distance is the largest difference, over all cut-offs, of the shares of scores above the cut-off, where the
    other model's cut-off may be a bucket lower (0.05 of a probability): Lévy's metric, on the histograms' grid. So many
    small moves of scores are no distance; a model that answers a constant is far away. A failure takes both a distance
    above the margin, and exact evidence that scores and variants depend on each other, given how many scores fell into
    each bucket.

    Attributes:
        margin: How large the distance may be, 0 to 1.
        name: Of the guardrail.
    """

    margin: float
    name: str = "shift"

    def findings(self, seen: Seen, alpha: float, evidence: Mapping[str, float]) -> list[Finding]:
        """One, which shows the cut-off where the shares differ most; none at 100 %, as for staleness."""
        if seen.percent == 100:
            return []
        canary, stable = (dict(seen.counts[variant].histogram(SCORES)) for variant in (CANARY, STABLE))
        cuts = sorted((canary.keys() & stable.keys()) - {math.inf})
        log_evidence = evidence.get(self.name, 0.0)
        if not cuts:  # none has scored, or they score on different scales
            return [_nothing_known(self.name, "Scores", self.margin, log_evidence)]
        weight = weight_of_rows(seen)
        mine, others = (
            [band_of(of[math.inf] - of[cut], of[math.inf], weight.typical, alpha / len(cuts) / 2) for cut in cuts]
            for of in (canary, stable)
        )
        gaps = [*_gaps(mine, others), *_gaps(others, mine)]
        least, most = (max(gap[end] for gap in gaps) for end in (1, 2))
        log_evidence += log_evidence_of_difference(
            _buckets(canary, cuts, weight.most), _buckets(stable, cuts, weight.most), seen.share
        )
        verdict: Verdict = "success" if most <= self.margin else "inconclusive"
        if least > self.margin and log_evidence >= -math.log(alpha):
            verdict = "failure"
        widest = max(range(len(cuts)), key=lambda at: abs(mine[at][0] - others[at][0]))
        return [
            Finding(
                name=self.name,
                title=f"Scores over {cuts[widest]:.4g}, where they differ most",
                canary=mine[widest],
                stable=others[widest],
                log_evidence=log_evidence,
                limit=-math.log(alpha),
                excess=most,
                margin=self.margin,
                verdict=verdict,
            )
        ]


@dataclass(frozen=True)
class Outcome:
    """What becomes of the predictions: the goal, and harm to it.

    Harm is evidence that the canary's mean is worse at all; the last step beside the stable model takes evidence that
    it is better, or no worse than the margin. Units, not requests, are compared: the requests of a user are alike.

    Attributes:
        goal: What is measured and asked.
        name: Of the guardrail.
    """

    goal: Goal
    name: str = "goal"

    def findings(self, seen: Seen, alpha: float, evidence: Mapping[str, float]) -> list[Finding]:
        """One; none at 100 %, where nobody is left to compare with."""
        if seen.percent == 100:
            return []
        sign, outcomes = self.goal.sign, seen.outcomes
        bands = []
        for variant in (CANARY, STABLE):
            of = outcomes.means.get(variant, Moments())
            bands.append((of.mean if of.n else math.nan, *mean_bounds(of, alpha)))
        if seen.percent == 0:  # both models answered the same requests
            low, high = mean_bounds(outcomes.paired or Moments(), alpha)
        else:
            canary, stable = (outcomes.means.get(variant, Moments()) for variant in (CANARY, STABLE))
            low, high = difference_bounds(canary, stable, alpha)
        worse, most = sorted((sign * low, sign * high))
        margin = -self.goal.margin if self.goal.wanted == "better" else self.goal.margin
        verdict: Verdict = "success" if most <= margin else "failure" if worse > 0 else "inconclusive"
        title = f"Mean {self.goal.metric.replace('_', ' ')} of units with known outcomes"
        return [
            Finding(
                self.name,
                title,
                bands[0],
                bands[1],
                0.0,
                math.inf,
                most,
                margin,
                verdict,
                percent=False,
                needed=seen.last,
            )
        ]


def _nothing_known(name: str, title: str, margin: float, log_evidence: float) -> Finding:
    unknown = (math.nan, 0.0, 1.0)
    return Finding(name, title, unknown, unknown, log_evidence, math.inf, math.inf, margin, "inconclusive")


def _buckets(cumulative: Mapping[float, int], cuts: list[float], weight: float) -> list[float]:
    counts = [cumulative[cut] for cut in [*cuts, math.inf]]
    return [max(0, more - less) / weight for less, more in zip([0, *counts], counts, strict=False)]


def _gaps(above: list[Band], others: list[Band]) -> list[Band]:
    """By how much shares above cut-offs exceed the other model's shares above the next lower ones, with bounds."""
    wider = [(1.0, 1.0, 1.0), *others]
    return [
        (0.0 if math.isnan(a[0] - b[0]) else a[0] - b[0], a[1] - b[2], a[2] - b[1])
        for a, b in zip(above, wider, strict=False)
    ]
