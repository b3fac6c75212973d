"""What a predictor refuses over gRPC before its service sees it.

gRPC's library takes calls one by one, a turn of the event loop for each, out of a queue of its own. So a server that is
asked for too much leaves them waiting there, where no admission sees them. What waits there is counted here, by gRPC's
own counters (channelz), and what is too much is refused by its head.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import grpc
import orjson
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc
from kserve.errors import ModelNotFound
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor

from fti.serve.admission import Admission, OverloadedError, most_calls
from fti.serve.columns import BadRequestError
from fti.serve.protocol import INFER

OPTIONS = (("grpc.enable_channelz", 1), ("grpc.max_channel_trace_event_memory_per_node", 0))
_LOOK_EVERY = 64  # calls: a look takes about as long as an answer
_HOLDS = 0.02  # seconds, for which a look that found too much holds: what follows a burst is not to pay for it

Refuse = Callable[[str, Any, BadRequestError, Any], Awaitable[None]]


class Shedding(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Refuses predictions while the queue is full, or while twice as many calls as it has places wait in gRPC's own.

    A refusal takes between a quarter and the whole of what a small model's answer takes. So of the calls that wait in
    gRPC's queue alone every second is answered: a server that only refused would be overloaded by that.

    Args:
        admission: Says how many places there are.
        refuse: Ends a call; given its method, its metadata, why, and its context.
    """

    def __init__(self, admission: Admission, refuse: Refuse) -> None:
        self._admission, self._refuse = admission, refuse
        self._taken = 0  # calls that gRPC has handed over; slow callers among them keep nobody waiting
        self._queued, self._since, self._looked, self._turn = 0, 0, 0.0, False

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call; to be asked by the call's own task, as gRPC does."""
        self._taken += 1
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # this is a coroutine
        task.add_done_callback(self._ended)
        if details.method.removeprefix("/") != INFER or not self._is_full():
            return await continuation(details)

        async def refused(_: Any, context: Any) -> None:
            error = OverloadedError(self._admission.limits.max_queue)
            await self._refuse(INFER, details.invocation_metadata, error, context)

        # As for a stream, whose messages a handler reads by itself: this one reads none.
        return grpc.stream_unary_rpc_method_handler(refused)

    def _is_full(self) -> bool:
        limits = self._admission.limits
        if self._admission.waiting >= limits.max_queue:
            return True
        self._since += 1
        beyond = self._queued > most_calls(limits)
        if self._since >= _LOOK_EVERY or (beyond and monotonic() - self._looked > _HOLDS):
            self._queued, self._since, self._looked = calls() - self._taken, 0, monotonic()
            beyond = self._queued > most_calls(limits)
        self._turn = beyond and not self._turn
        return self._turn

    def _ended(self, _: object) -> None:
        self._taken -= 1


class Refusals(ExceptionToStatusInterceptor):  # type: ignore[misc]  # kserve is untyped
    """KServe's answers to exceptions, and an answer to bytes that are no message, which gRPC takes for a failure.

    Args:
        refuse: As of `Shedding`.
    """

    def __init__(self, refuse: Refuse) -> None:
        super().__init__()
        self._refuse = refuse
        self._handlers: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call, made once for each method; None where there is no such method."""
        if details.method not in self._handlers:
            handler = await super().intercept_service(continuation, details)
            if handler is None:
                return None
            self._handlers[details.method] = handler._replace(request_deserializer=_or_bytes(handler))
        return self._handlers[details.method]

    async def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        """Answers a call."""
        if type(request_or_iterator) is not bytes:
            return await super().intercept(method, request_or_iterator, context, method_name)
        name = method_name.removeprefix("/")
        error = BadRequestError(f"the message is no protobuf of {name}'s request")
        return await self._refuse(name, context.invocation_metadata(), error, context)

    async def handle_exception(self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str) -> None:
        """Answers what a method raised. What is the caller's fault is no error of the server's, nor logged as one."""
        if isinstance(ex, grpc.aio.AbortError):
            raise ex  # it is answered
        if isinstance(ex, ModelNotFound):
            await context.abort(grpc.StatusCode.NOT_FOUND, ex.reason)
        await super().handle_exception(ex, request_or_iterator, context, method_name)


def _or_bytes(handler: Any) -> Callable[[bytes], Any]:
    decode = handler.request_deserializer

    def decoded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError:
            return raw

    return decoded


def calls() -> int:
    """How many calls this process's gRPC servers have begun to receive and not yet ended, wherever they wait."""
    servers = orjson.loads(cygrpc.channelz_get_servers(0)).get("server", [])
    counts = [{name: int(count) for name, count in server["data"].items() if name in _COUNTS} for server in servers]
    return sum(each.get(_BEGUN, 0) - each.get(_WELL, 0) - each.get(_BADLY, 0) for each in counts)


_COUNTS = _BEGUN, _WELL, _BADLY = "callsStarted", "callsSucceeded", "callsFailed"
