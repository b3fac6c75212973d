"""What is seen of a request: one object from its head to its answer, ended in one place.

It feeds the metrics, the log, the traces and the inference log; whoever answers requests knows nothing of these.
"""

import logging
import os
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, time
from typing import TYPE_CHECKING

from fti.common.inference_log import score_of
from fti.common.masking import masked
from fti.common.settings import Settings
from fti.serve.observe.inference_log import InferenceLog, Limits, open_log
from fti.serve.observe.inference_rows import Entry
from fti.serve.observe.logs import Limit
from fti.serve.observe.metrics import Protocol
from fti.serve.observe.tracing import Span, Tracing, open_tracing

if TYPE_CHECKING:
    from fti.serve.model import Answer, PackagedModel
    from fti.serve.protocol import Request

log = logging.getLogger(__name__)

REQUEST_ID_HEADER, UNIT_HEADER, VARIANT_HEADER = "x-request-id", "x-fti-unit", "x-variant"
_NO_PREDICTIONS = frozenset({"features", "explain"})
_TRACE_HEADERS = ("traceparent", "tracestate")
_LONGEST_ID, _LONGEST_UNIT, _LONGEST_REASON, _LONGEST_PATH = 128, 256, 80, 200
_HUNG_UP = 499  # as nginx calls it
_IDS = 512  # made at once: asking the system for each takes 1 µs
# So many lines in a minute are enough to see what is wrong, and too few to fill a disk.
_REFUSALS, _FAILURES = 60, 600
_ids: list[str] = []


class Observer:
    """Observes the requests to one model.

    Args:
        model: The model.
        access_log: Whether answers are logged too, not only refusals and failures.
        inference_log: Where predictions are logged, if anywhere.
        tracing: Where traces go, if anywhere.
    """

    def __init__(
        self,
        model: "PackagedModel",
        *,
        access_log: bool = False,
        inference_log: InferenceLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.signature, self.metrics = model.signature, model.metrics
        self.access_log, self.inference_log, self.tracing = access_log, inference_log, tracing
        self.limits = {4: Limit(_REFUSALS), 5: Limit(_FAILURES)}

    def http(self, protocol: Protocol, headers: Mapping[bytes, bytes], method: str, path: str) -> "Observed":
        """Begins to observe a request over HTTP.

        Args:
            protocol: `other` where there is no such path.
            headers: Of the request.
            method: Its method.
            path: Its path; a metric never carries it.
        """
        request_id = _text(headers[b"x-request-id"]) if b"x-request-id" in headers else ""
        unit = _text(headers[b"x-fti-unit"]) if b"x-fti-unit" in headers else ""
        observed = Observed(self, protocol, request_id, unit, chosen=b"x-variant" in headers)
        if self.tracing is not None:
            carrier = {name: _text(headers.get(name.encode())) for name in _TRACE_HEADERS}
            attributes = {"http.request.method": method, "url.path": path[:_LONGEST_PATH], "fti.protocol": protocol}
            name = method if protocol == "other" else f"{method} {path}"
            observed.span = self.tracing.start(name, {k: v for k, v in carrier.items() if v}, attributes)
        return observed

    def grpc(self, metadata: Mapping[str, str], request_id: str, method: str) -> "Observed":
        """Begins to observe a request over gRPC.

        Args:
            metadata: Of the request, the text alone.
            request_id: The id in the message, which counts where the metadata have none.
            method: Such as `inference.GRPCInferenceService/ModelInfer`.
        """
        observed = Observed(
            self,
            "grpc",
            metadata.get(REQUEST_ID_HEADER, "") or request_id,
            metadata.get(UNIT_HEADER, ""),
            chosen=VARIANT_HEADER in metadata,
        )
        if self.tracing is not None:
            carrier = {name: metadata[name] for name in _TRACE_HEADERS if name in metadata}
            service, _, called = method.partition("/")
            attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": called, "fti.protocol": "grpc"}
            observed.span = self.tracing.start(method, carrier, attributes)
        return observed


class Observed:
    """One request, from its head to its answer: a context manager around the whole of it.

    Args:
        observer: Where what is seen goes.
        protocol: The protocol.
        request_id: As the caller gave it; one is made where it is empty or no name.
        unit: Whom the request is for, as the caller says.
        chosen: Whether the caller asked for this variant: it says nothing of how traffic was split.

    Attributes:
        asked: Whether no rollout counts its lookups: it is chosen, or asks for features or an explanation alone.
        request_id: The id, which goes back with the answer.
        code: The HTTP status of the answer; over gRPC the one that HTTP would have. Set it as soon as it is known.
        reason: Why there was no answer. Only its beginning, which names the field, is logged: the rest may hold values.
        cause: What went wrong on the server's side. It is logged whole: it must hold no value of the request.
        span: Of the trace, if there is one.
    """

    __slots__ = (
        "_chosen",
        "_observer",
        "_prediction",
        "_protocol",
        "_started",
        "_unit",
        "asked",
        "cause",
        "code",
        "reason",
        "request_id",
        "span",
    )

    def __init__(
        self, observer: Observer, protocol: Protocol, request_id: str, unit: str, *, chosen: bool = False
    ) -> None:
        self._started = perf_counter()
        self._observer, self._protocol = observer, protocol
        good = request_id and len(request_id) <= _LONGEST_ID and request_id.isascii() and request_id.isprintable()
        self.request_id = request_id if good else _ids.pop() if _ids else _new_id()
        self._unit, self._chosen = unit[:_LONGEST_UNIT], chosen
        self.asked = chosen or protocol in _NO_PREDICTIONS
        self._prediction: tuple[Request, Answer] | None = None
        self.code, self.reason, self.cause = 0, "", ""
        self.span: Span | None = None

    def __enter__(self) -> "Observed":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if not self.code:  # nobody waits for an answer any more, or nobody knew what to answer
            cancelled = kind is not None and issubclass(kind, CancelledError)
            self.code, self.reason = (_HUNG_UP, "") if cancelled else (500, kind.__name__ if kind else "")
        self._end()

    def predicted(self, request: "Request", answer: "Answer") -> None:
        """Notes what was predicted; it counts once the request ends well."""
        self._prediction = request, answer

    def _end(self) -> None:
        seconds, code = perf_counter() - self._started, self.code
        observer, rows, scores = self._observer, 0, None
        if code == 200 and self._prediction is not None:
            request, answer = self._prediction
            rows, scores = request.rows, answer.scores
            if observer.inference_log is not None:
                score = score_of(observer.signature, scores)
                entry = Entry(self.request_id, time(), self._unit, self._protocol, self._chosen, request, answer, score)
                observer.inference_log.add(entry)
        observer.metrics.answered(self._protocol, code, seconds, scores, asked=self._chosen)
        if code >= 400 or observer.access_log:
            self._log(seconds, rows)
        if self.span is not None:
            status = "http.response.status_code"
            self.span.end({status: code, "fti.rows": rows, "fti.request_id": self.request_id}, failed=code >= 500)

    def _log(self, seconds: float, rows: int) -> None:
        code, limit = self.code, self._observer.limits.get(self.code // 100)
        if limit is not None and not limit.allows():
            return
        fields: dict[str, object] = {
            "request_id": self.request_id,
            "protocol": self._protocol,
            "code": code,
            "ms": round(1000 * seconds, 3),
            "rows": rows,
            "unit": self._unit or None,
        }
        if self.span is not None:
            fields["trace_id"] = self.span.trace_id
        if self.cause:
            fields["cause"] = masked(self.cause)
        if limit is not None and limit.left_out:
            fields["left_out"], limit.left_out = limit.left_out, 0
        level = logging.INFO if code < 400 else logging.WARNING if code < 500 else logging.ERROR
        about = self.reason.partition(":")[0][:_LONGEST_REASON]
        log.log(
            level, "%s answered %d%s", self._protocol, code, f": {about}" if about else "", extra={"fields": fields}
        )


def _new_id() -> str:
    """A request id, of 128 random bits; more of them are left in `_ids`."""
    many = os.urandom(16 * _IDS).hex()
    _ids.extend(many[at : at + 32] for at in range(0, len(many), 32))
    return _ids.pop()


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value else ""


@contextmanager
def observing(model: "PackagedModel", settings: Settings, access_log: bool, limits: Limits) -> Iterator[Observer]:
    """Observes a model within a `with` block, as the settings and OpenTelemetry's variables say.

    Args:
        model: The model.
        settings: Where the inference log lies, if anywhere.
        access_log: Whether answers are logged too.
        limits: Of the inference log.

    Raises:
        ConfigError: The inference log cannot be written to where it shall lie.
    """
    inference_log, tracing = open_log(model, settings, limits), open_tracing(model.name, model.revision)
    try:
        yield Observer(model, access_log=access_log, inference_log=inference_log, tracing=tracing)
    finally:
        if inference_log is not None:
            inference_log.close()
        if tracing is not None:
            tracing.close()
