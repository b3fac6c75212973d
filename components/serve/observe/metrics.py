"""What the predictor counts, beside KServe's own metrics, at `/metrics`. docs/observability.md lists them.

Requests are counted by the thread of the event loop, or by one that reads (`gathered.py`); all else by the former.
Labels are resolved when a predictor starts, not per request.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from kserve.metrics import PREDICT_HIST_TIME, PROM_LABELS
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from fti.common.inference_log import score_of
from fti.common.model_package import ModelPackage, Signature
from fti.common.online.values import NEVER
from fti.common.online.vectors import STATUSES, Names, Vectors
from fti.serve.observe.collectors import FEW, Buckets, BulkHistogram, EventLoopCounter
from fti.serve.observe.gathered import Gathered

if TYPE_CHECKING:
    import numpy as np

Protocol = Literal["v1", "v2", "grpc", "features", "explain", "other"]
Outcome = Literal["written", "dropped", "sampled_out"]

_LABELS = ["model_name", "revision"]
_ASKED = ("no", "yes")  # values of the label `asked`, by whether it is so
_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]
_ROWS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384]
_AGES = [1, 10, 60, 300, 900, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400, 7 * 86400, 30 * 86400]
_SCORES = [place / 20 for place in range(1, 21)]
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

REGISTRY.unregister(PREDICT_HIST_TIME)  # KServe's, which would take a microsecond for each request
_PREDICT_SECONDS = BulkHistogram("request_predict_seconds", "predict request latency", PROM_LABELS)
_REQUESTS = EventLoopCounter(
    "fti_requests", "Requests answered, by protocol and HTTP status", [*_LABELS, "protocol", "code", "asked"]
)
_REQUEST_SECONDS = BulkHistogram(
    "fti_request_seconds", "From a request's head to its answer", [*_LABELS, "protocol", "asked"]
)
_REQUEST_ROWS = BulkHistogram("fti_request_rows", "Rows of the requests that were answered", [*_LABELS, "asked"])
_BATCH_ROWS = BulkHistogram("fti_batch_rows", "Rows scored at once", _LABELS)
_QUEUE = Gauge("fti_queue_requests", "Requests admitted and not yet answered", _LABELS)
_LOOKED_UP = EventLoopCounter(
    "fti_looked_up",
    "Rows looked up in the online store, by feature view and whether its value was fresh, stale, missing or "
    "unavailable",
    [*_LABELS, "view", "status", "asked"],
)
_AGE = BulkHistogram("fti_feature_age_seconds", "Age of the values looked up, by feature view", [*_LABELS, "view"])
_SCORE = BulkHistogram("fti_score", "Scores predicted: a probability, or a regression's value", [*_LABELS, "asked"])
_LOGGED = Counter("fti_inference_log_rows", "Rows of the inference log, by what became of them", [*_LABELS, "outcome"])


_Answered = tuple["Protocol", int, float, "np.ndarray | None", bool]  # the arguments of `Metrics.answered`


class Metrics:
    """What is counted of one model.

    Args:
        name: The model's name in the protocols' paths.
        revision: Its revision.
        signature: The model's.
        score_bounds: The upper bounds of the buckets of `fti_score`; see `score_bounds`.
    """

    def __init__(
        self, name: str, revision: str, signature: Signature, score_bounds: Sequence[float] = tuple(_SCORES)
    ) -> None:
        self._labels = labels = (name, revision)
        self._requests: list[dict[tuple[str, int], tuple[str, ...]]] = [{} for _ in _ASKED]
        self._seconds: list[dict[str, Buckets]] = [{} for _ in _ASKED]
        self._rows = [_REQUEST_ROWS.labels((*labels, asked), _ROWS) for asked in _ASKED]
        self._batch = _BATCH_ROWS.labels(labels, _ROWS)
        self._kserve = _PREDICT_SECONDS.labels((name,), Histogram.DEFAULT_BUCKETS[:-1])
        self._scores = [_SCORE.labels((*labels, asked), score_bounds) for asked in _ASKED]
        self._score_of = partial(score_of, signature)
        self._answered: Gathered[_Answered] = Gathered(self._count)
        self._names: Names | None = None
        self._views: list[list[tuple[list[tuple[str, ...]], Buckets]]] = []
        self._logged = {each: _LOGGED.labels(*labels, each) for each in ("written", "dropped", "sampled_out")}
        self.queue = _QUEUE.labels(*labels)
        for protocol in ("v1", "v2", "grpc"):  # a rate needs a series that begins at 0
            self._labels_of(protocol, 200, asked=False)

    def answered(
        self,
        protocol: Protocol,
        code: int,
        seconds: float,
        scores: "np.ndarray | None" = None,
        *,
        asked: bool = False,
    ) -> None:
        """Counts a request: the protocol, the HTTP status (over gRPC the one that HTTP would have), how long it took.

        Args:
            protocol: Of the request; `other` for a path that there is not.
            code: The HTTP status.
            seconds: From its head to its answer.
            scores: What was predicted, as `Scorer.score` gives it: of each row the number of `score_of` is counted.
            asked: Whether the caller asked for this variant.
        """
        item = (protocol, code, seconds, scores, asked)
        self._answered.add(item, 0 if scores is None else scores.size)

    def batched(self, rows: int) -> None:
        """Counts a batch that was scored at once."""
        self._batch.add(rows)

    def logged(self, outcome: Outcome, rows: int) -> None:
        """Counts rows of the inference log. Any thread may."""
        self._logged[outcome].inc(rows)

    def looked_up(self, vectors: Vectors, now: datetime, *, asked: bool = False) -> None:
        """Counts the rows of a lookup by view and status, and how old their values were.

        Args:
            vectors: What was looked up.
            now: What time it is for features.
            asked: Whether no rollout shall count them; see `fti.serve.observe.observer.Observed`.
        """
        if vectors.names is not self._names:
            self._name_views(vectors.names)
        counts, (_, rows) = _LOOKED_UP.counts, vectors.codes.shape
        if vectors.codes.any():
            for (labels, _), codes in zip(self._views[asked], vectors.codes.tolist(), strict=True):
                for code in set(codes):
                    counts[labels[code]] = counts.get(labels[code], 0) + codes.count(code)
        else:
            for labels, _ in self._views[asked]:
                counts[labels[0]] = counts.get(labels[0], 0) + rows
        self._count_ages(vectors.times, (now - _EPOCH) // _MICROSECOND)

    def _count(self, items: list[_Answered]) -> None:
        import numpy as np

        predicted: list[list[np.ndarray]] = [[] for _ in _ASKED]
        for protocol, code, seconds, scores, asked in items:
            labels = self._requests[asked].get((protocol, code)) or self._labels_of(protocol, code, asked=asked)
            _REQUESTS.counts[labels] += 1
            taken = self._seconds[asked].get(protocol)
            if taken is None:
                values = (*self._labels, protocol, _ASKED[asked])
                taken = self._seconds[asked][protocol] = _REQUEST_SECONDS.labels(values, _SECONDS)
            taken.add(seconds)
            if scores is not None:
                self._rows[asked].add(len(scores))
                self._kserve.add(seconds)
                predicted[asked].append(scores)
        for buckets, parts in zip(self._scores, predicted, strict=True):
            if parts:
                buckets.observe(self._score_of(np.concatenate(parts)))

    def _labels_of(self, protocol: str, code: int, *, asked: bool) -> tuple[str, ...]:
        labels = (*self._labels, protocol, str(code), _ASKED[asked])
        self._requests[asked][protocol, code] = labels
        _REQUESTS.counts.setdefault(labels, 0)
        return labels

    def _name_views(self, names: Names) -> None:
        self._names, self._views = names, [[], []]
        for view in names.views:
            ages = _AGE.labels((*self._labels, view), _AGES)
            for asked, views in zip(_ASKED, self._views, strict=True):
                views.append(([(*self._labels, view, status, asked) for status in STATUSES], ages))

    def _count_ages(self, times: "np.ndarray", now: int) -> None:
        known = times != NEVER
        ages = (now - times) / 1e6
        if not known.all():
            for (_, buckets), row, which in zip(self._views[0], ages, known, strict=True):
                buckets.observe(row[which])
        elif ages.shape[1] <= FEW:
            for (_, buckets), few in zip(self._views[0], ages.tolist(), strict=True):
                buckets.add_all(few)
        else:
            for (_, buckets), row in zip(self._views[0], ages, strict=True):
                buckets.observe(row)


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
