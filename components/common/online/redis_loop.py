"""Asking Redis from an event loop: the requests of any number of tasks are in flight on one connection.

redis-py makes the connection, in a thread, so that TLS, accounts, database, sentinels and timeouts are what Feast's
connection_string says. What is sent and read after that is sent and read here, as the socket allows, in order.
"""

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import socket

    from redis import Connection

_CHUNK = 65_536  # bytes; more than the largest record of TLS, so that none is left over in its buffer
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_INCOMPLETE = object()


@dataclass(eq=False, slots=True)
class _Waiting:
    wanted: int
    since: float
    answered: "asyncio.Future[list[Any]]"
    replies: list[Any] = field(default_factory=list)


class Link:
    """One connection, watched by one event loop.

    A request that is given up stays in line until its replies have come, so that nobody else gets them. Where nothing
    comes for the connection's `socket_timeout`, everybody's wait ends, and so does the connection.

    Args:
        connection: An open connection of redis-py, used by nobody else.
        release: Takes it back, closed.

    Attributes:
        closed: Whether it can no longer be used.
    """

    def __init__(self, connection: "Connection", release: "Callable[[Connection], None]") -> None:
        import hiredis
        import redis

        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._connection, self._release = connection, release
        self._socket = cast("socket.socket", connection._sock)
        self._timeout: float | None = connection.socket_timeout
        self._trusted: float = connection.health_check_interval or math.inf
        self._push = hiredis.PushNotification
        self._reader = hiredis.Reader(
            protocolError=redis.ConnectionError, replyError=redis.ResponseError, notEnoughData=_INCOMPLETE
        )
        self._waiting: deque[_Waiting] = deque()
        self._unsent = bytearray()
        self._watch: asyncio.TimerHandle | None = None
        self._heard = self._loop.time()
        self._socket.setblocking(False)
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._read)

    @property
    def doubtful(self) -> bool:
        """Whether redis-py would ask first if Redis is still there: it was silent for its `health_check_interval`."""
        return not self._waiting and self._loop.time() - self._heard > self._trusted

    async def exchange(self, request: bytes, replies: int) -> list[Any]:
        """Sends commands and waits for their replies.

        Raises:
            redis.ConnectionError: The connection was lost.
            redis.TimeoutError: Nothing came for too long.
            redis.ResponseError: Redis refuses a command.
        """
        import redis

        if self.closed:  # since it was opened
            raise redis.ConnectionError("Connection closed")
        waiting = _Waiting(replies, self._loop.time(), self._loop.create_future())
        self._waiting.append(waiting)
        if self._watch is None and self._timeout is not None:
            self._watch = self._loop.call_later(self._timeout, self._check)
        self._send(request)
        found = await waiting.answered
        for reply in found:
            if isinstance(reply, Exception):
                raise reply
        return found

    def close(self, error: Exception | None = None) -> None:
        """Closes the connection; who still waits gets the error."""
        import redis

        if self.closed:
            return
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
        with suppress(Exception):
            self._connection.disconnect()  # type: ignore[no-untyped-call]  # redis is half typed
            self._release(self._connection)
        error = error or redis.ConnectionError("Connection closed")
        for each in self._waiting:
            if not each.answered.done():
                each.answered.set_exception(type(error)(*error.args))
        self._waiting.clear()

    def _send(self, request: bytes) -> None:
        if self._unsent:
            self._unsent += request
            return
        try:
            sent = self._socket.send(request)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            self._lose("writing to", error)
            return
        if sent < len(request):
            self._unsent += memoryview(request)[sent:]
            self._loop.add_writer(self._fd, self._write)

    def _write(self) -> None:
        """The socket takes more."""
        rest, self._unsent = bytes(self._unsent), bytearray()
        self._loop.remove_writer(self._fd)
        self._send(rest)

    def _read(self) -> None:
        """The socket has something."""
        import redis

        try:
            received = self._socket.recv(_CHUNK)
        except _NOT_NOW:
            return
        except OSError as error:
            self._lose("reading from", error)
            return
        if not received:
            self.close(redis.ConnectionError("Connection closed by server."))
            return
        self._heard = self._loop.time()
        try:
            self._reader.feed(received)
            self._hand_out()
        except redis.ConnectionError as error:  # what came is not of the protocol
            self.close(error)

    def _hand_out(self) -> None:
        import redis

        while (reply := self._reader.gets()) is not _INCOMPLETE:
            if type(reply) is self._push:
                continue
            if not self._waiting:
                raise redis.ConnectionError("Redis answers what nobody asked")
            first = self._waiting[0]
            first.replies.append(reply)
            if len(first.replies) == first.wanted:
                self._waiting.popleft()
                if not first.answered.done():
                    first.answered.set_result(first.replies)

    def _check(self) -> None:
        """Ends everybody's wait where it has been too long.

        However late the loop is, it has read before it runs what is due by time.
        """
        import redis

        self._watch = None
        if not self._waiting or self._timeout is None:
            return
        left = max(self._heard, self._waiting[0].since) + self._timeout - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._check)
        else:
            self.close(redis.TimeoutError("Timeout reading from socket"))

    def _lose(self, doing: str, error: OSError) -> None:
        import redis

        self.close(redis.ConnectionError(f"Error while {doing} socket: {error.args}"))


class LoopClient:
    """Asks Redis from one event loop, over one connection that is opened again where it was lost.

    Args:
        client: A client of redis-py that makes the connections.
    """

    def __init__(self, client: Any) -> None:
        self._pool = client.connection_pool
        self._link: Link | None = None
        self._opening: asyncio.Task[Link] | None = None

    async def ask(self, request: bytes, replies: int) -> list[Any]:
        """Sends commands that may be sent twice, and waits for their replies.

        Raises:
            redis.RedisError: Redis cannot be reached, does not answer, or refuses a command.
        """
        import redis

        kept = self._link
        if kept is not None and kept.doubtful:
            kept.close()
        if kept is not None and not kept.closed:
            try:
                return await kept.exchange(request, replies)
            except redis.ConnectionError:
                pass  # it was closed since it was last used
        return await (await self._opened()).exchange(request, replies)

    def close(self) -> None:
        """Closes the connection."""
        if self._link is not None:
            self._link.close()

    async def _opened(self) -> Link:
        """The connection; those that come while it is being opened wait for the same."""
        if self._link is not None and not self._link.closed:
            return self._link
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it
        return await asyncio.shield(self._opening)

    async def _open(self) -> Link:
        try:
            loop = asyncio.get_running_loop()
            connection = await loop.run_in_executor(None, self._pool.get_connection)
            self._link = Link(connection, self._pool.release)
            return self._link
        finally:
            self._opening = None
