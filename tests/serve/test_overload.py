"""A predictor that is asked for more than it can answer: it refuses some at once, and answers the others as before."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import grpc
import httpx
import numpy as np
import pytest

from fti.common.model_package import ModelPackage, Signature, write_package
from fti.common.tables import Feature
from fti.serve import grpc_admission
from fti.serve.admission import Admission, DeadlineError, Limits, OverloadedError
from fti.serve.grpc_admission import Shedding
from tests.serve import grpc_frames, grpc_load, tiny
from tests.serve.alone import Alone, predictor, until
from tests.serve.http_load import Load, closed, http_request, opened

Protocol = Literal["v1", "grpc"]
PATH, BODY = "/v1/models/late:predict", json.dumps({"instances": [{"x": 1.0}]}).encode()
REQUEST = http_request(PATH, BODY)
METHOD = f"/{grpc_admission.INFER}"
WAVES = 50_000


def write_slow(path: Path, steps: int = 40) -> ModelPackage:
    """A model that takes some milliseconds for each row, in a batch as alone."""
    from onnx import TensorProto, helper, numpy_helper

    waves = numpy_helper.from_array(np.linspace(0, 1, WAVES, dtype=np.float32).reshape(1, -1), "waves")
    nodes = [helper.make_node("MatMul", ["numeric", "waves"], ["0"])]
    nodes += [helper.make_node("Sin", [str(step)], [str(step + 1)]) for step in range(steps)]
    nodes.append(helper.make_node("ReduceMean", [str(steps)], ["value"], axes=[1], keepdims=1))
    inputs = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, 1])]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])]
    onnx = tiny._graph(nodes, inputs, outputs, [waves])
    value = np.linspace(0, 1, WAVES, dtype=np.float32)
    for _ in range(steps):
        value = np.sin(value)
    return write_package(
        path,
        signature=Signature(name="slow", task="regression", inputs=(Feature("x", "float32"),), label="y"),
        onnx=onnx,
        native={},
        examples={"inputs": [{"x": 1.0}], "outputs": [float(value.mean())]},
        provenance={},
        card="# Slow\n",
    )


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("slow")
    with predictor(folder, write_slow(folder / "package"), "--max_queue=32") as alone:
        yield alone


def call() -> bytes:
    """The same request over gRPC."""
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    message = pb.ModelInferRequest(model_name="late")
    message.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
    return bytes(message.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["v1", "grpc"])
def test_three_times_more_than_it_can_answer(slow: Alone, protocol: Protocol) -> None:
    """Some are refused at once, the others wait no longer than at capacity; health and metrics are answered."""
    refused = 0
    for _ in range(3):  # others may slow the machine down just now
        told = overloaded(slow, protocol)
        refused += told.load.statuses[429]
        if told.keeps_its_pace and told.keeps_its_word:
            break
    assert told.keeps_its_pace, "it still does its work, and refuses about two of three"
    assert told.keeps_its_word, "what it accepts waits no longer than at capacity, nor do health and metrics"
    assert set(closed(slow.port, [REQUEST], 20, connections=2).statuses) == {200}, "and then all is as before"
    assert slow.metric("fti_queue_requests") == 0
    assert slow.metric("fti_requests_total", code="429", protocol=protocol) >= refused


@dataclass
class Told:
    """What is seen of an overload."""

    load: Load
    keeps_its_pace: bool
    keeps_its_word: bool


def overloaded(slow: Alone, protocol: Protocol) -> Told:
    before = at_capacity(slow, protocol)
    rate = before.statuses[200] / before.wall
    seen: list[float] = []
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(slow, seen, done))
    watcher.start()
    if protocol == "grpc":
        load = grpc_load.opened(slow.grpc, call(), 3 * rate, seconds=3)
    else:
        load = opened(slow.port, [REQUEST], 3 * rate, seconds=3)
    done.set()
    watcher.join()
    assert set(load.statuses) == {200, 429}, "no error, no connection lost"
    until(lambda: refuses_nobody(slow, protocol))  # the last look at gRPC's queue holds for a moment
    after = at_capacity(slow, protocol)
    least = 0.5 * min(rate, after.statuses[200] / after.wall)
    answered, refused = load.statuses[200], load.statuses[429]
    most = max(each.quantiles(0.99)[0] for each in (before, after))
    (p99,), (refusal,) = load.quantiles(0.99), load.quantiles(0.5, status=429)
    healthy = len(seen) > 3 and max(seen) < 5 * most + 0.5
    return Told(
        load,
        keeps_its_pace=answered / load.wall > least and refused > answered / 4,
        keeps_its_word=p99 < 3 * most and refusal < most and healthy,
    )


def at_capacity(alone: Alone, protocol: Protocol) -> Load:
    """As many callers as the queue has places: the server is never idle, and refuses nobody."""
    load = asked(alone, protocol, 400, callers=32)
    assert set(load.statuses) == {200}
    return load


def resident(alone: Alone) -> float:
    """MiB."""
    status = Path(f"/proc/{alone.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def refuses_nobody(alone: Alone, protocol: Protocol) -> bool:
    return set(asked(alone, protocol, 8, callers=2).statuses) == {200}


def asked(alone: Alone, protocol: Protocol, count: int, callers: int) -> Load:
    if protocol == "grpc":
        return grpc_load.closed(alone.grpc, call(), count, connections=callers)
    return closed(alone.port, [REQUEST], count, connections=callers)


def watch(alone: Alone, seen: list[float], done: threading.Event) -> None:
    connection = HTTPConnection("127.0.0.1", alone.port, timeout=30)
    while not done.wait(0.1):
        for path in ("/v2/health/live", "/v2/models/late/ready", "/metrics"):
            started = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            seen.append(time.perf_counter() - started)
    connection.close()


@pytest.mark.slow
def test_who_is_refused_is_told_when_to_ask_again(slow: Alone) -> None:
    occupied = b"".join(REQUEST for _ in range(1))
    connections = [socket.create_connection(("127.0.0.1", slow.port)) for _ in range(64)]
    try:
        for connection in connections:
            connection.sendall(occupied)
        heads = [connection.recv(4096) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    refused = [head for head in heads if head.startswith(b"HTTP/1.1 429")]
    assert refused and len(refused) < 64
    assert all(b"retry-after: 1\r\n" in head and b"connection: close" not in head for head in refused)
    assert b"the server is busy with 32 requests" in refused[0]


@pytest.mark.slow
def test_clients_that_try_again_are_told_when(slow: Alone) -> None:
    """gRPC's own client, told to try again, does so when it is told, and not when its own back-off is over."""
    policy = {"maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1}
    retry = {**policy, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}
    config = {"methodConfig": [{"name": [{}], "retryPolicy": retry}]}
    with grpc.insecure_channel(slow.grpc, options=[("grpc.service_config", json.dumps(config))]) as channel:
        method, started = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer"), time.perf_counter()
        calls = [method.future(call(), timeout=30) for _ in range(64)]
        assert all(len(each.result()) > 0 for each in calls)
    assert time.perf_counter() - started > 1.0


def shedding(max_queue: int) -> Shedding:
    return Shedding(Admission(Limits(max_queue=max_queue)), cast("grpc_admission.Refuse", None))


async def taken(_: Any) -> str:
    return "taken"


async def ask(shedding: Shedding, count: int) -> list[bool]:
    """Which of so many calls, one after the other, are taken."""
    details = SimpleNamespace(method=f"/{grpc_admission.INFER}", invocation_metadata=())
    tasks = (asyncio.create_task(shedding.intercept_service(taken, details)) for _ in range(count))
    return [await task == "taken" for task in tasks]


def test_what_waits_in_grpcs_own_queue_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second of it: a server that only refused would answer nobody."""
    monkeypatch.setattr(grpc_admission, "calls", lambda: 17)  # one of them has been handed over
    assert asyncio.run(ask(shedding(8), 67))[-4:] == [True] * 4
    monkeypatch.setattr(grpc_admission, "calls", lambda: 18)
    assert asyncio.run(ask(shedding(8), 67))[-4:] == [False, True] * 2, "counted at every 64th call"


def test_what_comes_after_a_burst_is_not_refused_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found, now = iter([1000, 0]), [0.0]
    monkeypatch.setattr(grpc_admission, "calls", lambda: next(found))
    monkeypatch.setattr(grpc_admission, "monotonic", lambda: now[0])

    async def main(sheds: Shedding) -> None:
        assert (await ask(sheds, 66))[-3:] == [False, True, False]
        now[0] = 1.0
        assert await ask(sheds, 60) == [True] * 60

    asyncio.run(main(shedding(8)))


@pytest.mark.slow
def test_a_burst_over_grpc_leaves_nothing_behind(slow: Alone) -> None:
    """Thousands who give up at once, and some who open a call and say nothing: then everybody is answered."""

    async def main() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(slow.grpc, options=options) for _ in range(3)]
        methods = [channel.unary_unary(METHOD) for channel in channels]
        burst = [methods[number % 3](call(), timeout=0.3) for number in range(2000)]
        ended = await asyncio.gather(*burst, return_exceptions=True)
        codes = {each.code() for each in ended if isinstance(each, grpc.aio.AioRpcError)}
        # Unavailable: more streams than one connection may have open, as those who give up leave theirs.
        status = grpc.StatusCode
        assert codes <= {status.DEADLINE_EXCEEDED, status.RESOURCE_EXHAUSTED, status.UNAVAILABLE}
        silent = [channels[0].stream_unary(METHOD)(timeout=60) for _ in range(90)]
        await asyncio.gather(*(each.wait_for_connection() for each in silent))
        deadline = time.monotonic() + 30
        while True:
            try:
                await methods[1](call(), timeout=30)
            except grpc.aio.AioRpcError:
                assert time.monotonic() < deadline
            else:
                break
        for _ in range(150):
            await methods[2](call(), timeout=30)
        for each in silent:
            each.cancel()
        await asyncio.gather(*(channel.close() for channel in channels))

    asyncio.run(main())


@pytest.mark.slow
def test_one_who_opens_calls_and_cancels_them_fills_no_memory(tmp_path: Path) -> None:
    """Rapid resets of HTTP/2 (CVE-2023-44487)."""
    with predictor(tmp_path, tiny.write_other(tmp_path / "package", "regression")) as alone:
        before = resident(alone)
        for _ in range(3):
            assert grpc_frames.reset_many(alone.grpc_port, METHOD, seconds=1.5) > 50
        grown = resident(alone) - before
        assert grown < 100, grown
        assert set(grpc_load.closed(alone.grpc, call(), 20, connections=2).statuses) == {200}


@pytest.mark.slow
def test_what_the_gateway_would_not_wait_for_is_not_scored(slow: Alone) -> None:
    """Its deadline comes with the request; what has been waiting when it passes is answered 504, and is not scored."""
    scored = slow.metric("fti_batch_rows_sum")
    impatient = http_request(PATH, BODY, x_envoy_expected_rq_timeout_ms="1")
    statuses = closed(slow.port, [REQUEST] * 4 + [impatient] * 12, 160, connections=16).statuses
    assert set(statuses) == {200, 504} and statuses[200] == 40
    assert 40 <= slow.metric("fti_batch_rows_sum") - scored < 160
    response = httpx.post(slow.url + PATH, content=BODY, headers={"x-envoy-expected-rq-timeout-ms": "never"})
    assert response.status_code == 200


@pytest.mark.slow
def test_bounds_of_one_request(tmp_path: Path) -> None:
    package = tiny.write_other(tmp_path / "package", "regression")
    bounds = ("--max_rows=3", "--max_body_bytes=200", "--deadline_ms=300")
    with predictor(tmp_path, package, *bounds) as alone, httpx.Client(base_url=alone.url, timeout=30) as client:
        rows = client.post(PATH, json={"instances": [{"x": 1}] * 4})
        assert (rows.status_code, rows.json()["error"]) == (413, "4 rows. Allowed: 3 in one request")
        tensor = {"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}
        assert client.post("/v2/models/late/infer", json={"inputs": [tensor]}).status_code == 413
        large = client.post(PATH, content=b" " * 201)
        assert (large.status_code, large.json()["error"]) == (413, "the body is too large. Allowed: 200 bytes")
        chunked = client.post(PATH, content=iter([b" " * 150] * 2))
        assert chunked.status_code == 413
        with socket.create_connection(("127.0.0.1", alone.port)) as idler:  # sends half a body, and waits
            started = time.perf_counter()
            idler.sendall(REQUEST[:-5])
            assert idler.recv(4096).startswith(b"HTTP/1.1 408")
            assert 0.25 < time.perf_counter() - started < 10
        assert client.post(PATH, content=BODY).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.onnx", "checksums.json"])
def test_a_damaged_package_is_never_ready_and_it_says_why(tmp_path: Path, file: str) -> None:
    package = tiny.write_other(tmp_path / "package", "regression")
    (package.path / file).write_bytes(b'{"model.onnx": "0"}')
    command = [sys.executable, "-m", "fti.serve.predictor", f"--package={package.path}", "--name=late"]
    environ = {**os.environ, "FTI_HOME": str(tmp_path / "home")}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "PackageError" in ended.stderr and "Traceback" not in ended.stderr
    assert str(package.path) in ended.stderr


@pytest.mark.slow
def test_a_host_of_loopback_is_not_reached_from_outside(slow: Alone) -> None:
    """Every listening socket of the predictor, HTTP and gRPC, is on 127.0.0.1, which is what `fti serve` asks for."""
    found = list(listening(slow.process.pid))
    assert {port for _, port in found} == {slow.port, slow.grpc_port}
    assert all((getattr(address, "ipv4_mapped", None) or address).is_loopback for address, _ in found)


def listening(pid: int) -> Iterator[tuple[IPv4Address | IPv6Address, int]]:
    sockets = {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    for family, size in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                raw = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, size, 8))
                yield ip_address(raw), int(port, 16)


# Admission itself.


def test_a_full_queue_refuses_and_a_free_place_is_taken_again() -> None:
    async def main() -> None:
        admission, go = Admission(Limits(max_queue=2)), asyncio.Event()

        async def work() -> int:
            deadline = admission.deadline()
            with admission:
                async with admission.until(deadline):
                    await go.wait()
                return admission.waiting

        two = [asyncio.create_task(work()) for _ in range(2)]
        await asyncio.sleep(0)
        assert admission.waiting == 2
        with pytest.raises(OverloadedError):
            admission.deadline()
        with pytest.raises(OverloadedError), admission:
            pass
        go.set()
        assert await asyncio.gather(*two) == [2, 1]
        assert (await work(), admission.waiting) == (1, 0)

    asyncio.run(main())


def test_the_shorter_deadline_counts_and_what_fails_frees_its_place() -> None:
    async def main() -> None:
        admission = Admission(Limits(deadline_ms=10_000))
        loop = asyncio.get_running_loop()

        async def until_cancelled(deadline: float) -> None:
            assert deadline - loop.time() < 0.1
            with admission:
                async with admission.until(deadline):
                    await asyncio.Event().wait()

        for _ in range(2):  # one that is late does not make the next one so
            with pytest.raises(DeadlineError):
                await until_cancelled(admission.deadline(0.02))
        assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]

        async def fails(deadline: float) -> None:
            assert 9 < deadline - loop.time() < 10.1
            with admission:
                async with admission.until(deadline):
                    raise ValueError

        with pytest.raises(ValueError):
            await fails(admission.deadline(60))
        assert admission.waiting == 0

    asyncio.run(main())


def test_who_hangs_up_is_cancelled_and_not_late() -> None:
    async def main() -> None:
        admission = Admission(Limits())

        async def waits() -> None:
            async with admission.until(admission.deadline()):
                await asyncio.Event().wait()

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_predictor_says_which_bounds_it_takes() -> None:
    from fti.serve.predictor import _parser

    required = ["--package=p", "--name=n"]
    arguments = _parser().parse_args([*required, "--max_queue=7"])
    assert (arguments.max_queue, arguments.max_rows) == (7, Limits().max_rows)
    with pytest.raises(SystemExit):
        _parser().parse_args([*required, "--max_queue=0"])
