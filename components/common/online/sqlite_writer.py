"""Writing to SQLite as Feast lays it out: a table for each view, a row for each key and feature.

Event times are whole seconds there: Feast's reader understands no others.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, cycle
from typing import TYPE_CHECKING, TypeVar

from fti.common.errors import OnlineStoreError
from fti.common.online.rows import Rows, micros_of
from fti.common.online.writer import Written, ignore

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from feast import FeatureView
    from feast.repo_config import RepoConfig

_BATCH = 10_000  # keys in one transaction
_BUSY = 30  # seconds to wait for another writer
_CACHE = 64_000  # KiB
_CHECKPOINT = 10_000  # pages of 4 KiB in the log before they go to their places, where many batches change the same
_PARAMETERS = 30_000  # SQLite allows 32,766 in one statement
_MEMORY = (b"", "remembered")  # no entity has an empty key

T = TypeVar("T")


class SqliteWriter:
    """A SQLite file in WAL mode: readers go on while a batch is written, and see all of it or nothing."""

    def __init__(self, config: "RepoConfig") -> None:
        from feast.infra.online_stores.sqlite import SqliteOnlineStore

        self._config = config
        self._path = SqliteOnlineStore._get_db_path(config)
        self._one_at_a_time = threading.Lock()  # the threads of a server share the connection
        with self._alone():
            self._connection = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: safe when the process is killed
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")

    def write(
        self, view: "FeatureView", rows: "pa.Table", through: datetime | None, advance: Callable[[int], None] = ignore
    ) -> Written:
        """See `OnlineWriter.write`. Times are compared by whole seconds."""
        import numpy as np

        batch = Rows.of(view, rows)
        batch = batch.part(np.array(sorted(range(len(batch)), key=batch.keys.__getitem__), dtype=np.int64))
        bound = None if through is None else _seconds(np.array([micros_of(through)]))[0]
        written = 0
        with self._alone():
            table = self._table(view)
            for start in range(0, len(batch), _BATCH):
                part = batch.part(np.arange(start, min(start + _BATCH, len(batch))))
                written += self._write(table, view, part, bound)
                advance(len(part))
        return Written(written, len(batch) - written, batch.keys)

    def strays(self, view: "FeatureView", known: Set[bytes], since: datetime | None, through: datetime) -> list[bytes]:
        """See `OnlineWriter.strays`."""
        import numpy as np

        last = _seconds(np.array([micros_of(through)]))[0]
        first = -(2**63) if since is None else _seconds(np.array([micros_of(since)]))[0]
        with self._alone():
            found = self._connection.execute(
                f"SELECT entity_key FROM {self._table(view)} WHERE entity_key != ? "
                "GROUP BY entity_key HAVING max(event_ts) BETWEEN ? AND ?",
                (_MEMORY[0], first, last),
            )
            return [key for (key,) in found if key not in known]

    def remove(self, view: "FeatureView", keys: list[bytes], through: datetime) -> int:
        """See `OnlineWriter.remove`."""
        import numpy as np

        last = _seconds(np.array([micros_of(through)]))[0]
        with self._alone():
            table = self._table(view)
            with self._transaction():
                later = self._newer(table, keys, last)
                gone = [(key,) for key in keys if key not in later]
                self._connection.executemany(f"DELETE FROM {table} WHERE entity_key = ?", gone)
        return len(gone)

    def recall(self, view: "FeatureView") -> str | None:
        """See `OnlineWriter.recall`."""
        with self._alone():
            query = f"SELECT value FROM {self._table(view)} WHERE entity_key = ? AND feature_name = ?"
            row = self._connection.execute(query, _MEMORY).fetchone()
        return None if row is None else row[0].decode()

    def remember(self, view: "FeatureView", text: str) -> None:
        """See `OnlineWriter.remember`. In the view's own table, so that it goes when Feast removes the view."""
        with self._alone():
            insert = "INSERT OR REPLACE INTO {} (entity_key, feature_name, value) VALUES (?, ?, ?)"
            self._connection.execute(insert.format(self._table(view)), (*_MEMORY, text.encode()))

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _table(self, view: "FeatureView") -> str:
        """The view's table, quoted; Feast makes it where it is missing, as in a new file."""
        from feast.infra.online_stores.helpers import compute_table_id
        from feast.infra.online_stores.sqlite import SqliteOnlineStore

        versioned = self._config.registry.enable_online_feature_view_versioning
        name = str(compute_table_id(self._config.project, view, versioned))
        known = self._connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,))
        if known.fetchone() is None:
            feast = SqliteOnlineStore()
            feast.update(self._config, [], [view], [], [], partial=True)
            feast._get_conn(self._config).close()
        return '"' + name.replace('"', '""') + '"'

    def _write(self, table: str, view: "FeatureView", batch: Rows, bound: int | None) -> int:
        """Writes one batch in one transaction; returns how many keys."""
        import numpy as np

        columns = batch.values(view)
        seconds = _seconds(batch.times)
        with self._transaction():
            newer = self._newer(table, batch.keys, min(seconds) if bound is None else bound)
            if newer:
                own = zip(batch.keys, seconds, strict=True)
                keep = [key in newer and (bound is not None or newer[key] > second) for key, second in own]
                chosen = np.flatnonzero(~np.array(keep))
                batch, seconds = batch.part(chosen), [seconds[at] for at in chosen]
                columns = {name: [values[at] for at in chosen] for name, values in columns.items()}
            known = batch.created(view)
            created: list[int | None] = [None] * len(batch) if known is None else [*_seconds(known)]
            self._connection.executemany(
                f"INSERT INTO {table} (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, value_text = NULL, "
                "vector_value = NULL, event_ts = excluded.event_ts, created_ts = excluded.created_ts",
                zip(
                    _each(batch.keys, len(columns)),
                    cycle(columns),
                    chain.from_iterable(zip(*columns.values(), strict=True)),
                    _each(seconds, len(columns)),
                    _each(created, len(columns)),
                    strict=False,  # one of them goes round
                ),
            )
        return len(batch)

    def _newer(self, table: str, keys: list[bytes], bound: int) -> dict[bytes, int]:
        """Of some keys those stored with a later event than a bound, and its time."""
        found: dict[bytes, int] = {}
        for start in range(0, len(keys), _PARAMETERS):
            part = keys[start : start + _PARAMETERS]
            found |= self._connection.execute(
                f"SELECT entity_key, max(event_ts) FROM {table} WHERE entity_key IN ({', '.join('?' * len(part))}) "
                "AND event_ts > ? GROUP BY entity_key",
                (*part, bound),
            ).fetchall()
        return found

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Nobody else writes between what is read and what is written in it."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps the connection, whose transactions and open reads are its threads' in common, for one of them."""
        try:
            with self._one_at_a_time:
                yield
        except sqlite3.Error as error:
            raise OnlineStoreError(
                f"the online store {self._path} fails: {error}",
                remedy="Free it or correct online_store in the profile, then run it again: nothing is lost",
            ) from error


def _each(items: list[T], times: int) -> Iterator[T]:
    """Every item several times over."""
    return chain.from_iterable(zip(*[items] * times, strict=True))


def _seconds(micros: "np.ndarray") -> list[int]:
    """Instants as Feast stores them: it takes UTC for local time when it writes, and back again when it reads."""
    return [int(instant.timestamp()) for instant in micros.astype("datetime64[us]").tolist()]
