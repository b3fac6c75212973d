"""OpenTelemetry traces, where OTEL_EXPORTER_OTLP_ENDPOINT says whereto; nothing of it is imported otherwise."""

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_LAST_EXPORT_SECONDS = 2.0
_NOTHING: AbstractContextManager[Any] = nullcontext()
_tracer: "Tracer | None" = None  # of the process, as OpenTelemetry's own is


def child(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """A span within the request's, for a `with` block; nothing where there are no traces."""
    if _tracer is None:
        return _NOTHING
    return _tracer.start_as_current_span(
        name,
        attributes={f"fti.{key}": value for key, value in attributes.items()},
        record_exception=False,  # its text may hold values and hosts
        set_status_on_exception=False,
    )


class Tracing:
    """The traces of one model's requests.

    Args:
        provider: OpenTelemetry's.
        tracer: Its tracer.
        attributes: Of every request's span.
    """

    def __init__(self, provider: "TracerProvider", tracer: "Tracer", attributes: Mapping[str, str]) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._tracer, self._attributes = provider, tracer, attributes
        self._propagator = TraceContextTextMapPropagator()

    def start(self, name: str, carrier: Mapping[str, str], attributes: Mapping[str, str]) -> "Span":
        """Starts the span of a request, which continues the caller's trace.

        Args:
            name: The span's name.
            carrier: `traceparent` and `tracestate`, where the request has them.
            attributes: Of this span.
        """
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract(carrier) if carrier else None
        span = self._tracer.start_span(
            name, context, kind=SpanKind.SERVER, attributes={**self._attributes, **attributes}
        )
        return Span(span)

    def close(self) -> None:
        """Exports what is left, for a few seconds at most: OpenTelemetry itself would wait for a collector for long."""
        last = Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_LAST_EXPORT_SECONDS)


class Span:
    """The span of a request, current from its start to its end.

    Args:
        span: OpenTelemetry's.
    """

    def __init__(self, span: Any) -> None:
        from opentelemetry import context, trace

        self._span = span
        self._token = context.attach(trace.set_span_in_context(span))

    @property
    def trace_id(self) -> str:
        """The trace's id, in hexadecimal."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def end(self, attributes: Mapping[str, str | int], *, failed: bool) -> None:
        """Ends the span; `failed` where it is the server's fault."""
        from opentelemetry import context
        from opentelemetry.trace import StatusCode

        context.detach(self._token)
        self._span.set_attributes(attributes)
        if failed:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def open_tracing(model: str, revision: str, environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """Starts tracing as OpenTelemetry's own environment variables say; None where they name no collector.

    Spans are exported in batches by a thread of their own. A collector that is down costs no request: what does not
    fit into the queue is lost.

    Args:
        model: The model's name; the service's too, unless OTEL_SERVICE_NAME says otherwise.
        revision: Its revision.
        environ: The environment. OpenTelemetry reads its own variables from the process's.
    """
    global _tracer  # noqa: PLW0603
    if not any(environ.get(name) for name in _ENDPOINTS) or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        log.warning("There are no traces, for OpenTelemetry is not installed. Install kfp-fti[tracing].")
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _SPOKEN)
    if protocol != _SPOKEN:
        log.warning("Traces are sent as %s, whatever OTEL_EXPORTER_OTLP_PROTOCOL says: %s", _SPOKEN, protocol)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({"service.version": revision} | ({} if named else {"service.name": model}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("fti.serve")
    return Tracing(provider, _tracer, {"fti.model": model, "fti.revision": revision})
