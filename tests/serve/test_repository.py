"""Loading and unloading: really, by those who may, and by nobody else."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from tests.serve import tiny
from tests.serve.alone import Alone, predictor
from tests.serve.grpc_load import request

pytestmark = pytest.mark.slow

BODY = {"instances": [tiny.ROW]}


@pytest.fixture(scope="module")
def explicit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("explicit")
    with predictor(folder, tiny.write_binary(folder / "package"), "--model_control=explicit") as running:
        yield running


def test_after_an_unload_nothing_answers_until_it_is_loaded(explicit: Alone) -> None:
    from tritonclient.http import InferenceServerClient

    client = InferenceServerClient(explicit.url.removeprefix("http://"))
    revision = explicit.package.digest[:12]
    assert client.get_model_repository_index() == [
        {"name": "late", "version": revision, "state": "READY", "reason": ""}
    ]
    client.unload_model("late")
    client.unload_model("late")
    assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"
    assert explicit.post("/v2/repository/index", json={"ready": True}).json() == []
    assert client.is_server_live() and not client.is_server_ready() and not client.is_model_ready("late")
    for path, body in (("/v1/models/late:predict", BODY), ("/v2/models/late/infer", {"inputs": inputs()})):
        refusal = explicit.post(path, json=body)
        assert refusal.status_code == 503 and "not loaded" in refusal.json()["error"]
    client.load_model("late")
    client.load_model("late")
    assert client.is_model_ready("late") and explicit.post("/v1/models/late:predict", json=BODY).status_code == 200
    assert client.get_model_metadata("late")["versions"] == [revision]


def test_over_grpc(explicit: Alone) -> None:
    with grpc.insecure_channel(explicit.grpc) as channel:
        stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="late")).isUnloaded
        assert not stub.ModelReady(pb.ModelReadyRequest(name="late")).ready
        with pytest.raises(grpc.RpcError) as refusal:
            stub.ModelInfer(request())
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE and "not loaded" in refusal.value.details()
        assert stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="late")).isLoaded
        assert stub.ModelInfer(request()).model_version == explicit.package.digest[:12]
        with pytest.raises(grpc.RpcError) as refusal:
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="early"))
        assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


def test_tritons_grpc_client(explicit: Alone) -> None:
    """Its messages number their fields otherwise than KServe's, and do not share a process with them."""
    code = f"""
from tritonclient.grpc import InferenceServerClient
client = InferenceServerClient("{explicit.grpc}")
client.unload_model("late")
assert not client.is_model_ready("late")
client.load_model("late")
assert client.is_model_ready("late")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_package_that_was_tampered_with_is_not_loaded(explicit: Alone) -> None:
    card = explicit.package.path / "card.md"
    before = card.read_text()
    explicit.post("/v2/repository/models/late/unload")
    card.write_text("tampered")
    refusal = explicit.post("/v2/repository/models/late/load")
    assert refusal.status_code == 503 and "cannot be loaded: PackageError" in refusal.json()["error"]
    assert str(explicit.package.path) not in refusal.text
    assert explicit.post("/v1/models/late:predict", json=BODY).status_code == 503
    card.write_text(before)
    assert explicit.post("/v2/repository/models/late/load").json() == {"name": "late", "load": True}
    assert explicit.post("/v1/models/late:predict", json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "models/early/load", b"", 404, "no such model"),
        ("POST", "models/late/load", b"{", 400, "not JSON"),
        ("POST", "models/late/load", b"[]", 400, "allowed is an object"),
        ("POST", "models/late/load", b'{"parameters": {"config": "{}"}}', 400, "'config'"),
        ("POST", "models/late/unload", b'{"parameters": 1}', 400, "parameters"),
        ("POST", "models/late", b"", 404, "no such path"),
        ("GET", "models/late/unload", b"", 404, "no such path"),
        ("PUT", "index", b"", 404, "no such path"),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(
    explicit: Alone, method: str, path: str, body: bytes, status: int, message: str
) -> None:
    refusal = httpx.request(method, f"{explicit.url}/v2/repository/{path}", content=body)
    assert refusal.status_code == status and message in refusal.json()["error"]
    assert explicit.post("/v1/models/late:predict", json=BODY).status_code == 200


def test_requests_in_flight_survive_unloading(explicit: Alone) -> None:
    """Whatever meets an unload is answered 200 or 503, over connections that stay."""

    async def ask(client: httpx.AsyncClient) -> set[int]:
        return {(await client.post("/v1/models/late:predict", json=BODY)).status_code for _ in range(60)}

    async def toggle(client: httpx.AsyncClient) -> set[int]:
        verbs = ("unload", "load") * 5
        return {(await client.post(f"/v2/repository/models/late/{verb}")).status_code for verb in verbs}

    async def both() -> tuple[set[int], set[int]]:
        async with httpx.AsyncClient(base_url=explicit.url) as client:
            toggled, *asked = await asyncio.gather(toggle(client), *(ask(client) for _ in range(4)))
            return set(toggled), set().union(*asked)

    toggled, asked = asyncio.run(both())
    assert toggled == {200} and 200 in asked and asked <= {200, 503}


def test_by_default_nobody_may(tmp_path: Path) -> None:
    with predictor(tmp_path, tiny.write_binary(tmp_path / "package")) as running:
        for verb in ("load", "unload"):
            refusal = running.post(f"/v2/repository/models/late/{verb}")
            assert refusal.status_code == 403 and "--model_control=explicit" in refusal.json()["error"]
        with grpc.insecure_channel(running.grpc) as channel:
            stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as refused:
                stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="late"))
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert running.post("/v2/repository/index").json()[0]["state"] == "READY"


def inputs() -> list[dict[str, Any]]:
    datatypes = {"distance": "FP32", "month": "INT64", "weekend": "BOOL", "carrier": "BYTES"}
    return [
        {"name": name, "datatype": datatypes.get(name, "FP32"), "shape": [1], "data": [value]}
        for name, value in tiny.ROW.items()
    ]
