"""The ASGI application in front of KServe's: predictions are answered here, strictly and fast.

KServe's own path to a prediction accepts much that is wrong, answers 500 to other, and takes five times as long.
Everything else that reads (metadata, readiness, metrics) is KServe's; what would change the server is refused.
"""

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fti.common.errors import FtiError, OnlineStoreError
from fti.serve.answers import answers, encode_features, encode_v1, encode_v2
from fti.serve.columns import BadRequestError
from fti.serve.features import RefusedRowError
from fti.serve.model import PackagedModel
from fti.serve.protocol import MAX_BODY, REVISION_HEADER, Request, decode_v1, decode_v2

log = logging.getLogger(__name__)

# The cause may name hosts and tables: it is for the log, not for the caller.
STORE_FAILS = "the feature store does not answer; the server's log says why"
STATES_HEADER = "x-fti-features"
_STATES = STATES_HEADER.encode()
_RETRY_AFTER = (b"retry-after", b"1")  # seconds: as long as a store that failed is left alone
_JSON_LENGTH = b"inference-header-content-length"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Response = tuple[bytes, list[tuple[bytes, bytes]]]


class Front:
    """Answers predictions of one model, and hands reads over to KServe's application.

    Args:
        kserve: KServe's application.
        model: The model.
    """

    def __init__(self, kserve: App, model: PackagedModel) -> None:
        self._kserve, self._model = kserve, model
        self._revision = (REVISION_HEADER.encode(), model.revision.encode())
        self._predict = {
            f"/v1/models/{model.name}:predict": self._v1,
            f"/v2/models/{model.name}/infer": self._v2,
            f"/v1/models/{model.name}:features": self._features,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection of the ASGI protocol."""
        if scope["type"] != "http":
            return await self._kserve(scope, receive, send)
        if scope["method"] in {"GET", "HEAD"} and scope["path"] not in self._predict:
            if "/versions/" in scope["path"]:
                return await self._refuse(send, BadRequestError("model versions have no paths of their own here", 404))
            return await self._kserve(scope, receive, self._signed(send))
        try:
            body, headers = await self._answer(scope, receive)
        except BadRequestError as error:
            return await self._refuse(send, error)
        except FtiError as error:  # the feature store: a fault of the server's side
            if not isinstance(error, OnlineStoreError):  # that one is in the log already
                log.error("%s", error)
            return await self._respond(send, 503, _error(STORE_FAILS), [_RETRY_AFTER])
        return await self._respond(send, 200, body, headers)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        predict = self._predict.get(scope["path"])
        if predict is None:
            raise BadRequestError(f"{scope['path'][:200]}: no such path. Allowed: {', '.join(self._predict)}", 404)
        if scope["method"] != "POST":
            raise BadRequestError(f"method {scope['method']}. Allowed: POST", 405)
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise BadRequestError("content-encoding: allowed is identity", 415)
        started = time.perf_counter()
        answer = await predict(await _read(headers, receive), headers)
        _observe(self._model.name, time.perf_counter() - started)
        return answer

    async def _v1(self, body: bytes, headers: dict[bytes, bytes]) -> Response:
        _check_type(headers, {"application/json"})
        answer = await self._model.answer(decode_v1(body, self._model.schema))
        return encode_v1(self._model.signature, answer.scores, answer.labels), _stated(answer.states)

    async def _features(self, body: bytes, headers: dict[bytes, bytes]) -> Response:
        _check_type(headers, {"application/json"})
        request = decode_v1(body, self._model.schema)
        completed = await self._model.complete(request)
        encoded = encode_features(self._model.signature, completed.columns, request.rows, completed.vectors)
        return encoded, _stated(completed.states)

    async def _v2(self, body: bytes, headers: dict[bytes, bytes]) -> Response:
        json_length = _json_length(headers)
        _check_type(headers, {"application/json"} if json_length is None else {"application/octet-stream"})
        request = decode_v2(body, self._model.schema, self._model.outputs, json_length)
        return await self._v2_answer(request)

    async def _v2_answer(self, request: Request) -> Response:
        answer = await self._model.answer(request)
        outputs = answers(self._model.signature, answer.scores, answer.labels)
        body, json_end = encode_v2(self._model.name, self._model.revision, request, outputs)
        length = [] if json_end is None else [(_JSON_LENGTH, str(json_end).encode())]
        return body, [*length, *_stated(answer.states)]

    async def _refuse(self, send: Send, error: BadRequestError) -> None:
        # What is left of a body that was not read must not be taken for the next request.
        headers = [(b"connection", b"close")] if error.status == 413 else []
        if isinstance(error, RefusedRowError):
            headers += _stated(error.states)
        await self._respond(send, error.status, _error(str(error)), headers)

    async def _respond(self, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        binary = any(name == _JSON_LENGTH for name, _ in headers)
        headers = [
            (b"content-type", b"application/octet-stream" if binary else b"application/json"),
            (b"content-length", str(len(body)).encode()),
            self._revision,
            *headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _signed(self, send: Send) -> Send:
        async def signed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), self._revision]
            await send(message)

        return signed


async def _read(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    too_large = BadRequestError(f"the body is too large. Allowed: {MAX_BODY} bytes", 413)
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > MAX_BODY:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequestError("the caller hung up before the end of the body")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise too_large
        if not message.get("more_body"):
            return bytes(body)


def _stated(states: str) -> list[tuple[bytes, bytes]]:
    return [(_STATES, states.encode("utf-8"))] if states else []


def _check_type(headers: dict[bytes, bytes], allowed: set[str]) -> None:
    given = headers.get(b"content-type", b"application/json" if "application/json" in allowed else b"").decode(
        "latin-1"
    )
    kind, _, parameters = given.lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind.strip() not in allowed or charset not in {"", "utf-8"}:
        raise BadRequestError(f"content-type: {given[:100]!r}. Allowed: {', '.join(sorted(allowed))}", 415)


def _json_length(headers: dict[bytes, bytes]) -> int | None:
    given = headers.get(_JSON_LENGTH)
    if given is None:
        return None
    if not given.isdigit() or len(given) > 12:
        raise BadRequestError("Inference-Header-Content-Length: allowed is a number of bytes")
    return int(given)


def _error(message: str) -> bytes:
    import orjson

    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def _observe(model: str, seconds: float) -> None:
    from kserve.metrics import PREDICT_HIST_TIME, get_labels

    PREDICT_HIST_TIME.labels(**get_labels(model)).observe(seconds)
