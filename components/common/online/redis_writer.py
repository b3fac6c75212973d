"""Writing to Redis as Feast lays it out: a hash for each entity key and project, shared by the views of that entity.

Its fields are the hash of `<view>:<feature>`, with the value, and `_ts:<view>`, with the event time.
"""

import re
import struct
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fti.common.errors import OnlineStoreError
from fti.common.online.encoding import stamps
from fti.common.online.keys import key_head
from fti.common.online.redis_client import client_of
from fti.common.online.redis_scripts import REMOVE, WRITE
from fti.common.online.rows import Rows, micros_of
from fti.common.online.writer import Written, ignore

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureView
    from feast.repo_config import RepoConfig

# Keys in one call of a script, during which Redis answers nobody else: about 0.3 ms.
_KEYS = 100
_ROUND_TRIP = 10_000  # keys
_TIMEOUTS = {"socket_connect_timeout": 5.0, "socket_timeout": 30.0}  # seconds


class RedisWriter:
    """Redis, alone, with sentinels or as a cluster. Comparing and writing a key is one step for everybody else."""

    def __init__(self, config: "RepoConfig") -> None:
        self._config = config
        self._project = config.project.encode()
        with self._errors():
            self._client = _client(config.online_store)
        clustered = config.online_store.redis_type == "redis_cluster"
        self._keys = 1 if clustered else _KEYS  # a script's keys have to be on one node

    def write(
        self, view: "FeatureView", rows: "pa.Table", through: datetime | None, advance: Callable[[int], None] = ignore
    ) -> Written:
        """See `OnlineWriter.write`."""
        import numpy as np

        batch, written = Rows.of(view, rows), 0
        fields = _fields(self._name(view), [field.name for field in view.features])
        bound = b"-" if through is None else _stamp(through)
        head = [bound, self._config.online_store.key_ttl_seconds or 0, len(fields), *fields]
        for start in range(0, len(batch), _ROUND_TRIP):
            part = batch.part(np.arange(start, min(start + _ROUND_TRIP, len(batch))))
            written += self._each(WRITE, part.keys, head, [stamps(part.times), *part.values(view).values()])
            advance(len(part))
        return Written(written, len(batch) - written, batch.keys)

    def strays(self, view: "FeatureView", known: Set[bytes], since: datetime | None, through: datetime) -> list[bytes]:
        """See `OnlineWriter.strays`. Where the profile says `full_scan_for_deletion: false`, it cannot be told."""
        if not self._config.online_store.full_scan_for_deletion:
            return []
        first, last = -(2**63) if since is None else micros_of(since), micros_of(through)
        field, found = _time_field(self._name(view)), []
        with self._errors():
            for keys in self._scan(view):
                unknown = [key for key in keys if key not in known]
                with self._client.pipeline(transaction=False) as pipeline:
                    for key in unknown:
                        pipeline.hget(key + self._project, field)
                    stored = pipeline.execute()
                found += [
                    key for key, text in zip(unknown, stored, strict=True) if text and first <= _micros(text) <= last
                ]
        return found

    def remove(self, view: "FeatureView", keys: list[bytes], through: datetime) -> int:
        """See `OnlineWriter.remove`."""
        fields = _fields(self._name(view), [field.name for field in view.features])
        return self._each(REMOVE, keys, [_stamp(through), *fields], [])

    def recall(self, view: "FeatureView") -> str | None:
        """See `OnlineWriter.recall`."""
        with self._errors():
            text: bytes | None = self._client.hget(self._memory(view), _time_field(self._name(view)))
        return None if text is None else text.decode()

    def remember(self, view: "FeatureView", text: str) -> None:
        """See `OnlineWriter.remember`. Where Feast looks for a time, so that it goes when Feast removes the view."""
        with self._errors():
            self._client.hset(self._memory(view), _time_field(self._name(view)), text)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _name(self, view: "FeatureView") -> str:
        from feast.infra.online_stores.helpers import compute_versioned_name

        return str(compute_versioned_name(view, self._config.registry.enable_online_feature_view_versioning))

    def _memory(self, view: "FeatureView") -> bytes:
        """The key that no entity has: all join keys, and no value."""
        key: bytes = _head(view) + self._project
        return key

    def _each(self, script: str, keys: list[bytes], head: list[Any], columns: list[list[bytes]]) -> int:
        """Runs a script over keys, each with a value of every column; returns the sum of its answers."""
        with self._errors():
            loaded = self._client.script_load(script)
            with self._client.pipeline(transaction=False) as pipeline:
                for start in range(0, len(keys), self._keys):
                    part = slice(start, start + self._keys)
                    hashes = [key + self._project for key in keys[part]]
                    values = [value for row in zip(*(each[part] for each in columns), strict=True) for value in row]
                    pipeline.execute_command("EVALSHA", loaded, len(hashes), *hashes, *head, *values)
                return sum(pipeline.execute())

    def _scan(self, view: "FeatureView") -> Iterator[list[bytes]]:
        """All serialized keys with the join keys of a view, in this project, some at a time."""
        head, size = _head(view), len(self._project)
        pattern, keys = _escaped(head) + b"*" + _escaped(self._project), []
        for key in self._client.scan_iter(match=pattern, count=1_000):
            if _end_of_values(key, head, len(view.entity_columns) or 1) == len(key) - size:
                keys.append(key[:-size])
            if len(keys) == _ROUND_TRIP:
                yield keys
                keys = []
        yield keys

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            nodes = [part for part in self._config.online_store.connection_string.split(",") if "=" not in part]
            raise OnlineStoreError(
                f"the online store, Redis at {', '.join(nodes)}, fails: {_reason(error)}",
                remedy="Start it or correct online_store in the profile, then run it again: nothing is lost",
            ) from error


def _reason(error: Exception) -> str:
    """Without the command, which redis-py puts before the cause, and which holds keys and values."""
    from fti.common.feature_store import reason
    from fti.common.masking import masked

    return masked(reason(error)).rpartition("of pipeline caused error: ")[2]


def _client(config: Any) -> Any:
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    return client_of(config, _TIMEOUTS, Retry(ExponentialBackoff(cap=1, base=0.1), 3))


def _fields(view: str, features: list[str]) -> list[bytes]:
    from feast.infra.online_stores.helpers import _mmh3

    return [_time_field(view), *(_mmh3(f"{view}:{feature}") for feature in features)]


def _time_field(view: str) -> bytes:
    return f"_ts:{view}".encode()


def _head(view: "FeatureView") -> bytes:
    from feast.feature_view import DUMMY_ENTITY_ID

    return key_head([column.name for column in view.entity_columns] or [DUMMY_ENTITY_ID])


def _end_of_values(key: bytes, head: bytes, count: int) -> int:
    """Where the project's name begins in a hash's key; -1 where there are no such values."""
    at = len(head)
    for _ in range(count):
        if len(key) < at + 8:
            return -1
        at += 8 + struct.unpack_from("<I", key, at + 4)[0]
    return at


def _escaped(text: bytes) -> bytes:
    return re.sub(rb"([*?\[\]\\^])", rb"\\\1", text)


def _stamp(instant: datetime) -> bytes:
    import numpy as np

    return stamps(np.array([micros_of(instant)]))[0]


def _micros(text: bytes) -> int:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamp = Timestamp.FromString(text)
    return int(stamp.seconds * 1_000_000 + stamp.nanos // 1000)
