"""Reading a feature service for a prediction: entity keys in, feature vectors out.

The service is resolved once, when the reader is opened. A read then is: distinct keys, serialized; one request to the
store; values decoded in bulk; what is too old or absent replaced as each view's policy says.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fti.common.errors import ConfigError
from fti.common.online.decoder import Decoder
from fti.common.online.keys import KeyType, entity_keys
from fti.common.online.plan import Key, Plan, make_plan
from fti.common.online.source import Asked, LoopSource, Source, source_of
from fti.common.online.vectors import Vectors

if TYPE_CHECKING:
    from feast import FeatureStore

Clock = Callable[[], datetime]


def open_reader(store: "FeatureStore", feature_service: str, clock: Clock) -> "OnlineReader":
    """Opens a feature service for reading; the store itself is not asked yet.

    Redis and SQLite are read directly, what else Feast supports by Feast's own reader, as is a service with on-demand
    views. Changes of the registry after this are not followed, but values whose type has changed are refused.

    Args:
        store: An open Feast store. The reader keeps it only where it needs Feast's own reader.
        feature_service: The name of the service.
        clock: What time it is, for the TTL: `Settings.clock`.

    Raises:
        FeatureStoreError: There is no such service, or it cannot be read.
    """
    from fti.common.feature_store import service_of

    service = service_of(store, feature_service)
    plan = make_plan(store, service)
    return OnlineReader(plan, source_of(store, service, plan), clock)


class OnlineReader:
    """Reads feature vectors; any number of threads and event loops may do so at once.

    Args:
        plan: What to read.
        source: The store.
        clock: What time it is.

    Attributes:
        keys: What callers must send by name: join keys and their types.
        request_data: What on-demand views take from the request besides, and Feast's name of the type.
        kinds: The columns of the vectors, in order: `number` or `object`.
        names: What the rows of the vectors' matrices are called.
        on_loop: Whether an event loop can ask, by `aread`.
    """

    def __init__(self, plan: Plan, source: Source, clock: Clock) -> None:
        self._plan, self._source, self._clock = plan, source, clock
        self._decoder = Decoder(plan)
        self.keys: dict[str, KeyType] = plan.key_types
        self.request_data = dict(plan.request_data)
        self._wanted = [*self.keys, *self.request_data]
        self.kinds, self.names = self._decoder.kinds, self._decoder.names
        self._loop_source = source if isinstance(source, LoopSource) else None
        self.on_loop = self._loop_source is not None

    def read(self, entities: Mapping[str, Sequence[Any]]) -> Vectors:
        """Reads the features of some rows.

        Args:
            entities: Join keys and request data by name, a value for each row: str, int, as `keys` says.

        Raises:
            ConfigError: A join key is absent, null or not of its type.
            OnlineStoreError: The store does not answer.
            FeatureStoreError: The store holds something else than was registered when the reader was opened.
        """
        asked = self._asked(entities)
        return self._decoder.decoded(asked, self._source.fetch(asked))

    async def aread(self, entities: Mapping[str, Sequence[Any]]) -> Vectors:
        """As `read`, for the tasks of an event loop: others go on while the store is asked. Only where `on_loop`."""
        assert self._loop_source is not None  # noqa: S101  # `on_loop` says so
        asked = self._asked(entities)
        return self._decoder.decoded(asked, await self._loop_source.afetch(asked))

    def unavailable(self, rows: int) -> Vectors:
        """What is left where the store is not to be asked: each view's policy decides, as if it had no value."""
        return self._decoder.unavailable(rows)

    def close(self) -> None:
        """Gives the connections back."""
        self._source.close()

    def _asked(self, entities: Mapping[str, Sequence[Any]]) -> Asked:
        rows = self._rows(entities)
        distinct, places = [], []
        for key in self._plan.keys:
            unique, place = _distinct(key, entities, rows)
            distinct.append(unique)
            places.append(place)
        return Asked(rows, distinct, places, entities, self._clock())

    def _rows(self, entities: Mapping[str, Sequence[Any]]) -> int:
        wanted = self._wanted
        absent = [name for name in wanted if name not in entities]
        lengths = {len(entities[name]) for name in wanted if name in entities} or set(map(len, entities.values()))
        if absent or len(lengths) != 1:
            got = f"no {', '.join(absent)}" if absent else f"columns of {sorted(lengths)} rows"
            raise ConfigError(
                f"entities of feature service {self._plan.service}: {got}", allowed=f"{', '.join(wanted)}, in each row"
            )
        return lengths.pop()


def _distinct(key: Key, entities: Mapping[str, Sequence[Any]], rows: int) -> tuple[list[bytes], list[int]]:
    """The distinct keys of some rows, serialized, and which of them each row has."""
    columns = [[""] * rows if column is None else entities[column] for column in key.columns]
    if rows == 1:
        return entity_keys(key.join_keys, key.dtypes, columns), [0]
    seen: dict[tuple[Any, ...], int] = {}
    try:
        place = [seen.setdefault(values, len(seen)) for values in zip(*columns, strict=True)]
    except TypeError:  # what cannot be hashed is no key
        entity_keys(key.join_keys, key.dtypes, columns)
        raise
    unique = list(zip(*seen, strict=True)) or [()] * len(columns)
    return entity_keys(key.join_keys, key.dtypes, unique), place
