"""Rows of a SQL query, streamed from a database into Parquet."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, SourceError, StorageError
from fti.common.storage.location import SCHEMES
from fti.ingest.formats import SourceFile
from fti.ingest.rows import to_arrow, unify

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import URL, Connection

_BATCH = 50_000  # rows held in memory at a time
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Database:
    """A database to be queried.

    Attributes:
        url: Its SQLAlchemy URL, variables filled in; holds the password.
    """

    url: "URL"

    @property
    def shown(self) -> str:
        """The URL without password and options, in which secrets may stand too."""
        return self.url.set(query={}).render_as_string(hide_password=True)

    @classmethod
    def from_url(cls, source: str, environ: Mapping[str, str]) -> "Database | None":
        """Reads a database URL; None where `source` is a file.

        `${NAME}` takes its value from the environment: in any part, so that a password keeps its special characters,
        or as the whole URL. No secret needs to stand in a pipeline.

        Raises:
            ConfigError: An unset variable, or a URL that SQLAlchemy does not understand.
        """
        if whole := _VARIABLE.fullmatch(source.strip()):
            return cls(_parsed(_value(whole[1], environ), whole[0]))
        scheme, separator, _ = source.partition("://")
        if not separator or scheme in SCHEMES:
            return None
        url = _parsed(source, f"{scheme}://…")
        if url.password and not _VARIABLE.search(str(url.password)):
            raise ConfigError(
                f"the URL of the {scheme} database holds a password, which every log of the pipeline would show",
                allowed="${NAME} in its place, filled from the environment of the step",
                remedy="Put the password into an environment variable, on a cluster from a secret",
            )
        return cls(
            url.set(
                username=_filled(url.username, environ),
                password=_filled(url.password, environ),
                host=_filled(url.host, environ),
                database=_filled(url.database, environ),
                query={key: _option(value, environ) for key, value in url.query.items()},
            )
        )


def fetch(database: Database, query: str, folder: Path) -> list[SourceFile]:
    """Streams the rows of a query through a server-side cursor into Parquet files of one schema.

    Nothing is committed. Columns whose values have no common type become text.

    Args:
        database: Where to ask.
        query: One SQL query that returns rows.
        folder: An empty folder for the files.

    Raises:
        SourceError: The database refuses, the query fails, or it returns no rows.
        ConfigError: The driver is not installed.
        StorageError: The file of a SQLite database does not exist.
    """
    import pyarrow.parquet as pq

    _require_sqlite_file(database.url)
    parts, schemas = [], []
    with _connected(database) as connection:
        for number, table in enumerate(_batches(connection, query)):
            parts.append(folder / f"fetched-{number:06d}.parquet")
            pq.write_table(table, parts[-1])
            schemas.append(table.schema)
    if not parts:
        raise SourceError(f"the query of {database.shown} returns no rows", remedy="Check its conditions")
    return [SourceFile(database.shown, unify(parts, schemas, folder / "fetched.parquet"))]


def _batches(connection: "Connection", query: str) -> "Iterator[pa.Table]":
    from sqlalchemy import text

    # A colon is no parameter here: there are none to bind.
    result = connection.execution_options(stream_results=True, max_row_buffer=_BATCH).execute(
        text(query.strip().rstrip(";").replace(":", "\\:"))
    )
    if not result.returns_rows:
        raise SourceError("the query returns no table", allowed="one SELECT")
    names = list(result.keys())
    _require_distinct(names)
    for rows in result.partitions(_BATCH):
        yield to_arrow(names, rows)


@contextmanager
def _connected(database: Database) -> "Iterator[Connection]":
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

    try:
        engine = create_engine(database.url, hide_parameters=True)
    except (NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            f"{database.shown}: no driver for {database.url.drivername}",
            allowed="sqlite, postgresql+psycopg, and what SQLAlchemy finds installed",
            remedy="Install the driver in the step's image",
        ) from error
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise SourceError(
            f"{database.shown}: {_said(error.orig, database)}", remedy="Check the query and the rights"
        ) from None
    except SQLAlchemyError as error:
        raise SourceError(f"{database.shown}: {_said(error, database)}", remedy="Check the URL and the query") from None
    finally:
        engine.dispose()


def _said(error: BaseException | None, database: Database) -> str:
    said = " ".join(str(error).split("(Background on this error")[0].split())[:400]
    secrets = [database.url.password, *database.url.query.values()]
    for secret in (str(secret) for secret in secrets if secret and len(str(secret)) > 3):
        said = said.replace(secret, "***")
    return said


def _require_distinct(names: list[str]) -> None:
    twice = sorted({name for name in names if [n.casefold() for n in names].count(name.casefold()) > 1})
    if twice:
        raise SourceError(f"the query returns several columns named {twice[0]!r}", remedy="Give each a name with AS")


def _require_sqlite_file(url: "URL") -> None:
    if url.get_backend_name() != "sqlite" or (url.database or "").startswith("file:"):
        return
    if not url.database or not Path(url.database).is_file():  # SQLite would create an empty database
        raise StorageError(
            f"the SQLite database {url.database or '(in memory)'} does not exist",
            allowed="sqlite:///relative/path or sqlite:////absolute/path",
        )


def _parsed(text: str, shown: str) -> "URL":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"{shown} is not the URL of a database", allowed="dialect+driver://user:${PASSWORD}@host:port/database"
        ) from None


def _filled(text: str | None, environ: Mapping[str, str]) -> str | None:
    return text and _VARIABLE.sub(lambda match: _value(match[1], environ), text)


def _option(value: str | tuple[str, ...], environ: Mapping[str, str]) -> str | tuple[str, ...]:
    return _filled(value, environ) or "" if isinstance(value, str) else value


def _value(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ConfigError(f"the source names the variable ${{{name}}}, which is not set", remedy=f"Set {name}")
    return environ[name]
