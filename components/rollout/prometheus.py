"""The figures of a rollout on a cluster: what the predictors count, as Prometheus has scraped it.

Pods come, go and begin at 0 again, and each is scraped at its own instant. So raw samples are asked for, not rates:
each series is followed through its resets, and all are read at one instant by interpolation between two scrapes.
"""

import logging
from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from time import monotonic
from typing import Any

from fti.common.inference_service import CANARY, STABLE, read_service
from fti.common.kubernetes_api import own_namespace
from fti.common.settings import LOCAL, Settings
from fti.rollout.counters import REQUESTS, Counts
from fti.rollout.metrics import Reading
from fti.rollout.predictor_metrics import NAMES, Labels, all_counts, counted

log = logging.getLogger(__name__)

_WINDOW = "5m"  # of raw samples: two scrapes must lie in it
_STALE_SCRAPES = 3  # without so many scrapes there are no figures

Samples = dict[Labels, list[tuple[float, float]]]  # series -> (seconds, value), rising


class PrometheusMetrics:
    """The counters of a service's predictors in Prometheus.

    Failures are 5xx that a predictor answered itself: a pod that is gone answers nothing. That its requests are
    missing is seen in the split.

    Args:
        url: Where Prometheus' HTTP API is, such as `http://prometheus.monitoring:9090`.
        settings: Where InferenceServices are; on a cluster, or where they name a namespace, only its series count.
        latency_budget_ms: From when a request is slow, milliseconds; rounded up to a bound of the histogram.
    """

    def __init__(self, url: str, settings: Settings, latency_budget_ms: float) -> None:
        self._url, self._settings, self._budget = url.rstrip("/"), settings, latency_budget_ms
        self._namespace = settings.namespace or ("" if settings.serving == LOCAL else own_namespace())
        self._series: dict[Labels, _Series] = {}
        self._split: object = None
        self._begins_at = 0.0  # in Prometheus' time: what came before belongs to another split
        self._instant, self._advanced = 0.0, monotonic()
        self._last: dict[str, Counts] = {}

    def read(self, service: str) -> Reading | None:
        """What was counted up to the last scrape but one, or None where Prometheus has nothing new to say."""
        found = read_service(service, self._settings)
        if found is None or found.canary is None:
            return None
        revisions = {variant: revision.name for variant, (revision, _) in found.revisions().items()}
        samples = self._samples(service, revisions)
        recent = (points[-4:] for points in samples.values())
        interval = max((later[0] - earlier[0] for points in recent for earlier, later in pairwise(points)), default=0.0)
        if not interval:
            return None
        newest = max(points[-1][0] for points in samples.values())
        split = (revisions, found.canary_percent, found.shadow)
        if split != self._split:
            self._split, self._begins_at = split, newest + interval
        begun = bool(self._series)
        for labels, points in samples.items():
            self._series.setdefault(labels, _Series(from_zero=begun)).add(points)
        return self._reading(split, newest - interval, interval)

    def _reading(self, split: tuple[Mapping[str, str], int, bool], instant: float, interval: float) -> Reading | None:
        revisions, percent, shadow = split
        if instant < self._begins_at:
            return None
        if instant > self._instant:
            self._instant, self._advanced = instant, monotonic()
        elif monotonic() - self._advanced > _STALE_SCRAPES * interval:
            return None
        totals = {variant: self._totals(revision, self._instant) for variant, revision in revisions.items()}
        added = {variant: counts.since(self._last.get(variant, counts)) for variant, counts in totals.items()}
        self._last = totals
        later = self._totals(revisions[CANARY], self._instant + interval)
        return Reading(revisions, percent, shadow, added, blur=later[REQUESTS] - totals[CANARY][REQUESTS])

    def _totals(self, revision: str, instant: float) -> Counts:
        counts = Counts()
        for labels, series in self._series.items():
            names = dict(labels)
            if names["revision"] == revision:
                one = counted({(names["__name__"], labels): int(series.at(instant))})
                counts = counts.plus(one)
        return all_counts(counts, self._budget)

    def _samples(self, service: str, revisions: Mapping[str, str]) -> Samples:
        """Series -> its samples of the last minutes; empty where Prometheus does not answer."""
        import httpx

        matchers = [f'__name__=~"{"|".join(NAMES)}"', f'model_name="{service}"']
        matchers.append(f'revision=~"{"|".join(revisions[variant] for variant in (STABLE, CANARY))}"')
        if self._namespace:
            matchers.append(f'namespace="{self._namespace}"')
        query = f"{{{','.join(matchers)}}}[{_WINDOW}]"
        try:
            answer = httpx.post(f"{self._url}/api/v1/query", data={"query": query}, timeout=10)
            said: dict[str, Any] = answer.raise_for_status().json()
            return {
                tuple(sorted(series["metric"].items())): [(float(t), float(value)) for t, value in series["values"]]
                for series in said["data"]["result"]
            }
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            log.warning("Prometheus has no figures: %s", type(error).__name__)  # the URL may hold a password
            return {}


class _Series:
    """A counter of one process: what it has counted, whatever resets.

    Args:
        from_zero: Whether it began while it was watched, so that its first value is all new.
    """

    def __init__(self, *, from_zero: bool) -> None:
        self._last = 0.0 if from_zero else None
        self._times: list[float] = []
        self._totals: list[float] = []

    def add(self, points: list[tuple[float, float]]) -> None:
        """Takes samples over; those that are known already change nothing."""
        for time, value in points:
            if self._times and time <= self._times[-1]:
                continue
            last = value if self._last is None else self._last
            grown = value - last if value >= last else value
            self._totals.append((self._totals[-1] if self._totals else 0.0) + grown)
            self._times.append(time)
            self._last = value
        known = bisect_right(self._times, points[0][0]) - 1  # older ones are not asked for again
        del self._times[: max(0, known)], self._totals[: max(0, known)]

    def at(self, instant: float) -> float:
        """What it had counted at an instant, between two samples in proportion."""
        place = bisect_right(self._times, instant)
        if place == 0:
            return 0.0
        if place == len(self._times):
            return self._totals[-1]
        share = (instant - self._times[place - 1]) / (self._times[place] - self._times[place - 1])
        return self._totals[place - 1] + share * (self._totals[place] - self._totals[place - 1])
