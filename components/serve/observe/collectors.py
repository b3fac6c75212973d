"""Prometheus' counters and histograms for one thread that counts much: without locks, many values at once."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from fti.serve.observe.gathered import count_all

if TYPE_CHECKING:
    import numpy as np

FEW = 8  # up to so many values, a loop is faster than NumPy


class BulkHistogram(Collector):
    """A Prometheus histogram that takes many values at once: prometheus_client's takes them one by one.

    Args:
        name: The metric's name.
        documentation: What it says.
        labels: The names of its labels.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name, self._documentation, self._labels = name, documentation, list(labels)
        self._buckets: dict[tuple[str, ...], Buckets] = {}
        REGISTRY.register(self)

    def labels(self, values: Sequence[str], bounds: Sequence[float]) -> "Buckets":
        """The child with these values of the labels; made with these bounds where there is none yet."""
        return self._buckets.setdefault(tuple(values), Buckets(bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What prometheus_client asks for."""
        count_all()
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, buckets in list(self._buckets.items()):
            family.add_metric(values, buckets.cumulated(), buckets.total)
        yield family


class EventLoopCounter(Collector):
    """A Prometheus counter for one thread: prometheus_client's own locks for every request.

    Args:
        name: The metric's name, without `_total`.
        documentation: What it says.
        labels: The names of its labels.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name, self._documentation, self._labels = name, documentation, list(labels)
        self.counts: dict[tuple[str, ...], int] = {}
        REGISTRY.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What prometheus_client asks for."""
        count_all()
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in list(self.counts.items()):
            family.add_metric(values, count)
        yield family


class Buckets:
    """How many values fell into which bucket.

    Args:
        bounds: The upper bounds, ascending, without the last, which is infinite.

    Attributes:
        total: The sum of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        import numpy as np

        self._bounds, self._edges = [*map(float, bounds)], np.array(bounds, dtype=np.float64)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def add_all(self, values: list[float]) -> None:
        """Counts a few values."""
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
            self.total += value

    def observe(self, values: "np.ndarray") -> None:
        """Counts values, [N], all finite."""
        if len(values) <= FEW:
            self.add_all(values.tolist())
            return
        import numpy as np

        # In float64, so that a value on a bound falls where it would alone.
        wide = values.astype(np.float64)
        found = np.bincount(self._edges.searchsorted(wide), minlength=len(self._counts))
        self._counts = [count + more for count, more in zip(self._counts, found.tolist(), strict=True)]
        self.total += float(wide.sum())

    def cumulated(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus writes them: upper bound, and how many values are at most that."""
        found, sum_so_far = [], 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            sum_so_far += count
            found.append((bound, float(sum_so_far)))
        return found
