"""Load over kept-alive HTTP connections, from one event loop: cheap enough not to be what is measured.

Closed: each connection asks again as soon as it is answered. Open: requests come at a given rate, whether or not the
earlier ones are answered, as those of many users do; one that finds all connections busy opens another.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import uvloop

_END_OF_HEAD = b"\r\n\r\n"


@dataclass
class Load:
    """What came back.

    Attributes:
        statuses: How often each HTTP status; 0 where the connection broke.
        seconds: Status -> the seconds each answer took.
        wall: The seconds all took.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    wall: float = 0.0

    def quantiles(self, *shares: float, status: int = 200) -> list[float]:
        """Quantiles of the seconds of the answers with one status."""
        ordered = sorted(self.seconds.get(status, [])) or [float("nan")]
        return [ordered[int(share * (len(ordered) - 1))] for share in shares]

    def count(self, status: int, seconds: float) -> None:
        """Notes one answer."""
        self.statuses[status] += 1
        self.seconds.setdefault(status, []).append(seconds)


def http_request(path: str, body: bytes, content_type: str = "application/json", **headers: str) -> bytes:
    """The bytes of one POST."""
    lines = {"host": "127.0.0.1", "content-type": content_type, "content-length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def closed(port: int, requests: Sequence[bytes], count: int, connections: int) -> Load:
    """Sends `count` requests over some connections, each of which waits for its answers."""
    return uvloop.run(_closed(port, requests, count, connections))


def opened(port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int = 1000) -> Load:
    """Sends requests at random times, `rate` a second on average (Poisson); at most so many are in flight."""
    return uvloop.run(_opened(port, requests, rate, seconds, connections))


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer, self._length = b"", -1
        self._answered: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self, request: bytes) -> "asyncio.Future[int]":
        self._answered = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self._done(0)
        else:
            self.transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._length < 0:
            end = self._buffer.find(_END_OF_HEAD)
            if end < 0:
                return
            head = self._buffer[:end].lower()
            at = head.index(b"content-length:") + 15
            self._length = end + 4 + int(head[at : (head + b"\r").index(b"\r", at)])
        if len(self._buffer) >= self._length:
            self._done(int(self._buffer[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        self._done(0)

    def _done(self, status: int) -> None:
        self._buffer, self._length = b"", -1
        answered, self._answered = self._answered, None
        if answered is not None:
            answered.set_result(status)


async def _connect(port: int) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
    return connection


async def _closed(port: int, requests: Sequence[bytes], count: int, connections: int) -> Load:
    load, left = Load(), iter(range(count))

    async def work(connection: _Connection) -> None:
        for at in left:
            started = perf_counter()
            status = await connection.send(requests[at % len(requests)])
            load.count(status, perf_counter() - started)
            if status == 0:
                connection = await _connect(port)
        connection.transport.close()

    found = [await _connect(port) for _ in range(connections)]
    started = perf_counter()
    await asyncio.gather(*(work(connection) for connection in found))
    load.wall = perf_counter() - started
    return load


async def _opened(port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int) -> Load:
    load, idle, tasks = Load(), deque[_Connection](), set[asyncio.Task[None]]()
    chance, slots = random.Random(0), asyncio.Semaphore(connections)

    async def ask(request: bytes) -> None:
        async with slots:
            connection = idle.pop() if idle else await _connect(port)
            sent = perf_counter()
            status = await connection.send(request)
        load.count(status, perf_counter() - sent)
        if status:
            idle.append(connection)

    started = due = perf_counter()
    at = 0
    while due < started + seconds:
        if (wait := due - perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(ask(requests[at % len(requests)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        at, due = at + 1, due + chance.expovariate(rate)
    await asyncio.gather(*tasks)
    load.wall = perf_counter() - started
    for connection in idle:
        connection.transport.close()
    return load
