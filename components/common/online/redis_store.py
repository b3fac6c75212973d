"""Reading Feast's hashes in Redis: one round trip for all views and entities.

Feast keeps one hash for each entity key and project. It holds the features of all views of that key, each under
murmur3("<view>:<feature>"), and each view's event time under `_ts:<view>`.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.online.plan import Plan
from fti.common.online.redis_client import client_of
from fti.common.online.redis_loop import LoopClient
from fti.common.online.source import Asked, Fetched
from fti.common.online.values import times

if TYPE_CHECKING:
    from redis import Connection

# Seconds; `socket_connect_timeout` and `socket_timeout` in Feast's connection_string say otherwise.
_TIMEOUTS = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0}


class RedisSource:
    """Reads Redis by itself, or behind sentinels. Each thread has a connection of its own, and each event loop.

    Args:
        plan: What to read.
        config: Feast's settings of its Redis store.
    """

    def __init__(self, plan: Plan, config: Any) -> None:
        self._config, self._client = config, quick_client(config)
        self._project = plan.project.encode()
        self._plan = plan
        self._fields = [_fields(plan, key) for key in range(len(plan.keys))]
        self._heads = [b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields)) for fields in self._fields]
        self._tails = [b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in fields) for fields in self._fields]
        self._columns = [_columns(plan, view) for view in range(len(plan.views))]
        self._connections = threading.local()
        self._loops: dict[asyncio.AbstractEventLoop, LoopClient] = {}

    def fetch(self, asked: Asked) -> Fetched:
        """See `Source.fetch`."""
        request = self._request(asked.keys)
        with _errors():
            replies = self._ask(request, sum(map(len, asked.keys)))
        return self._fetched(asked.keys, replies)

    async def afetch(self, asked: Asked) -> Fetched:
        """See `LoopSource.afetch`."""
        loop = asyncio.get_running_loop()
        client = self._loops.get(loop) or self._watched_by(loop)
        with _errors():
            replies = await client.ask(self._request(asked.keys), sum(map(len, asked.keys)))
        return self._fetched(asked.keys, replies)

    def close(self) -> None:
        """See `Source.close`."""
        self._client.connection_pool.disconnect()
        for loop in list(self._loops):
            client = self._loops.pop(loop)
            try:
                loop.call_soon_threadsafe(client.close)
            except RuntimeError:  # it has ended
                client.close()

    def _watched_by(self, loop: asyncio.AbstractEventLoop) -> LoopClient:
        for each in list(self._loops):
            if each.is_closed() and (ended := self._loops.pop(each, None)):
                ended.close()
        return self._loops.setdefault(loop, LoopClient(quick_client(self._config)))

    def _request(self, keys: list[list[bytes]]) -> bytes:
        """One command for each key."""
        return b"".join(
            b"%b$%d\r\n%b%b\r\n%b" % (head, len(key) + len(self._project), key, self._project, tail)
            for head, tail, some in zip(self._heads, self._tails, keys, strict=True)
            for key in some
        )

    def _fetched(self, keys: list[list[bytes]], replies: list[Any]) -> Fetched:
        hashes: list[Sequence[Sequence[bytes | None]]] = []  # of each key of the plan, column by column
        start = 0
        for fields, some in zip(self._fields, keys, strict=True):
            stop = start + len(some)
            hashes.append(list(zip(*replies[start:stop], strict=True)) or [()] * len(fields))
            start = stop
        values: list[Sequence[bytes | None]] = []
        stamps: list[bytes | None] = []
        for key, first, last in self._columns:
            values += hashes[key][first:last]
            stamps += hashes[key][last]
        return Fetched(values, times(stamps))

    def _ask(self, request: bytes, replies: int) -> list[Any]:
        """Sends commands and reads their replies; over a new connection where the old one has been closed."""
        import redis

        kept = getattr(self._connections, "one", None)
        if kept is not None:
            with suppress(redis.ConnectionError):  # it was closed since it was last used
                return self._exchange(kept, request, replies)
        self._connections.one = fresh = self._client.connection_pool.get_connection()
        return self._exchange(fresh, request, replies)

    def _exchange(self, connection: "Connection", request: bytes, replies: int) -> list[Any]:
        read = connection.read_response
        try:
            connection.send_packed_command([request])  # type: ignore[no-untyped-call]  # redis is half typed
            return [read(disable_decoding=True) for _ in range(replies)]  # type: ignore[no-untyped-call]
        except BaseException:  # what is left to be read must not be taken for the next answer
            self._connections.one = None
            with suppress(Exception):
                connection.disconnect()  # type: ignore[no-untyped-call]
                self._client.connection_pool.release(connection)
            raise


@contextmanager
def _errors() -> Iterator[None]:
    import redis

    try:
        yield
    except redis.RedisError as error:
        from fti.common.feature_store import reason
        from fti.common.masking import masked

        if str(error).startswith("WRONGTYPE"):  # it answers: others are not to suffer for this key
            raise FeatureStoreError(
                "Redis holds something else than Feast's hashes under a key", remedy="Remove it, and materialize"
            ) from None
        raise OnlineStoreError(
            f"Redis does not answer: {masked(reason(error))}", remedy="See whether it runs and can be reached"
        ) from None  # the whole error may show the account


def reads_directly(config: Any) -> bool:
    """Whether this module can read a store: one Redis, or one behind sentinels; no cluster."""
    return str(config.redis_type.value) != "redis_cluster"


def quick_client(config: Any) -> Any:
    """A client that fails rather than waits: a prediction hangs on it."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return client_of(config, _TIMEOUTS, Retry(NoBackoff(), 0))


def _columns(plan: Plan, view: int) -> tuple[int, int, int]:
    """The key of a view; among the key's fields its first feature and, after its last, its event time."""
    key = plan.views[view].key
    first = sum(len(each.features) + 1 for each in plan.views[:view] if each.key == key)
    return key, first, first + len(plan.views[view].features)


def _fields(plan: Plan, key: int) -> list[bytes]:
    """The fields of the hashes of a key: each view's features and its event time, view by view."""
    from feast.infra.online_stores.helpers import _mmh3

    fields = []
    for view in plan.views:
        if view.key == key:
            fields += [_mmh3(f"{view.stored_as}:{name}") for name in view.features]
            fields.append(f"_ts:{view.stored_as}".encode())
    twice = {field for field in fields if fields.count(field) > 1}
    aliases = len({view.stored_as for view in plan.views if view.key == key})
    if twice and aliases == sum(view.key == key for view in plan.views):
        raise FeatureStoreError(
            f"two features of service {plan.service} have one field in Feast's hashes, and overwrite one another",
            remedy="Rename one of the features",
        )
    return fields
