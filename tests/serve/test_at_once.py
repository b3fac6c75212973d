"""Predictions answered where they are read: whatever way a request takes, its answer is the same, and in its turn."""

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.model_package import ModelPackage
from fti.serve.admission import Limits
from fti.serve.at_once import AtOnce
from fti.serve.front import Front, Scope
from fti.serve.model import PackagedModel
from tests.serve import tiny
from tests.serve.http_load import http_request

V1, V2 = "/v1/models/m:predict", "/v2/models/m/infer"
GOOD = http_request(V1, b'{"instances": [{"x": 2}]}')
TENSOR = {"name": "x", "shape": [1], "datatype": "FP32"}
HEAD = json.dumps({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 4}}]}).encode()
REQUESTS = [
    GOOD,
    http_request(V2, json.dumps({"inputs": [{**TENSOR, "data": [3]}]}).encode(), x_request_id="mine"),
    http_request(V2, HEAD + b"\0\0\x80?", "application/octet-stream", inference_header_content_length=str(len(HEAD))),
    http_request(V1, b'{"instances": [{"y": 2}]}'),
    http_request(V1, b"{"),
    http_request(V1, b"a=1", "text/plain"),
    http_request("/v1/models/other:predict", b"{}"),
    http_request(V1 + "?a=b", b'{"instances": [{"x": 4}]}'),
    b"GET /v2/models/m HTTP/1.1\r\nhost: h\r\n\r\n",
    GOOD.replace(b"POST", b"PUT"),
    b"POST "
    + V1.encode()
    + b' HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n19\r\n{"instances": [{"x": 2}]}\r\n0\r\n\r\n',
]
STATUSES = [200, 200, 200, 400, 400, 415, 404, 200, 200, 405, 200]


class Counting(Front):
    """A front that counts the requests that come over ASGI."""

    over_asgi = 0
    connections: Any  # uvicorn's

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.over_asgi += 1
        await super().__call__(scope, receive, send)


class Caller:
    """A connection: sends bytes, reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            for _ in range(3):  # the server, in the same loop, reads it
                await asyncio.sleep(0)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 30)).decode()
        status, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    async def ended(self) -> bytes:
        return await asyncio.wait_for(self._reader.read(), 30)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return tiny.write_other(tmp_path_factory.mktemp("at-once") / "package", "regression")


@asynccontextmanager
async def served(package: ModelPackage, keep_alive: float = 30, **limits: Any) -> AsyncIterator[tuple[Counting, int]]:
    async def kserve(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    front = Counting(kserve, PackagedModel("m", "r1", package, None, limits=Limits(**limits)))
    config = uvicorn.Config(front, port=0, http=AtOnce, lifespan="off", log_config=None, access_log=False)
    config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # seconds, whatever their type
    config.proxy_headers = False
    server = uvicorn.Server(config)
    server.capture_signals = suppress  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    listening = server.servers[0].sockets[0]
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of each connection
    front.connections = server.server_state.connections
    try:
        yield front, listening.getsockname()[1]
    finally:
        server.should_exit = True
        await running


def run(
    package: ModelPackage, work: Callable[[Counting, Callable[..., Awaitable[Caller]]], Awaitable[Any]], **how: Any
) -> Any:
    """Runs a test against a server in the same event loop."""

    async def main() -> Any:
        async with served(package, **how) as (front, port):
            writers = []

            async def connect(buffer: int = 0) -> Caller:
                caller = socket.socket()
                if buffer:
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
                caller.setblocking(False)
                await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", port))
                reader, writer = await asyncio.open_connection(sock=caller)
                writers.append(writer)
                return Caller(reader, writer)

            try:
                return await asyncio.wait_for(work(front, connect), 60)
            finally:
                for writer in writers:
                    writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as predictors have
        return runner.run(main())


def told(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, str], bytes]:
    """An answer without what differs each time."""
    status, headers, body = answer
    made = re.fullmatch("[0-9a-f]{32}", headers.get("x-request-id", ""))
    return status, {k: v for k, v in headers.items() if k != "date" and not (made and k == "x-request-id")}, body


def test_plain_predictions_and_their_refusals_need_no_asgi(package: ModelPackage) -> None:
    async def work(front: Counting, connect: Any) -> list[tuple[int, int]]:
        caller, found = await connect(), []
        for request in REQUESTS:
            before = front.over_asgi
            await caller.send(request)
            found.append(((await caller.answer())[0], front.over_asgi - before))
        return found

    found = run(package, work)
    assert [status for status, _ in found] == STATUSES
    assert [over for _, over in found] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0]


@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6), st.lists(st.integers(0, 2000), max_size=4))
@hypothesis_settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_requests_are_cut_and_joined_the_answers_are_the_same(
    package: ModelPackage, requests: list[bytes], cuts: list[int]
) -> None:
    """Pipelines, halves of heads and of bodies: each answer in its turn, as if each had come alone."""
    stream = b"".join(requests)
    places = sorted({min(cut, len(stream)) for cut in cuts})
    parts = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]

    async def work(_: Counting, connect: Any) -> tuple[list[Any], list[Any]]:
        alone, together = await connect(), await connect()
        expected = []
        for request in requests:
            await alone.send(request)
            expected.append(told(await alone.answer()))
        await together.send(*parts)
        return expected, [told(await together.answer()) for _ in requests]

    expected, found = run(package, work)
    assert found == expected


def test_what_waits_for_a_batch_is_answered_in_its_turn(package: ModelPackage) -> None:
    async def work(front: Counting, connect: Any) -> list[int]:
        caller = await connect()
        await caller.send(GOOD + REQUESTS[3] + GOOD)
        answers = [(await caller.answer())[0] for _ in range(3)]
        assert front._model.admission.waiting == 0
        return answers

    assert run(package, work, max_batch_delay_ms=20) == [200, 400, 200]


def test_what_waits_has_a_deadline(package: ModelPackage) -> None:
    async def work(_: Counting, connect: Any) -> list[int]:
        caller = await connect()
        await caller.send(GOOD, REQUESTS[3])
        return [(await caller.answer())[0] for _ in range(2)]

    assert run(package, work, max_batch_delay_ms=60_000, deadline_ms=50) == [504, 400]


def test_a_body_that_does_not_come_has_a_deadline(package: ModelPackage) -> None:
    async def work(_: Counting, connect: Any) -> int:
        caller = await connect()
        await caller.send(GOOD[:-3])
        return (await caller.answer())[0]

    assert run(package, work, deadline_ms=50) == 408


def test_too_large_a_body_is_refused_and_ends_the_connection(package: ModelPackage) -> None:
    async def work(_: Counting, connect: Any) -> tuple[int, str, bytes]:
        caller = await connect()
        await caller.send(http_request(V1, b" " * 300))
        status, headers, _ = await caller.answer()
        return status, headers["connection"], await caller.ended()

    assert run(package, work, max_body_bytes=200) == (413, "close", b"")


@pytest.mark.parametrize("line", ["connection: close", "expect: 100-continue"])
def test_what_the_caller_says_of_its_connection_counts(package: ModelPackage, line: str) -> None:
    async def work(_: Counting, connect: Any) -> None:
        caller = await connect()
        head, _, body = GOOD.partition(b"\r\n\r\n")
        await caller.send(head + f"\r\n{line}\r\n\r\n".encode())
        if "100" in line:
            assert (await caller.answer())[0] == 100
        await caller.send(body)
        assert (await caller.answer())[0] == 200
        if "close" in line:
            assert await caller.ended() == b""
        once = await connect()
        await once.send(head.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n\r\n" + body)
        status, headers, _ = await once.answer()
        assert (status, headers["connection"], await once.ended()) == (200, "close", b"")
        closing = await connect()
        await closing.send(head + b"\r\nconnection: close\r\n\r\n" + body)
        status, headers, _ = await closing.answer()
        assert (status, headers["connection"], await closing.ended()) == (200, "close", b"")

    run(package, work)


def test_a_caller_that_does_not_read_gets_all_its_answers_and_they_are_not_heaped_up(package: ModelPackage) -> None:
    many = 8_000

    async def work(front: Counting, connect: Any) -> tuple[int, int]:
        caller, heaped = await connect(4096), 0
        sending = asyncio.create_task(caller.send(GOOD * many))
        for _ in range(500):
            await asyncio.sleep(0)
            (connection,) = front.connections
            heaped = max(heaped, connection.transport.get_write_buffer_size())
        statuses = [(await caller.answer())[0] for _ in range(many)]
        await sending
        return statuses.count(200), heaped

    answered, heaped = run(package, work)
    assert answered == many
    assert 50_000 < heaped < 200_000, "bytes: the first write that is too much is the last"


def test_requests_that_cannot_be_answered_yet_are_not_read(package: ModelPackage) -> None:
    """Once one waits, as for a slow reader, those behind it stay with the caller, but for what one read brings."""
    many = 20_000

    async def work(front: Counting, connect: Any) -> tuple[int, int]:
        caller, behind, answered = await connect(4096), 0, 0
        sending = asyncio.create_task(caller.send(GOOD * many))
        for number in range(many):
            answered += (await caller.answer())[0] == 200
            if number % 100 == 0:
                (connection,) = front.connections
                behind = max(behind, len(connection.pipeline))
                await asyncio.sleep(0)
        await sending
        return answered, behind

    answered, behind = run(package, work)
    assert answered == many
    assert 0 < behind <= 2 * 256 * 1024 / len(GOOD)


def test_a_caller_that_hangs_up_is_not_written_to(package: ModelPackage) -> None:
    errors: list[Any] = []

    async def work(_: Counting, connect: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        for _ in range(20):
            caller = await connect(4096)
            caller._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            caller._writer.write(b"GET /v2/models/m HTTP/1.1\r\nhost: h\r\n\r\n" * 400)
            for _ in range(3):
                await asyncio.sleep(0)
            caller._writer.transport.abort()
            for _ in range(50):
                await asyncio.sleep(0)

    run(package, work)
    assert not errors


def test_a_body_that_takes_long_does_not_come_over_an_idle_connection(package: ModelPackage) -> None:
    async def work(_: Counting, connect: Any) -> list[int]:
        caller = await connect()
        await caller.send(GOOD + GOOD[:-5])  # the first is answered, the second has only begun
        first = await caller.answer()
        await asyncio.sleep(0.4)  # longer than a connection may be idle
        await caller.send(GOOD[-5:])
        return [first[0], (await caller.answer())[0]]

    assert run(package, work, keep_alive=0.2) == [200, 200]


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(package: ModelPackage) -> None:
    async def work(_: Counting, connect: Any) -> tuple[float, int]:
        loop, caller = asyncio.get_running_loop(), await connect()
        await caller.send(GOOD)
        await caller.answer()
        answered = loop.time()
        other, count = await connect(), 0
        ended = asyncio.create_task(caller.ended())
        while not ended.done():  # asks again and again, for longer than it might be idle
            await other.send(GOOD)
            count += (await other.answer())[0] == 200
            await asyncio.sleep(0.02)
        waited = loop.time() - answered
        await other.send(GOOD[:20])  # has begun: is not idle
        await asyncio.wait_for(ended, 30)
        await asyncio.sleep(0.4)
        await other.send(GOOD[20:])
        assert (await other.answer())[0] == 200
        return waited, count

    waited, count = run(package, work, keep_alive=0.3)
    assert waited > 0.28 and count > 1


def test_what_nobody_expected_is_answered_500_and_logged(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("a defect")

    async def work(front: Counting, connect: Any) -> tuple[int, bytes]:
        monkeypatch.setattr(front._model, "_scored", fails)
        monkeypatch.setattr(front._model._batcher, "_score", fails)
        caller = await connect()
        await caller.send(GOOD)
        status, _, _ = await caller.answer()
        return status, await caller.ended()

    with caplog.at_level(logging.ERROR):
        assert run(package, work) == (500, b"")
    assert "a defect" in caplog.text


def test_where_there_are_traces_each_request_has_a_task(package: ModelPackage, tmp_path: Path) -> None:
    from fti.serve.observe.observer import Observer

    model = PackagedModel("m", "r1", package, None)
    traced = Observer(model, tracing=object())  # type: ignore[arg-type]
    assert not Front(lambda *_: asyncio.sleep(0), model, None, traced).predictions
    assert Front(lambda *_: asyncio.sleep(0), model).predictions == {V1, V2}
