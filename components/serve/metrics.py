"""What the predictor counts, beside KServe's own metrics, at `/metrics`. docs/observability.md lists them.

Everything is counted by the thread of the event loop. Labels are resolved when a predictor starts, not per request.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from kserve.metrics import PREDICT_HIST_TIME, get_labels
from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from fti.common.model_package import ModelPackage
from fti.common.online.reader import Vectors

if TYPE_CHECKING:
    import numpy as np

Protocol = Literal["v1", "v2", "grpc", "features", "explain", "other"]
Outcome = Literal["written", "dropped", "sampled_out"]

_LABELS = ["model_name", "revision"]
_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]
_ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384]
_AGES = [1, 10, 60, 300, 900, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 7 * 86400, 30 * 86400]
_SCORES = [place / 20 for place in range(1, 21)]
_FEW = 8  # up to so many values, a loop is faster than NumPy


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
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in list(self.counts.items()):
            family.add_metric(values, count)
        yield family


class Buckets:
    """How many values fell into which bucket.

    Args:
        bounds: The upper bounds, ascending, without the last, which is infinite.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        import numpy as np

        self._bounds, self._edges = list(bounds), np.array(bounds, dtype=np.float64)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def observe(self, values: "np.ndarray") -> None:
        """Counts values, [N], all finite."""
        if len(values) <= _FEW:
            for value in values.tolist():
                self.add(value)
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
        for bound, count in zip([*map(str, map(float, self._bounds)), "+Inf"], self._counts, strict=True):
            sum_so_far += count
            found.append((bound, float(sum_so_far)))
        return found


_REQUESTS = EventLoopCounter(
    "fti_requests", "Requests answered, by protocol and HTTP status", [*_LABELS, "protocol", "code"]
)
_REQUEST_SECONDS = BulkHistogram("fti_request_seconds", "From a request's head to its answer", [*_LABELS, "protocol"])
_REQUEST_ROWS = BulkHistogram("fti_request_rows", "Rows of the requests that were answered", _LABELS)
_BATCH_ROWS = BulkHistogram("fti_batch_rows", "Rows scored at once", _LABELS)
_QUEUE = Gauge("fti_queue_requests", "Requests admitted and not yet answered", _LABELS)
_LOOKED_UP = Counter(
    "fti_looked_up",
    "Rows looked up in the online store, by feature view and whether its value was fresh, stale, missing or "
    "unavailable",
    [*_LABELS, "view", "status"],
)
_AGE = BulkHistogram("fti_feature_age_seconds", "Age of the values looked up, by feature view", [*_LABELS, "view"])
_SCORE = BulkHistogram("fti_score", "Scores predicted: a probability, or a regression's value", _LABELS)
_LOGGED = Counter("fti_inference_log_rows", "Rows of the inference log, by what became of them", [*_LABELS, "outcome"])


class Metrics:
    """What is counted of one model.

    Args:
        name: The model's name in the protocols' paths.
        revision: Its revision.
        score_bounds: The upper bounds of the buckets of `fti_score`; see `score_bounds`.
    """

    def __init__(self, name: str, revision: str, score_bounds: Sequence[float] = tuple(_SCORES)) -> None:
        self._labels = labels = (name, revision)
        self._requests: dict[tuple[str, int], tuple[str, ...]] = {}
        self._seconds: dict[str, Any] = {}
        self._rows, self._batch = _REQUEST_ROWS.labels(labels, _ROWS), _BATCH_ROWS.labels(labels, _ROWS)
        self._kserve = PREDICT_HIST_TIME.labels(**get_labels(name))
        self._scores = _SCORE.labels(labels, score_bounds)
        self._ages: dict[str, Buckets] = {}
        self._looked_up: dict[tuple[str, str], Any] = {}
        self._logged = {each: _LOGGED.labels(*labels, each) for each in ("written", "dropped", "sampled_out")}
        self.queue = _QUEUE.labels(*labels)
        for protocol in ("v1", "v2", "grpc"):  # a rate needs a series that begins at 0
            self._labels_of(protocol, 200)

    def answered(self, protocol: Protocol, code: int, seconds: float, rows: int) -> None:
        """Counts a request: the protocol, the HTTP status (over gRPC the one that HTTP would have), how long it took.

        Args:
            protocol: Of the request; `other` for a path that there is not.
            code: The HTTP status.
            seconds: From its head to its answer.
            rows: That were answered; 0 for none.
        """
        labels = self._requests.get((protocol, code)) or self._labels_of(protocol, code)
        _REQUESTS.counts[labels] += 1
        taken = self._seconds.get(protocol)
        if taken is None:
            taken = self._seconds[protocol] = _REQUEST_SECONDS.labels((*self._labels, protocol), _SECONDS)
        taken.add(seconds)
        if rows:
            self._rows.add(rows)
            self._kserve.observe(seconds)

    def scored(self, scores: "np.ndarray") -> None:
        """Counts scores, [N]; see `fti.common.inference_log.score_of`."""
        self._scores.observe(scores)

    def batched(self, rows: int) -> None:
        """Counts a batch that was scored at once."""
        self._batch.add(rows)

    def logged(self, outcome: Outcome, rows: int) -> None:
        """Counts rows of the inference log. Any thread may."""
        self._logged[outcome].inc(rows)

    def looked_up(self, vectors: Vectors, now: datetime) -> None:
        """Counts the rows of a lookup by view and status, and how old their values were.

        Args:
            vectors: What was looked up.
            now: What time it is for features.
        """
        import numpy as np

        if not vectors.known_at:
            return
        known = np.stack([*vectors.known_at.values()])
        moment = np.datetime64(now.replace(tzinfo=None), "us")  # the clock's zone is UTC
        ages, never = (moment - known).view(np.int64) / 1e6, np.isnat(known)
        holes = bool(never.any())
        for at, (view, rows) in enumerate(vectors.status.items()):
            found = rows.tolist()
            for status in set(found):
                self._status_of(view, status).inc(found.count(status))
            self._age_of(view).observe(ages[at][~never[at]] if holes else ages[at])

    def _labels_of(self, protocol: str, code: int) -> tuple[str, ...]:
        labels = self._requests.setdefault((protocol, code), (*self._labels, protocol, str(code)))
        _REQUESTS.counts.setdefault(labels, 0)
        return labels

    def _status_of(self, view: str, status: str) -> Any:
        found = self._looked_up.get((view, status))
        return found or self._looked_up.setdefault((view, status), _LOOKED_UP.labels(*self._labels, view, status))

    def _age_of(self, view: str) -> Buckets:
        if view not in self._ages:
            self._ages[view] = _AGE.labels((*self._labels, view), _AGES)
        return self._ages[view]


def score_bounds(package: ModelPackage) -> list[float]:
    """The upper bounds of the buckets of a model's scores: 20.

    Those of a probability divide 0 to 1. Those of a regression divide a range about that of the package's examples,
    widened, for a few examples do not show the extremes. Its ends are multiples of a power of two, so that a model that
    was trained again mostly has the same buckets, and can be compared.
    """
    if package.signature.task != "regression":
        return list(_SCORES)
    outputs = [float(output) for output in package.examples["outputs"]]
    low, high = min(outputs), max(outputs)
    unit = 2.0 ** math.ceil(math.log2((high - low) or abs(high) or 1.0))
    start = (math.floor(low / unit) - 1) * unit
    return [start + 4 * unit * place / len(_SCORES) for place in range(1, len(_SCORES) + 1)]
