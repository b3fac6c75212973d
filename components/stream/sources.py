"""What the stream must not lose, in one DuckDB file: the rows of the source tables, and how far it has come."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.duck import connect, literal, quoted
from fti.common.errors import BusyError, StorageError
from fti.common.files import make_folder

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

CHANGED = quoted("fti:changed")  # the rows of the last upsert
REPLACED = quoted("fti:replaced")  # those that they replaced
_FILE = "stream.duckdb"


@contextmanager
def open_sources(folder: Path, *, anew: bool = False) -> "Iterator[Sources]":
    """Opens the file, for one process at a time.

    Args:
        folder: Where it is.
        anew: Start from an empty one.

    Raises:
        BusyError: Another stream has it open.
        StorageError: It is damaged, or cannot be written.
    """
    import duckdb
    from filelock import FileLock, Timeout

    make_folder(folder)
    try:
        with FileLock(folder / "lock", timeout=0), connect(scratch=folder) as connection:
            if anew:
                for file in folder.glob(f"{_FILE}*"):
                    file.unlink()
            try:
                connection.execute(f"ATTACH {literal(folder / _FILE)} AS store")
            except duckdb.Error as error:
                raise StorageError(
                    f"{folder / _FILE} cannot be opened: {str(error).splitlines()[0]}",
                    remedy="If it is damaged, start with --reseed: the sources must hold what was pushed",
                ) from error
            yield Sources(connection)
    except Timeout:
        raise BusyError(
            f"another stream is at work in {folder}", remedy="Stop it first, or push to it over HTTP"
        ) from None


class Sources:
    """The file, open.

    Args:
        connection: A database to which it is attached as `store`.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection") -> None:
        self.connection = connection
        for schema in ("source", "stream"):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS store.{schema}")
        connection.execute("CREATE TABLE IF NOT EXISTS store.stream.progress (watermark TIMESTAMPTZ)")
        connection.execute("CREATE TABLE IF NOT EXISTS store.stream.written (feature_table VARCHAR, stamp VARCHAR)")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside lies on disk afterwards, or nothing.

        Raises:
            StorageError: The disk is full, or fails.
        """
        import duckdb

        self.connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        try:
            self.connection.execute("COMMIT")
        except duckdb.Error as error:
            raise StorageError(
                f"the stream's file could not be written: {str(error).splitlines()[0]}", remedy="Free disk space"
            ) from error

    @property
    def watermark(self) -> datetime | None:
        """Until when features have been given out."""
        found = self.connection.execute("FROM store.stream.progress").fetchone()
        return found[0].astimezone(UTC) if found else None

    @watermark.setter
    def watermark(self, at: datetime) -> None:
        self.connection.execute("DELETE FROM store.stream.progress")
        self.connection.execute("INSERT INTO store.stream.progress VALUES (?)", [at])

    def columns(self, table: str) -> dict[str, str]:
        """Columns of a table and their DuckDB types; empty where there is no such table."""
        query = (
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = 'store' "
            "AND schema_name = 'source' AND table_name = ? ORDER BY column_index"
        )
        return dict(self.connection.execute(query, [table]).fetchall())

    def seed(self, table: str, path: Path, time: str, since: datetime | None) -> None:
        """Takes a table's rows from a Parquet file, from a time on."""
        where = f" WHERE {quoted(time)} >= {instant(since)}" if since else ""
        self.connection.execute(f"CREATE OR REPLACE TABLE {source(table)} AS FROM read_parquet({literal(path)}){where}")

    def upsert(self, table: str, key: tuple[str, ...], rows: "pa.Table") -> int:
        """Rows replace those of the same key; `CHANGED` then holds those that differ from what was there.

        Returns:
            How many differ.
        """
        columns = ", ".join(quoted(name) for name in rows.column_names)
        keys = ", ".join(quoted(name) for name in key)
        self.connection.register("fti:rows", rows)
        self.connection.execute(
            f'CREATE OR REPLACE TEMP TABLE {CHANGED} AS SELECT {columns} FROM "fti:rows" EXCEPT '
            f'SELECT {columns} FROM {source(table)} SEMI JOIN "fti:rows" USING ({keys})'
        )
        self.connection.unregister("fti:rows")
        (changed,) = self.connection.execute(f"SELECT count(*) FROM {CHANGED}").fetchone() or (0,)
        if changed:
            self.connection.execute(
                f"CREATE OR REPLACE TEMP TABLE {REPLACED} AS FROM {source(table)} SEMI JOIN {CHANGED} USING ({keys})"
            )
            self.remove_changed(source(table), key)
            self.connection.execute(f"INSERT INTO {source(table)} BY NAME FROM {CHANGED}")
        return int(changed)

    def earliest_change(self, time: str) -> datetime:
        """The earliest time of the rows of the last upsert, as they were and as they are."""
        both = f"SELECT {quoted(time)} AS moment FROM {CHANGED} UNION ALL SELECT {quoted(time)} FROM {REPLACED}"
        (at,) = self.connection.execute(f"SELECT min(moment)::TIMESTAMPTZ FROM ({both})").fetchone() or (None,)
        assert isinstance(at, datetime)  # noqa: S101
        return at.astimezone(UTC)

    def remove_changed(self, table: str, key: tuple[str, ...]) -> None:
        """Takes the rows out of a table (SQL) that have the key of one in `CHANGED`."""
        keys = ", ".join(quoted(name) for name in key)
        self.connection.execute(
            f"DELETE FROM {table} WHERE rowid IN "
            f"(SELECT old.rowid FROM {table} AS old SEMI JOIN {CHANGED} USING ({keys}))"
        )

    def forget(self, table: str, time: str, before: datetime) -> None:
        """Drops rows that nothing needs any more."""
        self.connection.execute(f"DELETE FROM {source(table)} WHERE {quoted(time)} < {instant(before)}")

    def stamp(self, feature_table: str) -> str | None:
        """The files of a feature table as the stream left them; None where it never wrote any."""
        query = "SELECT stamp FROM store.stream.written WHERE feature_table = ?"
        found = self.connection.execute(query, [feature_table]).fetchone()
        return str(found[0]) if found else None

    def remember(self, feature_table: str, stamp: str) -> None:
        """Notes how the stream leaves the files of a feature table."""
        self.connection.execute("DELETE FROM store.stream.written WHERE feature_table = ?", [feature_table])
        self.connection.execute("INSERT INTO store.stream.written VALUES (?, ?)", [feature_table, stamp])


def source(table: str) -> str:
    """SQL of a source table, all rows."""
    return f"store.source.{quoted(table)}"


def instant(at: datetime) -> str:
    """SQL of an instant."""
    return f"TIMESTAMPTZ {literal(at.isoformat())}"
