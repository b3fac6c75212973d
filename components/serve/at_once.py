"""Predictions answered where they are read: without a task, a scope or messages of ASGI.

A prediction of a small model takes some 30 µs, and the way over ASGI, as uvicorn has it, 17 more: a task, its context,
an event and five dictionaries for each request. So what has come whole in one read is answered in the very call that
reads it, by the same `Front.answer` that answers over ASGI: its coroutine is begun at once, as asyncio's eager tasks
are from Python 3.12 on, and mostly ends without waiting. What has to wait (for a lookup, a batch, a thread), and all
else (other paths, bodies that come in parts, pipelines behind something that waits), takes the way over ASGI.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from fti.serve.front import App, Call, Front, Receive, Reply, Scope, Send, respond
from fti.serve.whole_answers import WholeAnswers

_COLON, _LINES = b": ".join, b"\r\n".join


class AtOnce(WholeAnswers):
    """Uvicorn's HTTP protocol in front of a `Front`, which it asks itself where it can."""

    app: App
    flow: FlowControl
    headers: list[tuple[bytes, bytes]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._front = self.app if isinstance(self.app, Front) else None
        self._held: list[bytes] | None = None  # the body, so far, of what may be answered at once
        self._path = ""
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts a connection."""
        super().connection_made(transport)
        # Uvicorn reads on after each answer, whatever still waits: one caller who pipelines would fill the memory.
        resume = self.flow.resume_reading
        self.flow.resume_reading = lambda: None if self.pipeline else resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a connection."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what was read; answers all requests of it that can be."""
        self._idle_since = None
        super().data_received(data)
        if self._held is not None and not self.transport.is_closing():
            self._over_asgi()  # the rest of the body is still to come

    def on_message_begin(self) -> None:
        """Takes the beginning of a request; its scope is made where there is need of it."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """Chooses the way of a request."""
        if self._may_be_held():
            self._held = []
        else:
            self._over_asgi()

    def on_body(self, body: bytes) -> None:
        """Takes a part of a body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        """Answers a request that has come whole, or lets it wait."""
        if self._held is None or self._front is None:
            super().on_message_complete()
            return
        body = b"".join(self._held)
        if len(body) > self._front.max_body_bytes:
            self._over_asgi()
            super().on_message_complete()
            return
        self._held = None
        answering = self._front.answer(Call("POST", self._path, dict(self.headers), body))
        try:
            answering.send(None)
        except StopIteration as done:
            self._write(done.value)
        except Exception as error:
            self._later(_failed(error))
        else:
            self._later(_rest(answering))

    def _may_be_held(self) -> bool:
        """Whether a request, of which the head has come, is a prediction that nothing else is to be done for."""
        if self._front is None or (self.cycle is not None and not self.cycle.response_complete):
            return False
        self._path = self.url.decode("latin-1")
        if self._path not in self._front.predictions or self.parser.get_method() != b"POST":
            return False
        plain = not self.expect_100_continue and not self.flow.write_paused and self.limit_concurrency is None
        return plain and self.parser.get_http_version() == "1.1" and not self.parser.should_upgrade()

    def _over_asgi(self, app: App | None = None) -> None:
        """Has uvicorn take a request up, of which the head has come, and the part of the body that is held."""
        self._idle_since = None
        held, self._held, front = self._held, None, self.app
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and begins anew
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        self.app = app or front
        super().on_headers_complete()
        self.app = front
        for body in held or []:
            super().on_body(body)

    def _later(self, reply: Coroutine[Any, Any, Reply]) -> None:
        async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
            await respond(await reply, send)

        self._over_asgi(app)
        super().on_message_complete()

    def _write(self, reply: Reply) -> None:
        keep = self.parser.should_keep_alive()
        headers = _LINES(map(_COLON, (*self.server_state.default_headers, *reply.headers)))
        end = b"\r\n\r\n" if keep else b"\r\nconnection: close\r\n\r\n"
        self.transport.write_whole(b"".join((STATUS_LINE[reply.status], headers, end, reply.body)))
        self.server_state.total_requests += 1
        if keep:
            self._idle_since = self.loop.time()
            if self._idle_timer is None:
                self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_idle)
        else:
            self.transport.close()

    def _close_idle(self) -> None:
        """Closes a connection that is idle. One timer for many requests: uvicorn starts and cancels one for each."""
        self._idle_timer = None
        if self._idle_since is None:
            return  # something has come meanwhile: the answer to it starts a timer again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_idle)
        else:
            self.timeout_keep_alive_handler()


@types.coroutine
def _rest(begun: Coroutine[Any, Any, Reply]) -> Generator[Any, Any, Reply]:
    """What is left of a coroutine that was begun: `await` refuses one that waits."""
    reply: Reply = yield from begun
    return reply


async def _failed(error: Exception) -> Reply:
    raise error
