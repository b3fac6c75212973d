"""Real predictors behind a real Envoy: answers, refusals, traffic, and what happens when a predictor dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from fti.common.errors import BusyError, ConfigError, ServingError
from fti.serve.answers import to_bytes
from fti.serve.client import predict
from fti.serve.local.runner import running
from fti.serve.local.status import read
from fti.serve.protocol import MAX_BODY
from tests.object_store import free_ports
from tests.serve import tiny
from tests.serve.alone import Alone, ready
from tests.serve.conftest import Served
from tests.serve.load import post_many
from tests.serve.test_protocol import BAD_V1, BAD_V2, binary, v2

pytestmark = pytest.mark.slow

V1, V2 = "/v1/models/late:predict", "/v2/models/late"
BODY = json.dumps({"instances": [tiny.ROW]}).encode()


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


@pytest.mark.parametrize(("variant", "bias"), [("stable", 0.0), ("canary", 0.5)])
def test_each_variant_answers_when_asked_for(client: httpx.Client, served: Served, variant: str, bias: float) -> None:
    rows = [tiny.ROW, {**tiny.ROW, "distance": None, "carrier": None, "weekend": True, "month": 1}]
    response = client.post(V1, json={"instances": rows}, headers={"x-variant": variant})
    assert response.status_code == 200, response.text
    assert response.headers["x-fti-revision"] == served.names[variant]
    predictions = response.json()["predictions"]
    for row, prediction in zip(rows, predictions, strict=True):
        p = tiny.expected(row, bias)
        assert prediction == {"prediction": p >= 0.5, "probability": pytest.approx(p, abs=1e-5)}


def test_v2_json_and_binary_give_the_same(client: httpx.Client) -> None:
    stable = {"x-variant": "stable"}
    as_json = client.post(f"{V2}/infer", json=v2([tiny.ROW] * 3), headers=stable)
    assert as_json.status_code == 200, as_json.text
    assert as_json.json()["id"] == "7"
    body, length = binary([tiny.ROW] * 3)
    headers = {"inference-header-content-length": str(length), "content-type": "application/octet-stream", **stable}
    as_binary = client.post(f"{V2}/infer", content=body, headers=headers)
    assert as_binary.status_code == 200, as_binary.text
    assert as_binary.json()["outputs"] == as_json.json()["outputs"]
    wanted = v2([tiny.ROW] * 3, outputs=[{"name": "probability", "parameters": {"binary_data": True}}])
    blob = client.post(f"{V2}/infer", json=wanted, headers=stable)
    assert blob.headers["content-type"] == "application/octet-stream"
    values = np.frombuffer(blob.content[int(blob.headers["inference-header-content-length"]) :], "<f4")
    np.testing.assert_array_equal(values, np.array(as_json.json()["outputs"][1]["data"], np.float32))


def test_metadata_readiness_and_metrics(client: httpx.Client, served: Served) -> None:
    metadata = client.get(V2, headers={"x-variant": "canary"})
    assert metadata.headers["x-fti-revision"] == served.names["canary"]
    assert {tensor["name"]: tensor["datatype"] for tensor in metadata.json()["inputs"]} == {
        "distance": "FP32",
        "month": "INT64",
        "weekend": "BOOL",
        "carrier": "BYTES",
        "origin_delays__mean_delay": "FP32",
    }
    assert metadata.json()["outputs"] == [
        {"name": "prediction", "datatype": "BOOL", "shape": [-1]},
        {"name": "probability", "datatype": "FP32", "shape": [-1, 2]},
    ]
    assert client.get(f"{V2}/ready").json() == {"name": "late", "ready": True}
    assert client.get("/v1/models/late").json() == {"name": "late", "ready": True}
    client.post(V1, content=BODY, headers={"content-type": "application/json", "x-variant": "stable"})
    port = served.state()["stable"]["port"]
    assert 'request_predict_seconds_count{model_name="late"}' in httpx.get(f"http://127.0.0.1:{port}/metrics").text


@pytest.mark.parametrize("given", ["my own", "11111111-2222-4333-8444-555555555555"])
def test_a_request_keeps_its_name(client: httpx.Client, given: str) -> None:
    for method, path in (("POST", V1), ("GET", "/nothing"), ("GET", f"{V2}/infer")):
        response = client.request(method, path, content=BODY, headers={"x-request-id": given})
        assert response.headers.get_list("x-request-id") == [given]
    assert client.post(V1, content=BODY).headers["x-request-id"] != client.get("/nothing").headers["x-request-id"]


def test_services_share_the_gateway(client: httpx.Client) -> None:
    answer = client.post("/v1/models/other:predict", json={"instances": [{"x": 1.0}, {"x": -3.0}]}).json()
    assert [row["prediction"] for row in answer["predictions"]] == ["early", "late"]
    assert answer["predictions"][0]["probabilities"].keys() == {"early", "on time", "late"}


@pytest.mark.parametrize(("body", "message"), BAD_V1)
def test_bad_v1_is_refused(client: httpx.Client, body: Any, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(V1, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json().keys() == {"error"} and "x-fti-revision" in response.headers


@pytest.mark.parametrize(("body", "message"), BAD_V2)
def test_bad_v2_is_refused(client: httpx.Client, body: Any, message: str) -> None:
    response = client.post(f"{V2}/infer", json=body)
    assert response.status_code == 400
    assert response.json().keys() == {"error"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", V1, {"content-type": "text/plain"}, 415),
        ("POST", V1, {"content-type": "application/json; charset=latin-1"}, 415),
        ("POST", V1, {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("POST", V1, {"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ("POST", V1, {"content-type": "application/json; charset=UTF-8"}, 200),
        ("POST", V1, {}, 200),
        ("POST", V1, {"x-variant": "third"}, 404),
        ("GET", V1, {}, 405),
        ("PUT", V1, {}, 405),
        ("POST", "/v1/models/late:explain", {}, 404),
        ("POST", "/v1/models/lat:predict", {}, 404),
        ("POST", "/v2/models/late/versions/1/infer", {}, 404),
        ("GET", "/v2/models/late/versions/1", {}, 404),
        ("POST", "/v2/repository/models/late/unload", {}, 404),
        ("POST", "/v2/models/late/load", {}, 404),
        ("POST", f"{V2}/infer", {"inference-header-content-length": "x"}, 400),
        ("POST", f"{V2}/infer", {"content-type": "application/octet-stream"}, 415),
        ("GET", "/", {}, 404),
    ],
)
def test_paths_methods_and_headers(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = client.request(method, path, content=BODY, headers=headers)
    assert response.status_code == status, response.text
    assert status == 200 or response.json()["error"]


def test_what_would_change_the_server_is_refused_on_its_own_port_too(served: Served) -> None:
    port = served.state()["stable"]["port"]
    refusal = httpx.post(f"http://127.0.0.1:{port}/v2/repository/models/late/unload")
    assert refusal.status_code == 403 and "--model_control=explicit" in refusal.json()["error"]
    assert httpx.get(f"http://127.0.0.1:{port}/v2/models/late/ready").json()["ready"]


def test_bodies_that_are_too_large(client: httpx.Client, served: Served) -> None:
    huge = b" " * (MAX_BODY + 1)
    assert client.post(V1, content=huge, headers={"content-type": "application/json"}).status_code == 413
    port = served.state()["stable"]["port"]
    response = httpx.post(f"http://127.0.0.1:{port}{V1}", content=huge)
    assert response.status_code == 413 and "Allowed: 16777216 bytes" in response.json()["error"]


def test_many_rows_at_once(client: httpx.Client) -> None:
    response = client.post(V1, json={"instances": [tiny.ROW] * 5000}, headers={"x-variant": "stable"})
    assert len(response.json()["predictions"]) == 5000


def test_the_split_is_as_asked(served: Served) -> None:
    load = post_many(served.gateway, V1, BODY, 2000)
    assert {status for status, _ in load.answers} == {200}
    share = load.answers[200, served.names["canary"]] / 2000
    assert abs(share - 0.2) < 4.5 * (0.2 * 0.8 / 2000) ** 0.5


def test_grpc(served: Served) -> None:
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

    def request(*, raw: bool, **changes: Any) -> pb.ModelInferRequest:
        message = pb.ModelInferRequest(**{"model_name": "late", "id": "7", **changes})
        fields = {"FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
        for tensor in v2([tiny.ROW] * 2)["inputs"]:
            part = message.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
            if raw:
                message.raw_input_contents.append(to_bytes(tensor["datatype"], np.array(tensor["data"])))
            elif tensor["datatype"] == "BYTES":
                part.contents.bytes_contents.extend(text.encode() for text in tensor["data"])
            else:
                getattr(part.contents, fields[tensor["datatype"]]).extend(tensor["data"])
        return message

    with grpc.insecure_channel(f"127.0.0.1:{served.state()['canary']['grpc_port']}") as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ModelReady(pb.ModelReadyRequest(name="late")).ready
        assert len(stub.ModelMetadata(pb.ModelMetadataRequest(name="late")).inputs) == 5
        for raw in (True, False):
            response, call = stub.ModelInfer.with_call(request(raw=raw))
            assert dict(call.trailing_metadata())["x-fti-revision"] == served.names["canary"]
            assert [output.name for output in response.outputs] == ["prediction", "probability"]
            scores = np.frombuffer(response.raw_output_contents[1], "<f4").reshape(2, 2)
            np.testing.assert_allclose(scores[:, 1], tiny.expected(tiny.ROW, 0.5), atol=1e-5)
        wrong = request(raw=True)
        wrong.raw_input_contents[0] = b"123"
        mixed = request(raw=False)
        mixed.raw_input_contents.append(b"1")
        short = request(raw=False)
        short.inputs[0].contents.fp32_contents.append(1.0)
        for bad, code in [
            (wrong, grpc.StatusCode.INVALID_ARGUMENT),
            (mixed, grpc.StatusCode.INVALID_ARGUMENT),
            (short, grpc.StatusCode.INVALID_ARGUMENT),
            (pb.ModelInferRequest(model_name="late"), grpc.StatusCode.INVALID_ARGUMENT),
            (request(raw=True, outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="x")]), None),
            (request(raw=True, parameters={"classification": pb.InferParameter(int64_param=1)}), None),
            (request(raw=True, model_name="early"), grpc.StatusCode.NOT_FOUND),
            (request(raw=True, model_version="0"), grpc.StatusCode.NOT_FOUND),
        ]:
            with pytest.raises(grpc.RpcError) as refusal:
                stub.ModelInfer(bad)
            assert refusal.value.code() == (code or grpc.StatusCode.INVALID_ARGUMENT)


def test_predict_helper(served: Served) -> None:
    answer = predict(served.settings, "late", [tiny.ROW], variant="canary")
    assert answer["revision"] == served.names["canary"]
    assert len(answer["predictions"]) == 1
    with pytest.raises(ConfigError, match=r"refuses the request \(400\): .*unknown 'speed'"):
        predict(served.settings, "late", [{**tiny.ROW, "speed": 1}])
    with pytest.raises(ConfigError, match=r"'early' is not served\. Allowed: late, other"):
        predict(served.settings, "early", [tiny.ROW])
    with pytest.raises(ConfigError, match="not JSON"):
        predict(served.settings, "late", [{**tiny.ROW, "distance": float("nan")}])
    with pytest.raises(ServingError, match="does not answer"):
        predict(served.settings, "late", [tiny.ROW], url="http://127.0.0.1:1")


def test_status_shows_desired_and_actual(served: Served) -> None:
    until(lambda: read(served.settings)["services"]["late"]["in_sync"])
    state = read(served.settings)
    assert state["pid"] == os.getpid()
    late = state["services"]["late"]
    assert late["desired"] == {
        "stable": {"revision": served.names["stable"], "percent": 80, "shadow": False},
        "canary": {"revision": served.names["canary"], "percent": 20, "shadow": False},
    }
    assert late["actual"]["url"] == f"{served.gateway}{V1}"
    assert late["actual"]["revisions"]["canary"]["ready"]


def test_a_second_runner_of_the_same_home_is_refused(served: Served) -> None:
    with pytest.raises(BusyError, match="are served already"), running(served.settings):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_no_request_is_lost_when_the_canary_dies(served: Served, number: signal.Signals) -> None:
    until(lambda: all(replica["ready"] for replica in served.state().values()))
    # The gateway takes a moment longer to believe that it is well again.
    until(lambda: (200, served.names["canary"]) in post_many(served.gateway, V1, BODY, 20).answers)
    canary = served.state()["canary"]
    actions = {300: lambda: os.kill(canary["pid"], number)}
    load = post_many(served.gateway, V1, BODY, 1500, at=actions)
    if number == signal.SIGSTOP:
        os.kill(canary["pid"], signal.SIGCONT)
    else:
        until(lambda: served.state()["canary"]["pid"] not in {None, canary["pid"]})
        assert served.state()["canary"]["restarts"] > canary["restarts"]
    until(lambda: served.state()["canary"]["ready"])
    assert load.answers.keys() == {(200, name) for name in served.names.values()}
    assert load.answers.total() == 1500


def test_the_gateway_is_restarted_too(served: Served, client: httpx.Client) -> None:
    before = json.loads((served.settings.home / "serving.json").read_text())["gateway_pid"]
    os.kill(before, signal.SIGKILL)

    def back() -> bool:
        try:
            return httpx.get(f"{served.gateway}{V2}/ready").status_code == 200
        except httpx.HTTPError:
            return False

    until(lambda: not back())
    until(back)


def listened_on(pid: int) -> dict[int, str]:
    """The ports on which a process accepts connections, and the address of each."""
    found = psutil.Process(pid).connections("inet")
    # gRPC takes sockets of IPv6 for addresses of IPv4.
    return {each.laddr.port: each.laddr.ip.removeprefix("::ffff:") for each in found if each.status == "LISTEN"}


def test_what_fti_serve_starts_listens_on_loopback_alone(served: Served) -> None:
    until(lambda: all(replica["ready"] for replica in served.state().values()))
    gateway = json.loads((served.settings.home / "serving.json").read_text())["gateway_pid"]
    replicas = [*served.state().values(), *served.state("other").values()]
    assert httpx.URL(served.gateway).port in listened_on(gateway)
    for replica in replicas:
        assert listened_on(replica["pid"]).keys() == {replica["port"], replica["grpc_port"]}
    for pid in (os.getpid(), gateway, *(replica["pid"] for replica in replicas)):
        assert set(listened_on(pid).values()) <= {"127.0.0.1"}


def test_a_predictor_listens_on_all_addresses_unless_told_otherwise(tmp_path: Path) -> None:
    """As a container needs it."""
    package, log, (port, grpc_port) = tiny.write_binary(tmp_path / "package"), tmp_path / "log", free_ports(2)
    command = [sys.executable, "-m", "fti.serve.predictor", f"--package={package.path}", "--name=late"]
    command += [f"--http_port={port}", f"--grpc_port={grpc_port}"]
    environ = {**os.environ, "FTI_HOME": str(tmp_path / "home")}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environ)
    try:
        until(lambda: ready(Alone(package, process, port, grpc_port, log)), 120)
        until(lambda: len(listened_on(process.pid)) == 2)
        found = listened_on(process.pid)
        assert found.keys() == {port, grpc_port} and set(found.values()) <= {"0.0.0.0", "::"}
    finally:
        process.kill()
        process.wait()
