"""Any source → one typed Parquet file, in bounded memory."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fti.common.duck import MEMORY_LIMIT, connect
from fti.common.errors import ConfigError, SourceError
from fti.common.files import atomic_file, sha256_of
from fti.common.settings import Settings
from fti.common.storage import find, local_copy, shown
from fti.ingest.database import Database, fetch
from fti.ingest.formats import CSV, PARQUET, SourceFile, format_of, unpack
from fti.ingest.relations import source_errors, typed_select
from fti.ingest.rows import ROW_GROUP, write_rows

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ingested:
    """What was written.

    Attributes:
        table: The table's name.
        source: Where it came from, without secrets.
        rows: Number of rows.
        bytes: Size of the Parquet file.
        schema: Column → DuckDB type.
        digest: SHA-256 of the Parquet file; the same data give the same digest.
    """

    table: str
    source: str
    rows: int
    bytes: int
    schema: dict[str, str]
    digest: str


def ingest(
    source: str,
    table: str,
    path: str | Path,
    query: str = "",
    null_values: Sequence[str] = ("",),
    *,
    settings: Settings | None = None,
    environ: Mapping[str, str] = os.environ,
    memory_limit: str = MEMORY_LIMIT,
) -> Ingested:
    """Reads a source and writes it as one Parquet file, whole or not at all.

    Args:
        source: A file or glob (CSV, JSON lines, Parquet; plain, gzip or zip) by path, `s3://`, `gs://` or
            `http(s)://`; or the SQLAlchemy URL of a database, in which `${NAME}` stands for an environment variable.
        table: What to call it.
        path: Where the Parquet file goes.
        query: The SQL query, for a database only.
        null_values: Texts in CSV that mean missing.
        settings: How object stores are reached; default from `environ`.
        environ: The environment.
        memory_limit: DuckDB's limit; more is spilled to disk.

    Raises:
        SourceError: The source cannot be parsed, has no rows, or the query fails.
        StorageError: The source cannot be read, or the output cannot be written.
        ConfigError: A query without a database or the reverse, an unset variable.
    """
    database = Database.from_url(source, environ)
    if bool(database) != bool(query.strip()):
        raise ConfigError(
            f"{database.shown} without a query" if database else f"a query for {shown(source)}, which is no database",
            allowed="a query together with a database URL such as postgresql+psycopg://user:${PASSWORD}@host/name",
        )
    with atomic_file(path) as target, TemporaryDirectory(prefix="fti-ingest-") as folder:
        scratch, name = Path(folder), database.shown if database else shown(source)
        with ExitStack() as copies:
            if database:
                files, kind = fetch(database, query, scratch), PARQUET
            else:
                files = _open(source, scratch, settings or Settings.from_env(environ), copies)
                kind = format_of(files)
            rows, schema = _write(files, kind, null_values, target, memory_limit)
        ingested = Ingested(table, name, rows, target.stat().st_size, schema, sha256_of(target))
    _log.info("ingested %s rows of %s columns from %s", f"{rows:,}", len(schema), name)
    return ingested


def _open(source: str, scratch: Path, settings: Settings, copies: ExitStack) -> list[SourceFile]:
    """Every file of the source on this machine, unpacked."""
    files = []
    for number, uri in enumerate(find(source, settings)):
        path = copies.enter_context(local_copy(uri, settings))
        if path.is_dir():
            raise SourceError(f"{shown(uri)} is a folder", remedy=f"Name its files, for instance {shown(uri)}/*.csv")
        room = scratch / str(number)
        room.mkdir()
        files += unpack(SourceFile(shown(uri), path), room)
    return files


def _write(
    files: list[SourceFile], kind: str, null_values: Sequence[str], target: Path, memory_limit: str
) -> tuple[int, dict[str, str]]:
    with connect(memory_limit) as connection:
        select = typed_select(connection, files, kind, null_values)
        with source_errors(files):
            described = connection.execute(f"DESCRIBE {select}").fetchall()
            rows = write_rows(connection.execute(select).to_arrow_reader(ROW_GROUP), target)
    if not rows:
        raise SourceError(
            f"{files[0].name} has a header but no rows" if kind == CSV else f"{files[0].name} has no rows",
            remedy="Check the export that should have filled it",
        )
    return rows, {str(column): str(column_type) for column, column_type, *_ in described}
