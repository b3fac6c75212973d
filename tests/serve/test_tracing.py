"""Traces, received by a real OTLP/HTTP receiver."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from fti.common.settings import Settings
from tests.object_store import free_ports
from tests.serve import tiny
from tests.serve.alone import predictor
from tests.serve.keyed import KEYS, SQLITE, at_airport, open_keyed, row

pytestmark = pytest.mark.slow

V1 = "/v1/models/late:predict"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Collector:
    """What was received: the spans, by name, and each resource's attributes."""

    port: int
    spans: dict[str, list[Any]] = field(default_factory=dict)
    resources: list[dict[str, str]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)


@contextmanager
def collector() -> Iterator[Collector]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.paths.add(self.path)
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in request.resource_spans:
                found.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    found.spans.setdefault(span.name, []).append(span)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        found = Collector(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_is_a_span_with_its_lookup_and_its_scoring(settings: Settings, tmp_path: Path) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

    repo, store = open_keyed(settings, tmp_path / "repo", SQLITE)
    at_airport(store, "JFK", 30.0)
    package = tiny.write_binary(tmp_path / "package", entity_keys=KEYS, feature_service="late_v1")
    carrier = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    with collector() as received:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{received.port}", "FTI_HOME": str(settings.home)}
        with predictor(tmp_path, package, f"--feature_repo={repo}", "--access_log=all", environ=environ) as served:
            rows = {"instances": [row("JFK"), row("EWR")]}
            given = {**carrier, "x-request-id": "mine"}
            httpx.post(served.url + V1, json=rows, headers=given).raise_for_status()
            assert httpx.post(served.url + V1, content=b"{").status_code == 400
            unsampled = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
            httpx.post(served.url + V1, json=rows, headers=unsampled).raise_for_status()
            with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel, pytest.raises(grpc.RpcError):
                stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
                stub.ModelInfer(pb.ModelInferRequest(model_name="nobody"), metadata=tuple(carrier.items()))
            assert served.end() == 0
            lines = served.lines()
    assert received.paths == {"/v1/traces"}
    assert received.resources[0].items() >= {"service.name": "late", "service.version": package.digest[:12]}.items()
    good, refused = sorted(received.spans[f"POST {V1}"], key=lambda span: span.start_time_unix_nano)
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, CALLER), "the caller's trace goes on"
    assert refused.trace_id.hex() != TRACE and refused.parent_span_id == b""
    wanted = {"fti.model": "late", "fti.revision": package.digest[:12], "fti.rows": 2, "fti.request_id": "mine"}
    assert attributes(good).items() >= {**wanted, "http.response.status_code": 200, "fti.protocol": "v1"}.items()
    assert attributes(refused)["http.response.status_code"] == 400
    assert good.kind == good.SPAN_KIND_SERVER and good.status.code == 0 == refused.status.code
    for name in ("lookup", "score"):
        (span,) = received.spans[name]
        assert (span.trace_id, span.parent_span_id) == (good.trace_id, good.span_id)
        assert good.start_time_unix_nano <= span.start_time_unix_nano < span.end_time_unix_nano
        assert span.end_time_unix_nano <= good.end_time_unix_nano
        assert attributes(span) == {"fti.rows": 2}
    (call,) = received.spans["inference.GRPCInferenceService/ModelInfer"]
    assert call.trace_id.hex() == TRACE and attributes(call)["rpc.system"] == "grpc"
    assert {line["request_id"]: line["trace_id"] for line in lines if "trace_id" in line}["mine"] == TRACE


def test_a_collector_that_is_down_costs_no_request(tmp_path: Path) -> None:
    package = tiny.write_binary(tmp_path / "package")
    (port,) = free_ports(1)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with predictor(tmp_path, package, environ=environ) as served, httpx.Client(base_url=served.url) as client:
        seconds = []
        for _ in range(3000):  # more than OpenTelemetry's queue holds
            started = time.perf_counter()
            client.post(V1, json={"instances": [tiny.ROW]}).raise_for_status()
            seconds.append(time.perf_counter() - started)
        assert sorted(seconds)[1500] < 0.05
        started = time.perf_counter()
        assert served.end() == 0 and time.perf_counter() - started < 8
        told = [line for line in served.lines() if line["logger"].startswith("opentelemetry")]
    assert len(told) == 1, "once a minute"


def test_nothing_of_opentelemetry_is_imported_without_a_collector() -> None:
    # The packages around the predictor may import its API; the SDK and the exporter are ours alone.
    code = (
        "import sys; from fti.serve.observe.tracing import open_tracing\n"
        "import fti.serve.observe.observer, fti.serve.model\n"
        "assert open_tracing('late', 'r1', {}) is None\n"
        "off = {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://c', 'OTEL_SDK_DISABLED': 'true'}\n"
        "assert open_tracing('late', 'r1', off) is None\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]", said.stdout


def test_a_span_of_what_failed_holds_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from fti.serve.observe import tracing

    provider, exported = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("tests"))
    with pytest.raises(ValueError), tracing.child("lookup"):
        raise ValueError("passport A1234567")
    (span,) = exported.get_finished_spans()
    assert "A1234567" not in span.to_json()
