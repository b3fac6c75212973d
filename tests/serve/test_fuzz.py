"""Many wrong requests to a running predictor: each is refused by name, none harms the server or the next request.

`FTI_FUZZ_REQUESTS=100000 pytest tests/serve/test_fuzz.py -m slow` sends as many as that.
"""

import http.client
import json
import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fti.common.settings import Settings
from tests.serve import tiny
from tests.serve.alone import Alone, predictor
from tests.serve.bad_grpc import missing_number, right_message, wrong_message
from tests.serve.bad_requests import JSON, V1, V2, Wrong, right_binary, right_v1, right_v2, wrong_request
from tests.serve.extremes import extreme_head, extreme_request, many_tensors
from tests.serve.keyed import KEYS, SQLITE, at_airport, open_keyed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
REQUESTS = int(os.environ.get("FTI_FUZZ_REQUESTS", "5000"))
LENGTH = "inference-header-content-length"
EXPECTED = tiny.expected(tiny.ROW, 0.0)
SEED = int(os.environ.get("FTI_FUZZ_SEED", "1"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("fuzz")
    settings = Settings.from_env({"FTI_HOME": str(folder / "home")})
    repo, store = open_keyed(settings, folder / "repo", SQLITE)
    at_airport(store, "JFK", 12.0)
    package = tiny.write_binary(folder / "package", entity_keys=KEYS, feature_service="late_v1")
    with predictor(folder, package, f"--feature_repo={repo}") as alone:
        yield alone


def _memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def _send(
    connection: http.client.HTTPConnection, wrong: Wrong
) -> tuple[http.client.HTTPResponse, bytes, socket.socket | None]:
    connection.request(wrong.method, wrong.path, wrong.body, wrong.headers)
    used = connection.sock
    response = connection.getresponse()
    return response, response.read(), used


def _rights() -> list[Wrong]:
    body, headers = right_binary(2)
    return [
        Wrong("right", json.dumps(right_v1(2)).encode()),
        Wrong("right", json.dumps(right_v1(2, keyed=True)).encode()),
        Wrong("right", json.dumps(right_v2(2)).encode(), V2),
        Wrong("right", body, V2, headers=headers),
    ]


def _shuffled(right: Wrong, chance: random.Random) -> Wrong:
    """The same with its columns in any order."""
    length = int(right.headers.get(LENGTH, len(right.body)))
    message, blob = json.loads(right.body[:length]), right.body[length:]
    if "instances" in message:
        message["instances"] = [dict(chance.sample([*row.items()], len(row))) for row in message["instances"]]
        return replace(right, body=json.dumps(message).encode())
    parts = []
    for tensor in message["inputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size", 0)
        parts.append((tensor, blob[:size]))
        blob = blob[size:]
    chance.shuffle(parts)
    head = json.dumps({"inputs": [tensor for tensor, _ in parts]}).encode()
    headers = {**right.headers, LENGTH: str(len(head))} if LENGTH in right.headers else right.headers
    return replace(right, body=head + b"".join(part for _, part in parts), headers=headers)


def _probabilities(body: bytes) -> list[float]:
    answer = json.loads(body)
    if "predictions" in answer:
        return [row["probability"] for row in answer["predictions"]]
    (found,) = (output["data"] for output in answer["outputs"] if output["name"] == "probability")
    return list(found[1::2])


def test_wrong_requests(server: Alone) -> None:
    chance, rights, found = random.Random(SEED), _rights(), Counter[tuple[str, int]]()
    started = 0.0
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        for number in range(REQUESTS):
            wrong = chance.choices([wrong_request, extreme_request, extreme_head], [8, 3, 1])[0](chance)
            response, body, used = _send(connection, wrong)
            found[wrong.how, response.status] += 1
            shown = (number, wrong.how, wrong.method, wrong.path[:80], wrong.headers, wrong.body[:400], body[:400])
            assert 400 <= response.status < 500, (response.status, shown)
            error = json.loads(body)["error"]
            assert error, shown
            assert wrong.names in error, shown
            assert len(error) < 2000, shown
            assert connection.sock is used, ("the connection was closed", shown)
            if number % 25 == 0:
                right = _shuffled(rights[number // 25 % len(rights)], chance)
                response, body, _ = _send(connection, right)
                assert response.status == 200, (right.path, body)
                assert _probabilities(body) == pytest.approx([EXPECTED] * 2, abs=1e-5), right.body
            if number == REQUESTS // 5:
                started = _memory(server.process.pid)
    assert server.process.poll() is None
    assert _memory(server.process.pid) - started < 24, "memory grows"
    print(REQUESTS, "refused:", sorted(Counter(status for _, status in found.elements()).items()))


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/models/late:predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/models/late:predict HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/models/late:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GARBAGE\r\n\r\n",
        b"POST /v1/models/late:predict HTTP/9.9\r\nHost: x\r\n\r\n",
        b"POST /v1/models/late:predict HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n",
        b"\0" * 1000,
    ],
)
def test_what_is_no_http_harms_nobody_else(server: Alone, head: bytes) -> None:
    with (
        closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as other,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as bad,
    ):
        other.connect()
        used = other.sock
        bad.sendall(head)
        bad.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while block := bad.recv(1 << 16):
                answer += block
        except ConnectionResetError:
            pass
        assert not answer.startswith(b"HTTP/1.1 5"), answer
        assert b" 200 " not in answer[:20]
        response, _, after = _send(other, _rights()[0])
        assert (response.status, after) == (200, used)


def test_a_body_that_is_too_large_is_not_read(server: Alone) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as caller:
        before = _memory(server.process.pid)
        caller.sendall(
            f"POST {V1} HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: {1 << 30}\r\n\r\n".encode()
        )
        assert caller.recv(1 << 16).startswith(b"HTTP/1.1 413")
        assert _memory(server.process.pid) - before < 8


def test_two_of_a_name_among_thousands_are_found_at_once(server: Alone) -> None:
    wrong = many_tensors(30_000)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        started = time.perf_counter()
        response, body, _ = _send(connection, wrong)
    assert response.status == 400 and wrong.names in json.loads(body)["error"]
    assert time.perf_counter() - started < 3


def test_wrong_requests_over_grpc(server: Alone) -> None:
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    chance, found = random.Random(SEED), Counter[str]()
    refused = {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")  # bytes in, bytes out
        for number in range(REQUESTS // 5):
            message, names = wrong_message(chance)
            with pytest.raises(grpc.RpcError) as error:
                infer(message, timeout=20)
            code, details = error.value.code(), error.value.details()
            found[code.name] += 1
            assert code in refused, (number, code, details, message[:300])
            assert names in details, (number, details, message[:300])
            if number % 25 == 0:
                infer(missing_number(chance), timeout=20)
                answer = pb.ModelInferResponse.FromString(infer(right_message(chance), timeout=20))
                scores = struct.unpack("<2f", answer.raw_output_contents[1])
                assert scores[1] == pytest.approx(EXPECTED, abs=1e-5)
    assert not [line for line in server.lines() if line["level"] == "ERROR"]
    print(REQUESTS // 5, "refused:", dict(found))
