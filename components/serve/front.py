"""The ASGI application in front of KServe's: predictions are answered here, strictly and fast.

KServe's own path to a prediction accepts much that is wrong, answers 500 to other, and takes five times as long.
Everything else that reads (metadata, readiness, metrics) is KServe's; what would change the server is refused, unless
it was started to allow it.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fti.common.errors import FtiError
from fti.serve.admission import DeadlineError
from fti.serve.answers import V1Answers, V2Answers, encode_features
from fti.serve.columns import BadRequestError
from fti.serve.explain.explainer import encode as encode_explanations
from fti.serve.features import RefusedRowError
from fti.serve.model import PackagedModel
from fti.serve.observe.metrics import Protocol
from fti.serve.observe.observer import REQUEST_ID_HEADER, Observed, Observer
from fti.serve.protocol import REVISION_HEADER, decode_v1, decode_v2
from fti.serve.repository import REPOSITORY_PATH, PackageRepository, repository_answer

# The cause may name hosts and tables: it is for the log, not for the caller.
STORE_FAILS = "the feature store does not answer; the server's log says why"
STATES_HEADER = "x-fti-features"
_STATES, _REQUEST_ID = STATES_HEADER.encode(), REQUEST_ID_HEADER.encode()
_RETRY_AFTER = (b"retry-after", b"1")  # seconds: as long as a store that failed is left alone
_JSON_LENGTH = b"inference-header-content-length"
_PATIENCE = b"x-envoy-expected-rq-timeout-ms"
_JSON, _BINARY = b"application/json", b"application/octet-stream"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Response = tuple[bytes, Headers]


@dataclass(slots=True)
class Call:
    """A request over HTTP, of which the head has come.

    Attributes:
        method: Its method.
        path: Its path.
        headers: Its headers, by their names in lower case.
        body: Its body, no larger than the limit; or what receives it, where it has not come yet.
        observed: What is seen of it.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes | Receive
    observed: Observed = field(init=False)


class Reply(NamedTuple):
    """An answer over HTTP, as it leaves.

    Attributes:
        status: The HTTP status.
        headers: All its headers, but for those of the server.
        body: Its body.
    """

    status: int
    headers: Headers
    body: bytes


Handler = Callable[[Call], Awaitable[Response]]


class UnreadBodyError(BadRequestError):
    """A request refused before all of it was read."""


class Front:
    """Answers predictions of one model, and hands reads over to KServe's application.

    Args:
        kserve: KServe's application.
        model: The model.
        repository: Answers what the repository extension asks; None where nobody may ask.
        observer: Sees every request; one that counts alone where there is none.

    Attributes:
        predictions: The paths of predictions that may be answered at once.
        max_body_bytes: The most of one request.
    """

    def __init__(
        self,
        kserve: App,
        model: PackagedModel,
        repository: PackageRepository | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._kserve, self._model, self._repository = kserve, model, repository
        self._observer = observer or Observer(model)
        self._v1_answers = V1Answers(model.signature)
        self._v2_answers = V2Answers(model.signature, model.name, model.revision)
        self.max_body_bytes = model.admission.limits.max_body_bytes
        self._revision = (REVISION_HEADER.encode(), model.revision.encode())
        self._routes: dict[str, tuple[Protocol, Handler]] = {
            f"/v1/models/{model.name}:predict": ("v1", self._v1),
            f"/v2/models/{model.name}/infer": ("v2", self._v2),
            f"/v1/models/{model.name}:features": ("features", self._features),
            f"/v1/models/{model.name}:explain": ("explain", self._explain),
        }
        # A trace's spans belong to the context of a task.
        self.predictions = frozenset([*self._routes][:2]) if self._observer.tracing is None else frozenset[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection of the ASGI protocol."""
        if scope["type"] != "http":
            await self._kserve(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        reads = method in {"GET", "HEAD"} and path not in self._routes and not path.startswith(REPOSITORY_PATH)
        if reads and "/versions/" not in path and b"model_version=" not in scope.get("query_string", b""):
            await self._kserve(scope, receive, self._signed(send))
            return
        await respond(await self.answer(Call(method, path, dict(scope["headers"]), receive)), send)

    async def answer(self, call: Call) -> Reply:
        """Answers a request. One of `predictions` that has come whole waits for nothing but scoring and lookup."""
        protocol, handler = self._routes.get(call.path) or ("other", self._no_such_path)
        with self._observer.http(protocol, call.headers, call.method, call.path) as observed:
            call.observed = observed
            try:
                status, (body, more) = 200, await handler(call)
            except BadRequestError as error:
                status, body, more = error.status, _error(str(error)), _explained(error)
                observed.reason = str(error)
            except FtiError as error:  # the feature store: a fault of the server's side
                status, body, more = 503, _error(STORE_FAILS), [_RETRY_AFTER]
                observed.reason, observed.cause = STORE_FAILS, str(error)
            observed.code = status
            return self._reply(status, body, [(_REQUEST_ID, observed.request_id.encode()), *more])

    async def _v1(self, call: Call) -> Response:
        _check(call, _JSON)
        model = self._model
        deadline = model.admission.deadline(_patience(call.headers))
        body = call.body if type(call.body) is bytes else await self._body(call, deadline)
        request = decode_v1(body, model.schema)
        request.asked = call.observed.asked
        answer = await model.answer(request, deadline)
        call.observed.predicted(request, answer)
        return self._v1_answers.encode(answer.scores, answer.labels), _stated(answer.states)

    async def _v2(self, call: Call) -> Response:
        json_length = _json_length(call.headers)
        _check(call, _JSON if json_length is None else _BINARY)
        model = self._model
        deadline = model.admission.deadline(_patience(call.headers))
        body = call.body if type(call.body) is bytes else await self._body(call, deadline)
        request = decode_v2(body, model.schema, model.outputs, json_length, model.name)
        request.asked = call.observed.asked
        answer = await model.answer(request, deadline)
        call.observed.predicted(request, answer)
        body, json_end = self._v2_answers.encode(request, answer.scores, answer.labels)
        binary = [] if json_end is None else [(_JSON_LENGTH, str(json_end).encode())]
        return body, [*binary, *_stated(answer.states)]

    async def _features(self, call: Call) -> Response:
        _check(call, _JSON)
        model = self._model
        deadline = model.admission.deadline(_patience(call.headers))
        request = decode_v1(await self._body(call, deadline), model.schema)
        request.asked = call.observed.asked
        completed = await model.complete(request, deadline)
        body = encode_features(model.signature, completed.columns, request.rows, completed.vectors)
        return body, _stated(completed.states)

    async def _explain(self, call: Call) -> Response:
        _check(call, _JSON)
        model, explainer = self._model, self._model.explainer
        if explainer is None:
            raise BadRequestError("this server does not explain", 404)
        seconds = min(explainer.seconds(call.headers), _patience(call.headers) or math.inf)
        until = asyncio.get_running_loop().time() + seconds
        deadline = model.admission.deadline(seconds)
        request = decode_v1(await self._body(call, deadline), model.schema)
        request.asked = call.observed.asked
        answer = await model.answer(request, deadline)
        # Explanations have a queue of their own: they take no place of a prediction.
        found = await explainer.explain(answer.completed.columns, until - asyncio.get_running_loop().time())
        predictions = self._v1_answers.encode(answer.scores, answer.labels)
        return encode_explanations(model.signature, predictions, found), _stated(answer.states)

    async def _no_such_path(self, call: Call) -> Response:
        asked = call.path.startswith(REPOSITORY_PATH)
        if self._repository and asked:
            body = await self._body(call, math.inf)
            return await repository_answer(self._repository, call.method, call.path, body), []
        if call.method in {"GET", "HEAD"} and not asked:
            raise BadRequestError("model versions cannot be asked for one by one here", 404)
        raise BadRequestError(f"{call.path[:200]}: no such path. Allowed: {', '.join(self._routes)}", 404)

    async def _body(self, call: Call, deadline: float) -> bytes:
        if isinstance(call.body, bytes):
            return call.body
        try:
            async with self._model.admission.until(deadline):
                return await self._read(call, call.body)
        except DeadlineError as error:  # of its caller's making
            raise UnreadBodyError("the body did not come before the deadline", 408) from error

    async def _read(self, call: Call, receive: Receive) -> bytes:
        most = self.max_body_bytes
        declared = call.headers.get(b"content-length", b"")
        size, parts, more = int(declared) if declared.isdigit() else 0, list[bytes](), True
        while more and size <= most:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequestError("the caller hung up before the end of the body")
            parts.append(message.get("body", b""))
            size, more = sum(map(len, parts)), message.get("more_body", False)
        if size > most:
            raise UnreadBodyError(f"the body is too large. Allowed: {most} bytes", 413)
        return b"".join(parts)

    def _reply(self, status: int, body: bytes, headers: Headers) -> Reply:
        binary = len(headers) > 1 and any(name == _JSON_LENGTH for name, _ in headers)
        content, length = (b"content-type", _BINARY if binary else _JSON), (b"content-length", b"%d" % len(body))
        return Reply(status, [content, length, self._revision, *headers], body)

    def _signed(self, send: Send) -> Send:
        async def signed(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), self._revision]
            await send(message)

        return signed


async def respond(reply: Reply, send: Send) -> None:
    """Sends a reply by ASGI."""
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})


def _stated(states: str) -> Headers:
    return [(_STATES, states.encode("utf-8"))] if states else []


def _check(call: Call, content: bytes) -> None:
    """Refuses what no handler takes: another method, another type of content than `content`, or a compressed one."""
    if call.method != "POST":
        raise BadRequestError(f"method {call.method}. Allowed: POST", 405)
    headers = call.headers
    if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
        raise BadRequestError("content-encoding: allowed is identity", 415)
    given = headers.get(b"content-type", content)  # tritonclient names none
    if given == content:
        return
    kind, _, parameters = given.decode("latin-1").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind.strip() != content.decode() or charset not in {"", "utf-8"}:
        raise BadRequestError(f"content-type: {given.decode('latin-1')[:100]!r}. Allowed: {content.decode()}", 415)


def _patience(headers: dict[bytes, bytes]) -> float | None:
    """For how many seconds the gateway waits; None where it does not say."""
    if _PATIENCE not in headers:
        return None
    given = headers[_PATIENCE]
    return int(given) / 1000 if given.isdigit() and len(given) < 10 else None


def _explained(error: BadRequestError) -> Headers:
    """The headers of a refusal."""
    if isinstance(error, RefusedRowError):
        return _stated(error.states)
    if isinstance(error, UnreadBodyError):
        # What is left of it must not be taken for the next request.
        return [(b"connection", b"close")]
    return [_RETRY_AFTER] if error.status in {429, 503} else []


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
