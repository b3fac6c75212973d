"""Reading Feast's hashes in Redis: one round trip for all views and entities.

Feast keeps one hash for each entity key and project. It holds the features of all views of that key, each under
murmur3("<view>:<feature>"), and each view's event time under `_ts:<view>`.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.online.plan import Plan
from fti.common.online.redis_client import client_of
from fti.common.online.source import Asked, Fetched
from fti.common.online.values import times

if TYPE_CHECKING:
    from redis import Connection

# Seconds; `socket_connect_timeout` and `socket_timeout` in Feast's connection_string say otherwise.
_TIMEOUTS = {"socket_connect_timeout": 1.0, "socket_timeout": 1.0}


class RedisSource:
    """Reads Redis by itself, or behind sentinels. Each thread has a connection of its own.

    Args:
        plan: What to read.
        config: Feast's settings of its Redis store.
    """

    def __init__(self, plan: Plan, config: Any) -> None:
        self._client = quick_client(config)
        self._project = plan.project.encode()
        self._plan = plan
        self._fields = [_fields(plan, key) for key in range(len(plan.keys))]
        self._heads = [b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields)) for fields in self._fields]
        self._tails = [b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in fields) for fields in self._fields]
        self._connections = threading.local()

    def fetch(self, asked: Asked) -> Fetched:
        """See `Source.fetch`."""
        import numpy as np

        columns = self._columns(asked.keys)
        values: list[Sequence[bytes | None]] = []
        stamps: list[Sequence[bytes | None]] = []
        for view in self._plan.views:
            values += (next(columns[view.key]) for _ in view.features)
            stamps.append(next(columns[view.key]))
        known = times([stamp for column in stamps for stamp in column])
        ends = np.cumsum([len(column) for column in stamps])
        return Fetched(values, np.split(known, ends[:-1]))

    def close(self) -> None:
        """See `Source.close`."""
        self._client.connection_pool.disconnect()

    def _columns(self, keys: list[list[bytes]]) -> Any:
        """For each key of the plan, the columns that its hashes hold, in the order of `_fields`."""
        request = b"".join(
            b"%b$%d\r\n%b%b\r\n%b" % (head, len(key) + len(self._project), key, self._project, tail)
            for head, tail, some in zip(self._heads, self._tails, keys, strict=True)
            for key in some
        )
        replies = iter(self._ask(request, sum(map(len, keys))))
        return [
            iter(list(zip(*(next(replies) for _ in some), strict=True)) or [()] * len(fields))
            for fields, some in zip(self._fields, keys, strict=True)
        ]

    def _ask(self, request: bytes, replies: int) -> list[Any]:
        """Sends commands and reads their replies; over a new connection where the old one has been closed."""
        import redis

        kept = getattr(self._connections, "one", None)
        try:
            if kept is not None:
                try:
                    return self._exchange(kept, request, replies)
                except redis.TimeoutError:
                    raise
                except redis.ConnectionError:
                    pass  # it was closed since it was last used
            self._connections.one = fresh = self._client.connection_pool.get_connection()
            return self._exchange(fresh, request, replies)
        except redis.RedisError as error:
            from fti.common.feature_store import reason
            from fti.common.masking import masked

            raise OnlineStoreError(
                f"Redis does not answer: {masked(reason(error))}", remedy="See whether it runs and can be reached"
            ) from None  # the whole error may show the account

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


def reads_directly(config: Any) -> bool:
    """Whether this module can read a store: one Redis, or one behind sentinels; no cluster."""
    return str(config.redis_type.value) != "redis_cluster"


def quick_client(config: Any) -> Any:
    """A client that fails rather than waits: a prediction hangs on it."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return client_of(config, _TIMEOUTS, Retry(NoBackoff(), 0))


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
