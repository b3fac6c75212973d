"""Reading Feast's tables in SQLite, read-only and from any number of threads.

Feast keeps one table for each view, `<project>_<view>`, with a row for each entity key and feature.
"""

import os
import sqlite3
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.online.plan import Plan, View
from fti.common.online.source import Asked, Fetched
from fti.common.online.values import NEVER

BUSY_TIMEOUT = 2.0  # seconds to wait for a writer
_AT_ONCE = 512  # keys in one statement; SQLite allows 32,766


class SqliteSource:
    """Reads the SQLite file of a profile. Each thread has a connection of its own.

    Args:
        plan: What to read.
        path: The file.
    """

    def __init__(self, plan: Plan, path: Path) -> None:
        self._plan, self._path = plan, path
        self._connections = threading.local()
        self._opened: list[sqlite3.Connection] = []

    @staticmethod
    def path_of(config: Any) -> Path:
        """The file that Feast's settings name."""
        from feast.infra.online_stores.sqlite import SqliteOnlineStore

        return Path(SqliteOnlineStore._get_db_path(config))

    def fetch(self, asked: Asked) -> Fetched:
        """See `Source.fetch`."""
        import numpy as np

        values: list[Sequence[bytes | None]] = []
        known: list[int] = []
        try:
            connection = self._connection()
            for view in self._plan.views:
                columns, times = _read(connection, f"{self._plan.project}_{view.stored_as}", view, asked.keys[view.key])
                values += columns
                known += times
        except (sqlite3.Error, OSError) as error:
            self._connections.one = None
            if "no such table" in str(error):
                raise FeatureStoreError(
                    f"the online store lacks a feature view: {error}", remedy="Apply the repository, and materialize"
                ) from error
            raise OnlineStoreError(
                f"the online store {self._path} does not answer: {error}", remedy="Materialize first, or free the file"
            ) from error
        return Fetched(values, np.array(known, dtype=np.int64))

    def close(self) -> None:
        """See `Source.close`."""
        while self._opened:
            self._opened.pop().close()
        self._connections = threading.local()

    def _connection(self) -> sqlite3.Connection:
        file = self._path.stat()
        identity = (file.st_dev, file.st_ino)  # the file may have been made anew
        kept: tuple[tuple[int, int], sqlite3.Connection] | None = getattr(self._connections, "one", None)
        if kept is None or kept[0] != identity:
            connection = sqlite3.connect(
                f"file:{quote(os.fspath(self._path.absolute()))}?mode=ro",
                uri=True,
                timeout=BUSY_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,  # closed by whoever closes the reader
                cached_statements=512,
            )
            self._opened.append(connection)
            self._connections.one = kept = (identity, connection)
        return kept[1]


def _read(
    connection: sqlite3.Connection, table: str, view: View, keys: Sequence[bytes]
) -> tuple[list[list[bytes | None]], list[int]]:
    """The features of a view for some keys, column by column, and their event times."""
    places = {key: place for place, key in enumerate(keys)}
    columns: dict[str, list[bytes | None]] = {name: [None] * len(keys) for name in view.features}
    stamps = [NEVER] * len(keys)
    for start in range(0, len(keys), _AT_ONCE):
        some = list(keys[start : start + _AT_ONCE])
        # Few different statements, so that they stay prepared.
        size = 1 << (len(some) - 1).bit_length()
        marks = ",".join("?" * size)
        name = table.replace('"', '""')
        found = connection.execute(
            f'SELECT entity_key, feature_name, value, event_ts FROM "{name}" WHERE entity_key IN ({marks})',
            some + some[-1:] * (size - len(some)),
        )
        for key, feature, value, time in found:
            place, column = places[key], columns.get(feature)
            if column is not None:
                column[place] = value
            stamps[place] = max(stamps[place], time)
    return list(columns.values()), [_microseconds(stamp) for stamp in stamps]


@lru_cache(65536)
def _microseconds(stored: int) -> int:
    """Feast writes a time in UTC as if it were local; where that is the same, this does nothing."""
    if stored == NEVER:
        return NEVER
    return int(datetime.fromtimestamp(stored).replace(tzinfo=UTC).timestamp()) * 1_000_000
