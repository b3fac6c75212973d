"""What the reader asks of an online store, and which store answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fti.common.online.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    from feast import FeatureService, FeatureStore


@dataclass(frozen=True)
class Fetched:
    """What a store holds for some keys.

    Attributes:
        values: For each feature of the plan, in order: the stored bytes for each distinct key of its view.
        known_at: Int64: for each view, in order, and each distinct key of it, microseconds since 1970, `NEVER` where
            no row.
        computed: What on-demand views made: name -> a value for each row of the request.
    """

    values: "list[Sequence[bytes | None]]"
    known_at: "np.ndarray"
    computed: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What is wanted of a store.

    Attributes:
        rows: How many.
        keys: For each key of the plan, the distinct entity keys, serialized.
        places: For each key of the plan, which of them each row has.
        entities: What the caller sent.
        now: The time of the read.
    """

    rows: int
    keys: list[list[bytes]]
    places: list[list[int]]
    entities: Mapping[str, Sequence[Any]]
    now: datetime


class Source(Protocol):
    """An online store."""

    def fetch(self, asked: Asked) -> Fetched:
        """Reads what is stored.

        Raises:
            OnlineStoreError: The store does not answer.
            FeatureStoreError: It was never written to, or holds something else than was registered.
        """
        ...

    def close(self) -> None:
        """Gives its connections back."""
        ...


@runtime_checkable
class LoopSource(Source, Protocol):
    """An online store that can also be asked from an event loop, which goes on meanwhile."""

    async def afetch(self, asked: Asked) -> Fetched:
        """As `Source.fetch`."""
        ...


def source_of(store: "FeatureStore", service: "FeatureService", plan: Plan) -> Source:
    """The online store of a profile: read directly where this library knows how, else by Feast's own reader."""
    from fti.common.online.feast_store import FeastSource
    from fti.common.online.redis_store import RedisSource, reads_directly
    from fti.common.online.sqlite_store import SqliteSource

    config = store.config.online_store
    kind = type(config).__name__
    if not plan.on_demand and kind == "SqliteOnlineStoreConfig":
        return SqliteSource(plan, SqliteSource.path_of(store.config))
    if not plan.on_demand and kind == "RedisOnlineStoreConfig" and reads_directly(config):
        return RedisSource(plan, config)
    return FeastSource(store, service, plan)
