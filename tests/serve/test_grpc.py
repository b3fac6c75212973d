"""gRPC through the gateway: the same port, services, variants and promises as over HTTP."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from fti.serve.protocol import INFER
from tests.serve import tiny
from tests.serve.alone import Alone, predictor
from tests.serve.conftest import Served
from tests.serve.grpc_load import infer_many, request
from tests.serve.test_lifecycle import until

pytestmark = pytest.mark.slow

LATE = (("x-fti-service", "late"),)
_DENIED = grpc.StatusCode.PERMISSION_DENIED


@contextmanager
def stub(served: Served, authority: str = "") -> Iterator[Any]:
    options = [("grpc.default_authority", authority)] if authority else []
    with grpc.insecure_channel(served.gateway.removeprefix("http://"), options=options) as channel:
        yield grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("authority", ["late.default.example.com", "Late.anywhere:8080", "late", "late:80"])
def test_a_service_is_named_by_the_host(served: Served, authority: str) -> None:
    with stub(served, authority) as service:
        assert service.ServerLive(pb.ServerLiveRequest()).live and service.ServerReady(pb.ServerReadyRequest()).ready
        assert service.ModelReady(pb.ModelReadyRequest(name="late")).ready
        assert service.ModelInfer(request()).model_version in served.names.values()
    answer = httpx.get(f"{served.gateway}/v2/health/ready", headers={"host": authority})
    assert answer.json() == {"ready": True} and answer.headers["x-fti-revision"] in served.names.values()


def test_a_service_is_named_by_a_header_which_goes_before_the_host(served: Served) -> None:
    with stub(served, "other.default") as service:
        assert service.ModelInfer(request(), metadata=LATE).model_version in served.names.values()
        with pytest.raises(grpc.RpcError) as refusal:
            service.ModelInfer(request())  # it reaches the service `other`, whose model has another name
        assert refusal.value.code() == grpc.StatusCode.NOT_FOUND and "Allowed: other" in refusal.value.details()


@pytest.mark.parametrize("authority", ["", "later.default", "none"])
@pytest.mark.parametrize("metadata", [(), (("x-fti-service", "none"),)])
def test_what_names_no_service_is_refused(served: Served, authority: str, metadata: Any) -> None:
    with stub(served, authority) as service, pytest.raises(grpc.RpcError) as refusal:
        service.ModelInfer(request(), metadata=metadata)
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "Served: late, other" in refusal.value.details()


def test_variants(served: Served) -> None:
    with stub(served) as service:
        for variant, revision in served.names.items():
            response, call = service.ModelInfer.with_call(request(id="7"), metadata=(*LATE, ("x-variant", variant)))
            assert (response.model_version, response.id) == (revision, "7")
            assert dict(call.trailing_metadata())["x-fti-revision"] == revision
        with pytest.raises(grpc.RpcError) as refusal:
            service.ModelInfer(request(), metadata=(*LATE, ("x-variant", "third")))
        assert "Allowed in x-variant: stable, canary" in refusal.value.details()
    answers, _ = infer_many(served.gateway.removeprefix("http://"), 1000)
    assert {status for status, _ in answers} == {"OK"}
    share = answers["OK", served.names["canary"]] / 1000
    assert share == pytest.approx(0.2, abs=4.5 * (0.2 * 0.8 / 1000) ** 0.5)


def test_unknown_parameters_are_refused_by_name(served: Served) -> None:
    parameter = pb.InferParameter(int64_param=1)
    wrong = [request(parameters={"classification": parameter}), request(), request()]
    wrong[1].inputs[0].parameters["shared_memory_region"].int64_param = 1
    wrong[2].outputs.add(name="probability").parameters["classification"].int64_param = 1
    with stub(served) as service:
        for message in wrong:
            with pytest.raises(grpc.RpcError) as refusal:
                service.ModelInfer(message, metadata=LATE)
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "unknown parameter" in refusal.value.details()
        harmless = request(parameters={"sequence_id": parameter, "timeout": parameter})
        harmless.inputs[0].parameters["binary_data_size"].int64_param = 4
        assert service.ModelInfer(harmless, metadata=LATE).model_version in served.names.values()


def test_what_would_change_a_server_has_no_route(served: Served) -> None:
    with stub(served) as service:
        for call, message in (
            (service.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="late")),
            (service.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="late")),
        ):
            with pytest.raises(grpc.RpcError) as refusal:
                call(message, metadata=LATE)
            assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_no_request_is_lost_when_the_canary_dies(served: Served, number: signal.Signals) -> None:
    until(lambda: all(replica["ready"] for replica in served.state().values()))
    canary = served.state()["canary"]
    address = served.gateway.removeprefix("http://")
    answers, _ = infer_many(address, 1000, at={200: lambda: os.kill(canary["pid"], number)})
    if number == signal.SIGSTOP:
        os.kill(canary["pid"], signal.SIGCONT)
    else:
        until(lambda: served.state()["canary"]["pid"] not in {None, canary["pid"]})
    assert answers.keys() == {("OK", name) for name in served.names.values()}
    assert answers.total() == 1000
    until(lambda: served.state()["canary"]["ready"])
    until(lambda: ("OK", served.names["canary"]) in infer_many(address, 50)[0])  # it takes its share again


NO_PROTOBUF = [b"\xff\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7fshort", request().SerializeToString()[:-1]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("alone")
    with predictor(folder, tiny.write_binary(folder / "package")) as alone:
        yield alone


@pytest.mark.parametrize("raw", NO_PROTOBUF)
def test_bytes_that_are_no_protobuf_are_refused_as_any_bad_request(running: Alone, raw: bytes) -> None:
    labels, name = {"protocol": "grpc", "code": "400"}, f"garbage-{NO_PROTOBUF.index(raw)}"
    before = running.metric("fti_requests_total", **labels)
    with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary(f"/{INFER}")(raw, metadata=(("x-request-id", name),), timeout=20)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "no protobuf of inference.GRPCInferenceService/ModelInfer's request" in refusal.value.details()
    told = {"x-request-id": name, "x-fti-revision": running.package.digest[:12]}
    assert told.items() <= dict(refusal.value.trailing_metadata()).items()
    until(lambda: running.metric("fti_requests_total", **labels) == before + 1)
    assert [line["level"] for line in running.lines() if line.get("request_id") == name] == ["WARNING"]


@pytest.mark.parametrize("method", ["ServerLive", "ModelReady", "ModelMetadata", "RepositoryModelUnload"])
def test_no_protobuf_for_the_other_methods(running: Alone, method: str) -> None:
    with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(NO_PROTOBUF[0], timeout=20)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT and method in refusal.value.details()
    assert dict(refusal.value.trailing_metadata())["x-fti-revision"] == running.package.digest[:12]


def test_what_callers_do_wrong_is_not_logged_as_an_error(running: Alone) -> None:
    with grpc.insecure_channel(running.grpc) as channel:
        service = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        wrong = [
            (service.ModelInfer, request(model_name="other"), grpc.StatusCode.NOT_FOUND),
            (service.ModelInfer, pb.ModelInferRequest(model_name="late"), grpc.StatusCode.INVALID_ARGUMENT),
            (service.ModelReady, pb.ModelReadyRequest(name="other"), grpc.StatusCode.NOT_FOUND),
            (service.ModelMetadata, pb.ModelMetadataRequest(name="other"), grpc.StatusCode.NOT_FOUND),
            (service.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="late"), _DENIED),
        ]
        for call, message, code in wrong:
            with pytest.raises(grpc.RpcError) as refusal:
                call(message, timeout=20)
            assert refusal.value.code() == code
        assert service.ModelInfer(request(), timeout=20).model_name == "late"
    assert not [line for line in running.lines() if line["level"] == "ERROR" or "exception" in line]


def test_what_a_predictor_has_begun_it_answers_when_it_ends(tmp_path: Path) -> None:
    """Told to end under load, it goes on until its callers have gone, or for a while."""
    with predictor(tmp_path, tiny.write_binary(tmp_path / "package")) as running:
        answers, _ = infer_many(running.grpc, 600, threads=8, at={200: running.process.terminate})
        assert {status for status, _ in answers} == {"OK"} and running.process.wait(20) == 0


def flood(address: str, requests: int, metadata: Any = ()) -> Counter[grpc.StatusCode]:
    """How often each status comes of requests that are all sent at once, over eight connections."""
    statuses: Counter[grpc.StatusCode] = Counter()
    done, lock, message = threading.Semaphore(0), threading.Lock(), request()

    def ended(call: Any) -> None:
        with lock:
            statuses[call.code()] += 1
        done.release()

    with ExitStack() as stack:
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(address, options=own)) for _ in range(8)]
        services = [grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in channels]
        for number in range(requests):
            call = services[number % 8].ModelInfer.future(message, timeout=60, metadata=metadata)
            call.add_done_callback(ended)
        for _ in range(requests):
            assert done.acquire(timeout=60)
    return statuses


def test_load_is_shed(tmp_path: Path) -> None:
    """Told to the caller as what it is, and nothing else is."""
    with predictor(
        tmp_path, tiny.write_binary(tmp_path / "package"), "--max_queue=2", "--max_batch_delay_ms=20"
    ) as running:
        assert flood(running.grpc, 200).keys() == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_load_is_shed_by_the_gateway_too(served: Served) -> None:
    """A small model's predictor cannot even refuse so much: the gateway does, as it would."""
    stable = (*LATE, ("x-variant", "stable"))
    statuses = flood(served.gateway.removeprefix("http://"), 4000, stable)
    assert statuses.keys() == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert statuses[grpc.StatusCode.OK] >= 128
    until(lambda: flood(served.gateway.removeprefix("http://"), 1, stable) == {grpc.StatusCode.OK: 1})


def test_a_deadline_is_kept(tmp_path: Path) -> None:
    with predictor(tmp_path, tiny.write_binary(tmp_path / "package"), "--deadline_ms=1", "--max_queue=400") as running:
        found: Counter[grpc.StatusCode] = Counter()

        def late() -> bool:
            found.update(flood(running.grpc, 300))
            return grpc.StatusCode.DEADLINE_EXCEEDED in found

        until(late)
        assert found.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
        until(lambda: flood(running.grpc, 1) == {grpc.StatusCode.OK: 1})
