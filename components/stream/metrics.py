"""What a stream tells Prometheus."""

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fti.stream.logic import Pushed


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._events = Counter(
            "fti_stream_events",
            "Events received, by what became of them",
            ["table", "outcome"],
            registry=self._registry,
        )
        self._rows = Counter("fti_stream_feature_rows", "Feature rows written", ["view"], registry=self._registry)
        self._seconds = Histogram("fti_stream_push_seconds", "Seconds of a push", ["table"], registry=self._registry)
        self._watermark = Gauge(
            "fti_stream_watermark_seconds", "Until when features are given out", registry=self._registry
        )
        self._waiting = Gauge("fti_stream_waiting_rows", "Rows not yet in the offline store", registry=self._registry)
        self._failing = Gauge("fti_stream_failing", "1 while features cannot be written", registry=self._registry)

    def pushed(self, table: str, result: "Pushed", seconds: float) -> None:
        """A push went well."""
        self._events.labels(table, "accepted").inc(result.accepted)
        self._events.labels(table, "rejected").inc(len(result.rejected))
        self._seconds.labels(table).observe(seconds)
        self.moved(result)

    def moved(self, result: "Pushed") -> None:
        """Features were given out."""
        for view, rows in result.rows.items():
            self._rows.labels(view).inc(rows)

    def state(self, watermark: datetime, waiting: int, *, failing: bool) -> None:
        """How the stream stands."""
        self._watermark.set(watermark.timestamp())
        self._waiting.set(waiting)
        self._failing.set(failing)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self._registry))
