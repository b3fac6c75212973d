"""DuckDB connections that stay within memory, work in UTC and never download anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "2GB"


@contextmanager
def connect(
    memory_limit: str = MEMORY_LIMIT, scratch: str | Path | None = None
) -> "Iterator[duckdb.DuckDBPyConnection]":
    """Opens an in-memory database that spills to disk beyond its limit.

    Args:
        memory_limit: DuckDB's own limit, such as `2GB`; the process takes some 0.3 GB more.
        scratch: Where spill files go; default the system's temporary folder.
    """
    import duckdb

    with TemporaryDirectory(prefix="fti-duckdb-", dir=scratch) as spill:
        connection = duckdb.connect(
            config={
                "memory_limit": memory_limit,
                "temp_directory": spill,
                "autoinstall_known_extensions": "false",
                "preserve_insertion_order": "true",
            }
        )
        try:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            yield connection
        finally:
            connection.close()


def quoted(name: str) -> str:
    """A SQL identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """A SQL string literal, quoted."""
    return "'" + str(text).replace("'", "''") + "'"
