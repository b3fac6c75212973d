"""Statistics that stay valid however often one looks: mixture sequential tests and a confidence sequence.

Everything here is about outcomes of kinds (yes or no; buckets), and exact: no normal approximation, which fails where
errors are rare. A test statistic is a mixture likelihood ratio: a nonnegative martingale that starts at 1 while the
null hypothesis holds, so by Ville's inequality it ever reaches 1/alpha with probability at most alpha.

Sources: Robbins, "Statistical methods related to the law of the iterated logarithm", Ann. Math. Stat. 41 (1970),
for the mixtures; Johari, Koomen, Pekelis, Walsh, "Always valid inference", Operations Research 70 (2022), for the
mixture SPRT in online experiments; Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", Ann. Stat. 49 (2021); Lindon, Malek, "Anytime-valid inference for multinomial count data",
NeurIPS 2022, for the sample-ratio mismatch and for kinds.

Counts may be fractions: where at most M observations belong together (rows of one request, requests of one user) and
fall to one variant together, they count 1/M each. A likelihood ratio r of one observation becomes r^x, 0 <= x <= 1,
which is convex in x, so its expectation under the null hypothesis is at most 1 where it is 1 at x = 0 and at x = 1.
"""

import math
from collections.abc import Sequence

_RATE_PRIOR = (0.5, 0.5)  # Jeffreys': narrow where rates are near 0, as error rates are
_SHARE_PRIOR = (1.0, 1.0)
_SPREAD = 20.0  # of the canary's share among kinds: 20 observations weigh as much as the prior
_TOLERANCE = 1e-12


def log_evidence(events: float, trials: float, rate: float) -> float:
    """The log of the evidence against one rate, on both sides: a mixture SPRT with a uniform prior.

    Args:
        events: How often it happened.
        trials: Out of how many.
        rate: The rate under the null hypothesis, between 0 and 1.

    Returns:
        The logarithm of the mixture likelihood ratio; `log(1 / alpha)` or more rejects at level alpha.
    """
    if not 0 <= events <= trials or not 0 < rate < 1:
        raise ValueError(f"{events} of {trials} at a rate of {rate}")
    return _log_marginal(events, trials, _SHARE_PRIOR) - _log_likelihood(events, trials, rate)


def log_evidence_of_more(events: float, trials: float, rate: float) -> float:
    """The log of the evidence that something happens more often than at a rate.

    The mixture is over the rates above the null's only, so a lower rate never looks like evidence.

    Args:
        events: How often it happened.
        trials: Out of how many.
        rate: The highest rate under the null hypothesis, between 0 and 1.
    """
    from scipy.special import betaincc

    a, b = _SHARE_PRIOR
    posterior, prior = (float(betaincc(a + k, b + n, rate)) for k, n in ((events, trials - events), (0, 0)))
    if posterior == 0:  # nearly all of it lies below the rate: a float cannot tell how much does not
        return _log_evidence_at_least(events, trials, rate)
    return log_evidence(events, trials, rate) + math.log(posterior) - math.log(prior)


def log_evidence_of_difference(canary: Sequence[float], stable: Sequence[float], share: float) -> float:
    """The log of the evidence that two variants' observations are distributed otherwise over kinds.

    Given how many observations are of each kind, each is the canary's with the probability of its share where the
    distributions are equal, whatever they are and however they move with the hour. The mixture takes that probability
    as Beta-distributed around the share, for each kind by itself.

    Args:
        canary: How many of the canary's observations are of each kind.
        stable: How many of the stable model's.
        share: The canary's share of all observations, between 0 and 1.
    """
    prior = (_SPREAD * share, _SPREAD * (1 - share))
    return sum(
        _log_marginal(mine, mine + other, prior) - _log_likelihood(mine, mine + other, share)
        for mine, other in zip(canary, stable, strict=True)
    )


def rate_bounds(events: float, trials: float, alpha: float) -> tuple[float, float]:
    """A confidence sequence for a rate: all rates that a mixture test has not rejected.

    Args:
        events: How often it happened.
        trials: Out of how many.
        alpha: The probability that the true rate is ever outside, over all looks together.

    Returns:
        The lower and the upper bound.
    """
    from scipy.optimize import brentq

    if not trials:
        return 0.0, 1.0
    if not 0 <= events <= trials:
        raise ValueError(f"{events} of {trials}")
    least = _log_marginal(events, trials, _RATE_PRIOR) - math.log(1 / alpha)

    def refuted(rate: float) -> float:
        return least - _log_likelihood(events, trials, rate)

    # The evidence against a rate is least at the rate that was seen, where it is below the limit.
    middle = min(max(events / trials, _TOLERANCE), 1 - _TOLERANCE)
    low = brentq(refuted, _TOLERANCE, middle) if refuted(_TOLERANCE) > 0 else 0.0
    high = brentq(refuted, middle, 1 - _TOLERANCE) if refuted(1 - _TOLERANCE) > 0 else 1.0
    return float(low), float(high)


def _log_evidence_at_least(events: float, trials: float, rate: float) -> float:
    """A bound from below for where far fewer events were seen: the likelihood only falls beyond the rate."""
    slope = (trials - events) / (1 - rate) - events / rate
    step = min(1 / slope, (1 - rate) / 2)
    fall = _log_likelihood(events, trials, rate + step) - _log_likelihood(events, trials, rate)
    return math.log(step) + fall - math.log(1 - rate)


def _log_marginal(events: float, trials: float, prior: tuple[float, float]) -> float:
    """The log likelihood of the events, averaged over a Beta prior."""
    a, b = prior
    return _log_beta(a + events, b + trials - events) - _log_beta(a, b)


def _log_likelihood(events: float, trials: float, rate: float) -> float:
    return events * math.log(rate) + (trials - events) * math.log1p(-rate)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
