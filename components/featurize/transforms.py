"""SQL transforms: one file for each table."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.duck import literal, quoted
from fti.common.errors import ConfigError, TransformError

if TYPE_CHECKING:
    import duckdb

TIME = "event_timestamp"
_LINE = re.compile(r"LINE (\d+):")


def find_transforms(folder: Path) -> tuple[list[Path], list[Path]]:
    """The SQL files of a folder, by name: (helpers, whose names start with an underscore; feature tables).

    Raises:
        ConfigError: There is no transform.
    """
    files = sorted(folder.glob("*.sql"))
    helpers = [file for file in files if file.stem.startswith("_")]
    tables = [file for file in files if file not in helpers]
    if not tables:
        raise ConfigError(f"{folder} holds no SQL transform", allowed="one <table>.sql for each feature table")
    return helpers, tables


def add_view(connection: "duckdb.DuckDBPyConnection", table: str, path: str | Path) -> None:
    """Makes a Parquet file visible to SQL under a name."""
    connection.execute(f"CREATE VIEW {quoted(table)} AS FROM read_parquet({literal(path)})")


def add_helper(connection: "duckdb.DuckDBPyConnection", file: Path) -> None:
    """Runs a helper once; its result is a table for the transforms, named like the file."""
    run_file(connection, file, f"CREATE TEMP TABLE {quoted(file.stem)} AS\n", "")


def select_ordered(connection: "duckdb.DuckDBPyConnection", file: Path) -> list[str]:
    """Starts a transform; its rows can then be fetched in order of time, and of all columns among equal times.

    Returns:
        The columns.

    Raises:
        TransformError: The SQL fails, or gives no `event_timestamp` in UTC. Names file and line.
    """
    described = run_file(connection, file, "DESCRIBE\n", "").fetchall()
    types = {row[0]: row[1] for row in described}
    if not types.get(TIME, "").startswith("TIMESTAMP"):
        raise TransformError(
            f"{file.name} gives {TIME} as {types.get(TIME, 'no column')}",
            allowed="TIMESTAMP or TIMESTAMP WITH TIME ZONE, in UTC: when the row's values became known",
            remedy=f"Add it to the SELECT of {file}",
        )
    order = ", ".join(quoted(column) for column in sorted(types, key=lambda column: (column != TIME, column)))
    run_file(connection, file, "FROM (\n", f"\n) ORDER BY {order}")
    return list(types)


def tables_read(connection: "duckdb.DuckDBPyConnection", file: Path) -> set[str] | None:
    """The names of tables in a file's SQL, those of its own CTEs among them; None where DuckDB cannot tell.

    Raises:
        TransformError: The file is not one statement.
    """
    sql = _statement(connection, file)
    (tree,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone() or ("{}",)
    parsed = json.loads(tree)
    return None if parsed.get("error") else set(_tables(parsed))


def _tables(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            yield str(node["table_name"])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _tables(child)


def run_file(
    connection: "duckdb.DuckDBPyConnection", file: Path, before: str, after: str
) -> "duckdb.DuckDBPyConnection":
    """Runs a file's SQL between one line before it and whatever comes after.

    Raises:
        TransformError: The SQL fails. Names file and line.
    """
    import duckdb

    sql = _statement(connection, file).rstrip().rstrip(";")
    try:
        return connection.execute(f"{before}{sql}{after}")
    except duckdb.OutOfMemoryException as error:
        raise TransformError(f"{file} needs more memory than allowed", remedy="Split it, or use a helper") from error
    except duckdb.Error as error:
        raise _at_line(file, error, lines_before=1) from error


def _statement(connection: "duckdb.DuckDBPyConnection", file: Path) -> str:
    """A file's SQL, once it is known to be one statement by itself: what stands around it cannot change that."""
    import duckdb

    try:
        sql = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TransformError(f"{file} is not UTF-8: byte {error.start} is wrong", remedy="Save it as UTF-8") from error
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise _at_line(file, error, lines_before=0) from error
    # DuckDB itself makes two statements, without text, of a PIVOT.
    if not statements or (len(statements) > 1 and any(statement.query for statement in statements)):
        raise TransformError(
            f"{file} holds {len(statements)} statements", allowed="one SELECT", remedy="Put helpers into _<name>.sql"
        )
    return sql


def _at_line(file: Path, error: Exception, *, lines_before: int) -> TransformError:
    line = _LINE.search(str(error))
    where = f"{file}:{max(1, int(line[1]) - lines_before)}" if line else str(file)
    return TransformError(f"{where}: {str(error).splitlines()[0]}", remedy="Correct the SQL")
