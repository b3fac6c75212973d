"""Confidence sequences for means of any figure with a finite variance: valid however often one looks, for many units.

Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Ann. Stat. 52 (2024), section 2 for the boundary; Robbins, "Statistical methods related to the law of
the iterated logarithm", Ann. Math. Stat. 41 (1970), for the normal mixture that it stands on.
"""

import math
from dataclasses import dataclass

LEAST = 100  # units; with fewer, an asymptotic statement says nothing
_TIGHTEST_AT = 1000  # units


@dataclass(frozen=True)
class Moments:
    """A figure of many units.

    Attributes:
        n: How many units.
        mean: Their mean.
        variance: Their variance, with n - 1 in the denominator.
    """

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0


def mean_bounds(of: Moments, alpha: float) -> tuple[float, float]:
    """An asymptotic confidence sequence for a mean.

    Args:
        of: The units.
        alpha: The probability that the true mean is ever outside, over all looks together.

    Returns:
        The lower and the upper bound; infinite for fewer than 100 units.
    """
    if of.n < LEAST:
        return -math.inf, math.inf
    radius = math.sqrt(of.variance) * _boundary(of.n, alpha) / of.n
    return of.mean - radius, of.mean + radius


def difference_bounds(of: Moments, minus: Moments, alpha: float) -> tuple[float, float]:
    """An asymptotic confidence sequence for the difference of the means of two groups of units, assigned by chance.

    The difference of means is, in the limit, the mean of one pseudo-outcome for each unit of either group (augmented
    inverse-probability weighting, section 3 of the paper), whose variance is N (s₁² / n₁ + s₂² / n₂).

    Args:
        of: One group.
        minus: The other.
        alpha: The probability that the true difference is ever outside, over all looks together.
    """
    if min(of.n, minus.n) < LEAST:
        return -math.inf, math.inf
    n = of.n + minus.n
    variance = n * (of.variance / of.n + minus.variance / minus.n)
    return mean_bounds(Moments(n, of.mean - minus.mean, variance), alpha)


def _boundary(n: int, alpha: float) -> float:
    """Robbins' normal mixture for a sum of n units of variance 1, narrowest at `_TIGHTEST_AT` units."""
    precision = _precision(alpha)
    return math.sqrt((n + precision) * (math.log((n + precision) / precision) - 2 * math.log(alpha)))


def _precision(alpha: float) -> float:
    """Of the mixing distribution, by the lower branch of Lambert's function (Howard et al., 2021, proposition 3)."""
    from scipy.special import lambertw

    return _TIGHTEST_AT / (-float(lambertw(-(alpha**2) / math.e, -1).real) - 1)
