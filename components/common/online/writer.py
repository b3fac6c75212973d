"""Writing to the online store, as Feast stores values and fast. Corrections win; what was streamed in since is kept."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore, FeatureView


@dataclass(frozen=True)
class Written:
    """What became of some rows.

    Attributes:
        written: How many keys got their row's values.
        kept: How many keys had newer ones.
        keys: All of these keys, serialized.
    """

    written: int
    kept: int
    keys: list[bytes]


def ignore(keys: int) -> None:
    """Shows no progress."""


class OnlineWriter(Protocol):
    """An online store to write to, from any number of threads.

    Every method raises OnlineStoreError, without secrets, where the store fails.
    """

    def write(
        self, view: "FeatureView", rows: "pa.Table", through: datetime | None, advance: Callable[[int], None] = ignore
    ) -> Written:
        """Writes the newest row of each key.

        A batch is whole for whoever reads meanwhile; a call that ends early is made right by calling it again.

        Args:
            view: The feature view.
            rows: Its join keys, features and event timestamp, by Feast's names; the created timestamp where it has one.
            through: Until when the rows are all that is known: stored values of later events are kept, all others
                replaced. None: each row's own event time, so that newer or equal wins.
            advance: Called after each batch with its number of keys.

        Raises:
            FeatureStoreError: The rows do not fit the view.
            OnlineStoreError: The store cannot be written.
            ConfigError: A key is not of its type.
        """

    def strays(self, view: "FeatureView", known: Set[bytes], since: datetime | None, through: datetime) -> list[bytes]:
        """Stored keys of a view that are not among `known`, with an event time in a span; empty if it cannot be told.

        Args:
            view: The feature view.
            known: Serialized keys.
            since: The earliest event time; None: any.
            through: The latest event time.
        """

    def remove(self, view: "FeatureView", keys: list[bytes], through: datetime) -> int:
        """Removes a view's values of some keys, unless they are of later events than `through`; says how many."""

    def recall(self, view: "FeatureView") -> str | None:
        """What was remembered with the view's values; None where they, or the whole store, were lost since."""

    def remember(self, view: "FeatureView", text: str) -> None:
        """Keeps a text with the view's values."""

    def close(self) -> None:
        """Gives the connections back."""


def open_writer(store: "FeatureStore") -> OnlineWriter:
    """Opens the online store of a feature store for writing.

    Redis and SQLite are written directly. Every other store, and SQLite set up for the search of documents, goes
    through Feast's own writer.

    Raises:
        FeatureStoreError: The profile's settings cannot be used.
    """
    from feast.infra.online_stores.redis import RedisOnlineStoreConfig
    from feast.infra.online_stores.sqlite import SqliteOnlineStoreConfig

    config = store.config.online_store
    if isinstance(config, RedisOnlineStoreConfig):
        from fti.common.online.redis_writer import RedisWriter

        return RedisWriter(store.config)
    searched = ("vector_enabled", "text_search_enabled", "enable_openai_compatible_store")
    if isinstance(config, SqliteOnlineStoreConfig) and not any(getattr(config, name, False) for name in searched):
        from fti.common.online.sqlite_writer import SqliteWriter

        return SqliteWriter(store.config)
    from fti.common.online.feast_writer import FeastWriter

    return FeastWriter(store.config)
