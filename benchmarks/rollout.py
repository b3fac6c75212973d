"""Error rates and delays of the rollout's decisions, by simulation: `python benchmarks/rollout.py [--json]`.

Thousands of rollouts of a canary that is as good as the stable model (A/A), looked at again and again, decided by the
library's own statistics and by what is often used instead: a z-test at each look. Requests split one by one, rates
that move with the hour, batches of rows, and sticky users whose requests are alike. Then canaries that do harm, with
the number of requests until they are taken back.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.special import betaln, gammaln
from scipy.stats import beta

from fti.common.inference_service import CANARY, STABLE
from fti.rollout.counters import Counts
from fti.rollout.findings import Seen
from fti.rollout.means import Moments, difference_bounds
from fti.rollout.outcomes import Goal, Outcomes
from fti.rollout.rules import Limits, judge
from fti.rollout.sequential import log_evidence, log_evidence_of_difference, log_evidence_of_more

BASE, LOOK, REQUESTS = 0.01, 50, 20_000
LIMITS = Limits(min_requests=500)
ALPHA = LIMITS.alpha / len(LIMITS.guardrails()) / 2  # of each guardrail, beside the stable model
MISMATCH = 0.001
SHARES = (5, 25, 50)
HARMS = (0.02, 0.03, 0.05, 0.1, 1.0)
CUTS = [place / 20 for place in range(1, 21)]
BUCKETS = np.diff(beta.cdf([0, *CUTS], 1, 5))  # of the scores of rare events
BEFORE = 5000  # requests of the stable model in the step before 100 %
MOST, MEAN = 50, 5  # requests of one user, at most and on average

Array = np.ndarray


def of_more(events: Array, trials: Array, share: float) -> Array:
    """As `log_evidence_of_more`, of arrays."""
    log_e = betaln(1 + events, 1 + trials - events) - events * math.log(share) - (trials - events) * math.log1p(-share)
    tail = beta.logsf(share, 1 + events, 1 + trials - events)
    return log_e + np.where(np.isfinite(tail), tail, -50) - math.log(1 - share)


def of_any(events: Array, trials: Array, share: float) -> Array:
    """As `log_evidence`, of arrays."""
    return betaln(1 + events, 1 + trials - events) - events * math.log(share) - (trials - events) * math.log1p(-share)


def of_difference(canary: Array, stable: Array, share: float) -> Array:
    """As `log_evidence_of_difference`, of arrays whose last axis are kinds."""
    a, b = 20 * share, 20 * (1 - share)
    log_e = gammaln(a + canary) + gammaln(b + stable) - gammaln(a + b + canary + stable)
    log_e += gammaln(a + b) - gammaln(a) - gammaln(b)
    return (log_e - canary * math.log(share) - stable * math.log1p(-share)).sum(axis=-1)


def check_arrays() -> None:
    """The arrays' formulas are the library's."""
    one, two = np.array([3.0, 9.0]), np.array([20.0, 11.0])
    assert np.isclose(
        of_more(one, one + two, 0.2), [log_evidence_of_more(a, a + b, 0.2) for a, b in zip(one, two, strict=True)]
    ).all()
    assert np.isclose(
        of_any(one, one + two, 0.2), [log_evidence(a, a + b, 0.2) for a, b in zip(one, two, strict=True)]
    ).all()
    assert np.isclose(of_difference(one, two, 0.2), log_evidence_of_difference(list(one), list(two), 0.2))


def z_tests(canary: Array, failed: Array, stable: Array, stable_failed: Array) -> Array:
    """Which rollouts a one-sided z-test at level 0.05 ever calls harmful."""
    pooled = (failed + stable_failed) / (canary + stable)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (failed / canary - stable_failed / stable) / np.sqrt(pooled * (1 - pooled) * (1 / canary + 1 / stable))
    return ((z > 1.645) & (canary >= 30) & np.isfinite(z)).any(axis=1)


def one_by_one(percent: int, count: int, moving: bool = False) -> dict[str, float]:
    """Requests split one by one: how often each guardrail takes an equal canary back, and all of them together."""
    random = np.random.default_rng(percent)
    looks, share = REQUESTS // LOOK, percent / 100
    # Rates of everything that is bad triple in the middle of the day, for both.
    hour = 1 + 2 * np.sin(np.linspace(0, math.pi, looks)) if moving else np.ones(looks)
    canary = random.binomial(LOOK, share, (count, looks))
    alarms, sums = {}, np.cumsum(canary, axis=1)
    of_split = of_any(sums, np.broadcast_to(LOOK * np.arange(1, looks + 1), sums.shape), share)
    for name, rate in (("failures", BASE), ("refusals", 0.005), ("slow", 0.02), ("staleness", 0.03)):
        mine, others = (np.cumsum(random.binomial(n, rate * hour), axis=1) for n in (canary, LOOK - canary))
        alarms[name] = (of_more(mine, mine + others, share) >= -math.log(ALPHA)).any(axis=1)
        if name == "failures":
            naive = z_tests(sums, mine, LOOK * np.arange(1, looks + 1) - sums, others)
    alarms["shift"] = np.zeros(count, bool)
    for start in range(0, count, 200):  # of memory
        part = canary[start : start + 200]
        scores = (np.cumsum(random.multinomial(n, BUCKETS), axis=1) for n in (part, LOOK - part))
        alarms["shift"][start : start + 200] = (of_difference(*scores, share) >= -math.log(ALPHA)).any(axis=1)
    found = {name: float(of.mean()) for name, of in alarms.items()}
    found["rolled_back"] = float(np.logical_or.reduce(list(alarms.values())).mean())
    found["mismatch"] = float((of_split >= -math.log(MISMATCH)).any(axis=1).mean())
    return {**found, "z_test_of_failures": float(naive.mean())}


def batches(percent: int, count: int) -> dict[str, float]:
    """One request in ten has 256 rows, and all rows of a request are stale or none (3 %)."""
    random = np.random.default_rng(percent)
    share, requests = percent / 100, 5000
    alarms = {"each row counts": 0, "rows of a request count as one": 0}
    for _ in range(count):
        rows = np.where(random.random(requests) < 0.1, 256, 1)
        stale = rows * (random.random(requests) < 0.03)
        mine = random.random(requests) < share
        at = np.arange(LOOK - 1, requests, LOOK)
        canary, both = np.cumsum(stale * mine)[at], np.cumsum(stale)[at]
        for name, most in (("each row counts", 1), ("rows of a request count as one", 256)):
            alarms[name] += bool((of_more(canary / most, both / most, share) >= -math.log(ALPHA)).any())
    return {name: alarm / count for name, alarm in alarms.items()}


class Users:
    """Users with up to 50 requests each, in the order in which they come; a tenth fails ten times as often."""

    def __init__(self, percent: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        users = REQUESTS // MEAN
        many = np.minimum(random.geometric(1 / MEAN, users), MOST)
        begins = random.random(users)
        of = np.repeat(np.arange(users), many)
        moments = begins[of] + random.random(len(of)) * 0.3  # each user's requests are spread over a while
        order = np.argsort(moments)
        self.of = of[order]
        unlucky = random.random(users) < 0.1
        self.failed = random.random(len(of)) < np.where(unlucky, 10 * BASE, 0.0)[self.of]
        self.mine = (random.random(users) < percent / 100)[self.of]
        taste = random.normal(0, 1, users)
        self.figure = taste[self.of] + random.normal(0, 1, len(of))
        self.bucket = np.searchsorted(CUTS, beta.ppf(_normal_cdf(taste), 1, 5))[self.of]


def _normal_cdf(values: Array) -> Array:
    from scipy.stats import norm

    found: Array = norm.cdf(values)
    return found


def sticky(percent: int, count: int) -> dict[str, float]:
    """Sticky users whose requests are alike: what counts as one, and how often an equal canary is not passed."""
    share, alarms = percent / 100, dict[str, int]()

    def note(name: str, alarm: object) -> None:
        alarms[name] = alarms.get(name, 0) + bool(alarm)

    for seed in range(count):
        users = Users(percent, seed)
        at = np.arange(LOOK - 1, len(users.of), LOOK)
        failed, both = np.cumsum(users.failed & users.mine)[at], np.cumsum(users.failed)[at]
        requests = np.cumsum(users.mine)[at]
        kinds = np.eye(20)[users.bucket]
        mine, all_of = (np.cumsum(of, axis=0)[at] for of in (kinds * users.mine[:, None], kinds))
        for name, most in (("each request counts", 1), ("a user's requests count as one", MOST)):
            of_rates = of_more(failed / most, both / most, share) >= -math.log(ALPHA)
            of_scores = of_difference(mine / most, (all_of - mine) / most, share) >= -math.log(ALPHA)
            note(f"failures, {name}", of_rates.any())
            note(f"evidence of other scores, {name}", of_scores.any())
            note(f"mismatch, {name}", (of_any(requests / most, (at + 1) / most, share) >= -math.log(MISMATCH)).any())
        first = np.unique(users.of, return_index=True)[1]
        new = np.zeros(len(users.of), bool)
        new[first] = True
        units, canary = np.cumsum(new)[at], np.cumsum(new & users.mine)[at]
        note("mismatch, users are counted", (of_any(canary, units, share) >= -math.log(MISMATCH)).any())
        for name, by in (
            ("goal, requests are compared", np.arange(len(users.of))),
            ("goal, users are compared", users.of),
        ):
            note(name, any(not _covers(users, by, end) for end in at[19::20]))
    return {name: alarm / count for name, alarm in sorted(alarms.items())}


def _covers(users: Users, by: Array, end: int) -> bool:
    """Whether the difference of means of units, as known by then, may be 0."""
    units, place = np.unique(by[: end + 1], return_inverse=True)
    means = np.bincount(place, users.figure[: end + 1]) / np.bincount(place)
    mine = np.zeros(len(units), bool)
    mine[place] = users.mine[: end + 1]
    low, high = difference_bounds(*(_moments(means[of]) for of in (mine, ~mine)), ALPHA)
    return low <= 0 <= high


def _moments(values: Array) -> Moments:
    return Moments(len(values), float(values.mean()), float(values.var(ddof=1))) if len(values) > 1 else Moments()


def whole(count: int) -> dict[str, float]:
    """5, 25 and 50 %, evidence carried on, 7,000 requests each: no step ends early, so alarms have all the time."""
    random = np.random.default_rng(1)
    alarms, carried = np.zeros(count, bool), dict[str, Array]()
    for percent in SHARES:
        share, looks = percent / 100, 7000 // LOOK
        canary = random.binomial(LOOK, share, (count, looks))
        for name, rate in (("failures", BASE), ("refusals", 0.005), ("slow", 0.02), ("staleness", 0.03)):
            mine, others = (np.cumsum(random.binomial(n, rate), axis=1) for n in (canary, LOOK - canary))
            evidence = carried.get(name, np.zeros(count))[:, None] + of_more(mine, mine + others, share)
            alarms |= (evidence >= -math.log(ALPHA)).any(axis=1)
            carried[name] = evidence[:, -1]
        last = np.empty(count)
        for start in range(0, count, 200):
            part = canary[start : start + 200]
            scores = (np.cumsum(random.multinomial(n, BUCKETS), axis=1) for n in (part, LOOK - part))
            before = carried.get("shift", np.zeros(count))[start : start + 200, None]
            evidence = before + of_difference(*scores, share)
            alarms[start : start + 200] |= (evidence >= -math.log(ALPHA)).any(axis=1)
            last[start : start + 200] = evidence[:, -1]
        carried["shift"] = last
    return {"rolled_back": float(alarms.mean())}


def usual(counts: Counts, random: np.random.Generator, n: int, **rates: float) -> None:
    """Adds n usual requests, with other rates or other scores where they are given."""
    of = {"failures": BASE, "stale/view": 0.03, "spread": 5.0, **rates}
    drawn = random.multinomial(n, np.diff(beta.cdf([0, *CUTS], 1, of["spread"])))
    counts["requests"] += n
    counts["sent"] += n
    counts["looked_up/view"] += n
    for name in ("failures", "stale/view"):
        counts[name] += int(random.binomial(n, of[name]))
    for cut, score in zip(CUTS, np.cumsum(drawn), strict=True):
        counts[f"scores/{cut}"] += int(score)
    counts["scores/inf"] += n


def decided(percent: int, count: int, limits: Limits, look: int = LOOK, **harm: float) -> dict[str, float]:
    """The library's own decisions on one step of a canary with other rates or scores.

    A shadow (0 %) is sent every request too; at 100 % stable's figures are those of `BEFORE` requests before the step.
    """
    outcomes, delays, worst = list[str](), list[int](), list[float]()
    for seed in range(count):
        random = np.random.default_rng(1000 * percent + seed)
        counts, outcome, requests = {STABLE: Counts(), CANARY: Counts()}, "inconclusive", 0
        usual(counts[STABLE], random, BEFORE if percent == 100 else 0)
        while outcome == "inconclusive" and requests < REQUESTS:
            mine = int(random.binomial(look, percent / 100)) if percent else look
            usual(counts[STABLE], random, look - mine if percent else look)
            usual(counts[CANARY], random, mine, **harm)
            requests += look
            outcome = judge(Seen(counts, percent), limits, {}).outcome
        outcomes.append(outcome)
        delays.append(requests)
        worst.append(counts[CANARY]["requests"])
    return _summary(outcomes, delays, worst)


def goals(percent: int, count: int, effect: float) -> dict[str, float]:
    """A goal of no worse than 0.05, stable's loss 0.4, users differing by 0.4; looks after 250 users."""
    limits = replace(LIMITS, goal=Goal("outcomes", "log_loss", "no-worse", 0.05), min_requests=1)
    only = replace(limits, failure_margin=1, refusal_margin=1, slow_margin=1, staleness_margin=1, shift_margin=1)
    outcomes, delays = list[str](), list[int]()
    for seed in range(count):
        random = np.random.default_rng(seed)
        mine = random.random(REQUESTS) < percent / 100
        figure = random.normal(0.4 + effect * mine, 0.4)
        outcome, users = "inconclusive", 0
        while outcome == "inconclusive" and users < REQUESTS:
            users += 250
            means = {v: _moments(figure[:users][of[:users]]) for v, of in ((CANARY, mine), (STABLE, ~mine))}
            counts = {variant: Counts(requests=moments.n) for variant, moments in means.items()}
            seen = Seen(counts, percent, outcomes=Outcomes(means), last=True)
            outcome = judge(seen, only, {}).outcome
        outcomes.append(outcome)
        delays.append(users)
    return _summary(outcomes, delays, [])


def _summary(outcomes: list[str], delays: list[int], served: list[float]) -> dict[str, float]:
    back = [place for place, outcome in enumerate(outcomes) if outcome == "failure"]
    passed = [place for place, outcome in enumerate(outcomes) if outcome == "success"]
    found = {
        "rolled_back": len(back) / len(outcomes),
        "passed": len(passed) / len(outcomes),
        "mismatch": outcomes.count("mismatch") / len(outcomes),
        "median_to_rollback": float(np.median([delays[place] for place in back])) if back else math.nan,
        "median_to_pass": float(np.median([delays[place] for place in passed])) if passed else math.nan,
    }
    return {**found, "served_by_canary": float(np.median([served[at] for at in back]))} if back and served else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="One JSON object instead of a table.")
    parser.add_argument("--rollouts", type=int, default=2000, help="Simulated rollouts without harm, in each case.")
    arguments = parser.parse_args()
    check_arrays()
    started, results = time.process_time(), dict[str, dict[str, float]]()
    for name, figures in cases(arguments.rollouts, max(20, arguments.rollouts // 40)):
        results[name] = figures
        if not arguments.json:
            print(f"{name:36}" + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
    results["cost"] = {"cpu_seconds": time.process_time() - started}
    print(json.dumps(results, indent=1) if arguments.json else f"{results['cost']['cpu_seconds']:.0f} CPU seconds")


def cases(count: int, few: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Each case and its figures, the cheap ones first."""
    fast = replace(LIMITS, shift_margin=1)
    yield "A/A, whole rollout", whole(count)
    for percent in SHARES:
        yield f"A/A, one by one, {percent} %", one_by_one(percent, count)
        yield f"A/A, rates that move, {percent} %", one_by_one(percent, count, moving=True)
        yield f"A/A, batches of rows, {percent} %", batches(percent, count)
        for effect in (0.0, 0.05, 0.1):
            yield f"loss worse by {effect:g}, {percent} %", goals(percent, few, effect)
        for rate in HARMS:
            yield f"{rate:.0%} failures, {percent} %", decided(percent, few, fast, failures=rate)
        yield f"30% stale, {percent} %", decided(percent, few, fast, **{"stale/view": 0.3})
    for percent in SHARES:
        yield f"A/A, decisions, {percent} %", decided(percent, few, LIMITS, look=250)
        yield f"scores as of frequent events, {percent} %", decided(percent, few, LIMITS, look=250, spread=1.0)
    for percent, name in ((0, "shadow"), (100, "100 %")):
        yield f"A/A, decisions, {name}", decided(percent, count, LIMITS, look=250)
        for rate in HARMS:
            yield f"{rate:.0%} failures, {name}", decided(percent, few, fast, failures=rate)
    for percent in SHARES:
        yield f"A/A, sticky users, {percent} %", sticky(percent, count // 2)


if __name__ == "__main__":
    main()
