"""Answers that leave in one piece: a server that is killed has sent all of an answer, or nothing of it.

Uvicorn writes head and body apart. Killed in between, the gateway holds a head without a body: too late for it to ask
another server.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class WholeAnswers(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn is not followed
    """Uvicorn's HTTP protocol on a transport that joins what is written in one turn of the event loop."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts a connection."""
        super().connection_made(_Joined(transport, self.loop))


class _Joined:
    """A transport that writes once for each turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write_whole(self, answer: bytes) -> None:
        """Writes all of an answer, after what was written before."""
        if self._parts:
            self._parts.append(answer)
        else:
            self._transport.write(answer)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        parts = b"".join(self._parts)
        self._parts.clear()
        if parts and not self._transport.is_closing():  # the caller may have hung up meanwhile
            self._transport.write(parts)
