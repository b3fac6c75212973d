"""A stream behind HTTP: `POST /v1/tables/<table>:push`, `GET /v1/healthz`, `GET /metrics`."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fti.common.errors import (
    BusyError,
    ConfigError,
    ContractError,
    FeatureStoreError,
    FtiError,
    SourceError,
    StorageError,
    TransformError,
)
from fti.stream.logic import Pushed, Stream
from fti.stream.metrics import Metrics
from fti.stream.requests import JSON, LINES, parse_events

log = logging.getLogger(__name__)

MAX_BODY = 16 * 1024 * 1024  # bytes
_STATUS = {ConfigError: 404, SourceError: 400, ContractError: 409, TransformError: 422}
# The cause may name hosts and tables: it is for the log, not for the caller.
_KEPT = "the events are kept, but not all features could be written; they follow. The server's log says why"
_NOT_KEPT = "the events could not be kept; the server's log says why"


class TooLargeError(Exception):
    """A body beyond `MAX_BODY`."""


class Server:
    """The application.

    Args:
        stream: An open stream.
        worker: The one thread that uses it.
        tick_every: How often time passes without a push.
    """

    def __init__(self, stream: Stream, worker: ThreadPoolExecutor, tick_every: timedelta) -> None:
        self._stream, self._worker, self._tick_every = stream, worker, tick_every
        self._metrics, self._failing = Metrics(), False
        routes = [
            Route("/v1/tables/{table}:push", self._push, methods=["POST"]),
            Route("/v1/healthz", self._health, methods=["GET"]),
            Route("/metrics", self._scrape, methods=["GET"]),
        ]
        self.app = Starlette(routes=routes, lifespan=self._ticking)

    async def _push(self, request: Request) -> Response:
        table, started = request.path_params["table"], time.monotonic()
        content_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if content_type not in {JSON, LINES}:
            return _refusal(415, f"content-type: {content_type[:100]}. Allowed: {JSON}, {LINES}")
        try:
            events = parse_events(await _read(request), content_type)
            result = await self._in_worker(partial(self._stream.push, table, events))
        except TooLargeError:
            return _refusal(413, f"the body is too large. Allowed: {MAX_BODY} bytes", close=True)
        except (FeatureStoreError, StorageError) as error:
            log.error("%s", error)
            return _refusal(503, _KEPT if isinstance(error, FeatureStoreError) else _NOT_KEPT)
        except FtiError as error:
            return _refusal(_STATUS.get(type(error), 500), str(error))
        self._metrics.pushed(table, result, time.monotonic() - started)
        return JSONResponse(_answer(result))

    async def _health(self, _: Request) -> Response:
        return JSONResponse(
            {
                "watermark": _iso(self._stream.watermark),
                "waiting_rows": self._stream.waiting,
                "failing": self._failing,
                "tables": self._stream.tables,
            }
        )

    async def _scrape(self, _: Request) -> Response:
        self._metrics.state(self._stream.watermark, self._stream.waiting, failing=self._failing)
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _in_worker(self, work: Callable[[], Pushed]) -> Pushed:
        """One push or tick after the other. One that has begun ends, also when its caller hangs up."""
        try:
            result = await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._worker, work))
        except (FeatureStoreError, StorageError):
            self._failing = True
            raise
        self._failing = False
        return result

    @asynccontextmanager
    async def _ticking(self, _: Starlette) -> AsyncIterator[None]:
        ticks = asyncio.create_task(self._tick())
        yield
        ticks.cancel()
        with suppress(asyncio.CancelledError):
            await ticks

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._tick_every.total_seconds())
            try:
                self._metrics.moved(await self._in_worker(self._stream.tick))
            except Exception as error:  # time must not stand still
                log.error("%s", error, exc_info=not isinstance(error, FtiError))


def serve(
    opened: AbstractContextManager[Stream],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tick_every: timedelta = timedelta(seconds=5),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serves a stream until SIGINT or SIGTERM; requests in flight are answered first. Call it from the main thread.

    Args:
        opened: What `open_stream` gives.
        host: The address to listen on. There is no authentication.
        port: The port; 0 lets the system choose.
        tick_every: How often time passes without a push.
        on_ready: Called with the URL once it answers.

    Raises:
        BusyError: The port is in use, or another stream is at work.
        FtiError: The stream cannot be opened, or what waits cannot be written at the end.
    """
    with _listening(host, port) as listener, ThreadPoolExecutor(1) as worker, ExitStack() as stack:
        stream = worker.submit(opened.__enter__).result()
        stack.callback(lambda: worker.submit(opened.__exit__, None, None, None).result())
        app = Server(stream, worker, tick_every).app
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=30)
        if on_ready:
            on_ready(f"http://{host}:{listener.getsockname()[1]}")
        _Uvicorn(config).run(sockets=[listener])


class _Uvicorn(uvicorn.Server):  # type: ignore[misc]  # untyped here
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's own, which sends itself the signal again at the end, and so dies before the stream is closed."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            raise BusyError(
                f"port {port} on {host} cannot be used: {getattr(error, 'strerror', None) or error}",
                remedy="Stop what listens there, or choose another with --port",
            ) from error
        yield listener


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLargeError
    return bytes(body)


def _answer(result: Pushed) -> dict[str, Any]:
    return {
        "accepted": result.accepted,
        "rejected": [{"event": each.event, "reasons": list(each.reasons)} for each in result.rejected],
        "rows": dict(result.rows),
        "watermark": _iso(result.watermark),
    }


def _refusal(status: int, message: str, *, close: bool = False) -> Response:
    # What is left of a body that was not read must not be taken for the next request.
    headers = {"connection": "close"} if close else None
    return JSONResponse({"error": message.encode("utf-8", "replace").decode()}, status, headers)


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
