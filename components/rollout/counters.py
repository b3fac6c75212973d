"""Counters of a variant, by name, and how much they grow from look to look."""

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

REQUESTS = "requests"  # assigned to a variant
FAILURES = "failures"  # not answered at the first try, whoever answered in the end
REFUSALS = "refusals"  # answered 4xx
SLOW = "slow"  # longer than the latency budget
SENT = "sent"  # begun: also copies that are still on their way
NAMED = "named"  # of both variants together: requests that name their unit, which decides on the variant
# Groups: `<group>/<member>`.
LOOKED_UP, STALE = "looked_up", "stale"  # rows by feature view, and those of them without a fresh value
SCORES, ROWS, SECONDS = "scores", "rows", "seconds"  # cumulative histograms, by upper bound

Series = TypeVar("Series", bound=Hashable)


class Counts(dict[str, int]):
    """Counter -> how often; 0 for what was never counted."""

    def __missing__(self, name: str) -> int:
        return 0

    def plus(self, more: Mapping[str, int]) -> "Counts":
        """The sum."""
        return Counts({name: self[name] + more.get(name, 0) for name in dict.fromkeys([*self, *more])})

    def since(self, before: Mapping[str, int]) -> "Counts":
        """The difference."""
        return Counts({name: self[name] - before.get(name, 0) for name in dict.fromkeys([*self, *before])})

    def group(self, name: str) -> dict[str, int]:
        """Member -> count of one group."""
        return {key.partition("/")[2]: count for key, count in self.items() if key.partition("/")[0] == name}

    def histogram(self, name: str) -> list[tuple[float, int]]:
        """(upper bound, cumulative count) of one group, rising."""
        return sorted((float(bound), count) for bound, count in self.group(name).items())


def quantile(histogram: list[tuple[float, int]], q: float) -> float | None:
    """A quantile as Prometheus' `histogram_quantile` estimates it: linear within a bucket, the first begins at 0.

    Args:
        histogram: (upper bound, cumulative count), rising; the last bound is infinite.
        q: Which, above 0 and up to 1.

    Returns:
        Of what lies above the last finite bound that bound; None where nothing was counted.
    """
    total = histogram[-1][1] if histogram else 0
    low, before = 0.0, 0
    for bound, count in histogram:
        if total and count >= q * total:
            return low + (bound - low) * (q * total - before) / (count - before) if math.isfinite(bound) else low
        low, before = bound, count
    return None


class Odometer(Generic[Series]):
    """What counters have counted since the first look, whatever restarts in between.

    A counter that fell began anew at 0, and one that appears began at 0, so all that they show is new.
    """

    def __init__(self) -> None:
        self._last: dict[Series, int] = {}
        self._totals: dict[Series, int] = {}
        self._begun = False

    def read(self, now: Mapping[Series, int]) -> dict[Series, int]:
        """The totals of all series ever seen; 0 at the first look.

        Args:
            now: Series -> its value. What names a series also names the process that counts.
        """
        for series, value in now.items():
            last = self._last.get(series, 0 if self._begun else value)
            grown = value - last if value >= last else value
            self._totals[series] = self._totals.get(series, 0) + grown
            self._last[series] = value
        self._begun = True
        return self.totals()

    def totals(self) -> dict[Series, int]:
        """What was read so far."""
        return dict(self._totals)
