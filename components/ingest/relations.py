"""Source files as something that DuckDB can select from, typed."""

import codecs
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fti.common.duck import literal, quoted
from fti.common.errors import SourceError, StorageError
from fti.ingest.formats import CSV, PARQUET, SourceFile
from fti.ingest.text import delimiter_of, read_header, require_names, require_utf8
from fti.ingest.types import TEXT, TIMES, sniff

if TYPE_CHECKING:
    import duckdb

_JSON_TEXTS = {"VARCHAR", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "UUID"}


def typed_select(
    connection: "duckdb.DuckDBPyConnection", files: list[SourceFile], kind: str, null_values: Sequence[str]
) -> str:
    """The SQL query that reads all files, in order, with the types that all of their values have.

    Args:
        connection: Where it will run.
        files: Unpacked files of one format.
        kind: That format.
        null_values: Texts that mean missing; CSV only, the other formats have a null of their own.

    Raises:
        SourceError: The files cannot be parsed, or differ in their columns.
    """
    with source_errors(files):
        if kind == CSV:
            return _csv(connection, files, null_values)
        if kind == PARQUET:
            return _parquet(connection, files)
        return _json_lines(connection, files)


def _csv(connection: "duckdb.DuckDBPyConnection", files: list[SourceFile], null_values: Sequence[str]) -> str:
    for file in files:
        require_utf8(file)
    headers = {file.name: read_header(file) for file in files}
    columns = headers[files[0].name]
    for name, header in headers.items():
        _require_same(files[0].name, columns, name, header)
    # DuckDB's own sniffer is off: it may take a data row for the header, and looks at a sample only.
    text = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    nulls = ", ".join(literal(value) for value in null_values)
    relation = (
        f"read_csv([{_paths(files)}], auto_detect = false, header = true, columns = {{{text}}}, "
        f"delim = {literal(delimiter_of(files[0]))}, quote = '\"', escape = '\"', strict_mode = true, "
        f"nullstr = [{nulls}])"
    )
    types = sniff(connection, relation, columns)
    casts = ", ".join(f"CAST({quoted(c)} AS {kind}) AS {quoted(c)}" for c, kind in types.items())
    return f"SELECT {casts} FROM {relation}"


def _parquet(connection: "duckdb.DuckDBPyConnection", files: list[SourceFile]) -> str:
    schemas = {f.name: _schema(connection, f"SELECT * FROM read_parquet([{_paths([f])}])") for f in files}
    first = schemas[files[0].name]
    for name, schema in schemas.items():
        _require_same(files[0].name, list(first), name, list(schema))
        for column, kind in schema.items():
            if first[column] != kind:
                raise SourceError(
                    f"the column {column!r} is {first[column]} in {files[0].name} but {kind} in {name}",
                    allowed="files with the same types",
                )
    # Folders such as month=1/ are no columns: they are lost where files are downloaded.
    return f"SELECT * FROM read_parquet([{_paths(files)}], hive_partitioning = false)"


def _json_lines(connection: "duckdb.DuckDBPyConnection", files: list[SourceFile]) -> str:
    for file in files:
        require_utf8(file)
        with file.path.open("rb") as stream:
            start = stream.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        if not start.startswith(b"{"):
            what = "is one JSON array" if start.startswith(b"[") else "does not begin with an object"
            raise SourceError(f"{file.name} {what}", allowed="JSON lines: one object on each line")
    # A key that is absent is a missing value, in a row as in a whole file: hence the union.
    options = f"[{_paths(files)}], sample_size = -1, maximum_sample_files = {len(files)}, union_by_name = true"
    schema = _schema(connection, f"SELECT * FROM read_ndjson({options})")
    require_names(list(schema), files[0].name)
    # What DuckDB takes for times is read as text, and typed as in CSV; only JSON knows which values are numbers.
    texts = [column for column, kind in schema.items() if kind in _JSON_TEXTS]
    declared = {column: TEXT if column in texts else kind for column, kind in schema.items()}
    columns = ", ".join(f"{literal(column)}: {literal(kind)}" for column, kind in declared.items())
    relation = f"read_ndjson([{_paths(files)}], columns = {{{columns}}})"
    types = sniff(connection, relation, texts, TIMES)
    return f"SELECT {', '.join(_json_column(c, types.get(c, kind)) for c, kind in declared.items())} FROM {relation}"


def _json_column(column: str, kind: str) -> str:
    name = quoted(column)
    if kind == "JSON":  # of mixed types; `->>` takes text out of its quotes
        return f"{name} ->> '$' AS {name}"
    return f"CAST({name} AS {kind}) AS {name}"


def _paths(files: list[SourceFile]) -> str:
    return ", ".join(literal(file.path) for file in files)


def _schema(connection: "duckdb.DuckDBPyConnection", query: str) -> dict[str, str]:
    return {str(name): str(kind) for name, kind, *_ in connection.execute(f"DESCRIBE {query}").fetchall()}


def _require_same(first: str, columns: list[str], name: str, others: list[str]) -> None:
    if columns == others:
        return
    lacks, adds = [c for c in columns if c not in others], [c for c in others if c not in columns]
    parts = [
        f"lacks {', '.join(map(repr, lacks[:5]))}" if lacks else "",
        f"adds {', '.join(map(repr, adds[:5]))}" if adds else "",
    ]
    difference = " and ".join(filter(None, parts)) or "has them in another order"
    raise SourceError(
        f"{name} differs from {first} in its columns: it {difference}", allowed="files with the same columns"
    )


@contextmanager
def source_errors(files: list[SourceFile]) -> Iterator[None]:
    """Turns what DuckDB says about files in scratch into what a reader can use.

    Raises:
        SourceError: The data cannot be parsed.
        StorageError: There is no room to work in.
    """
    import duckdb
    import pyarrow as pa

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise StorageError(
            f"reading {files[0].name} needs more memory or scratch disk than there is: {_first_line(error)}",
            remedy="Give the step more of it, or split the source",
        ) from error
    except duckdb.IOException as error:
        if "write" in str(error) or "No space" in str(error):
            raise StorageError(f"{_first_line(error)}", remedy="Free disk space; nothing was half-written") from error
        raise SourceError(f"{_named(error, files)} cannot be read: {_first_line(error)}") from error
    except (duckdb.Error, pa.ArrowException) as error:
        raise SourceError(_explained(error, files), remedy="Mend the file, or its export") from error


def _explained(error: Exception, files: list[SourceFile]) -> str:
    text, name = str(error), _named(error, files)
    if line := re.search(r"CSV Error on Line: (\d+)", text):
        if counts := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
            return f"{name}, line {line[1]}: {counts[2]} values, where the header has {counts[1]} columns"
        if "quote" in text:
            return f"{name}, line {line[1]}: a quote that is not closed, or stands within a value"
        return f"{name}, line {line[1]}: {text.splitlines()[2] if len(text.splitlines()) > 2 else _first_line(error)}"
    return f"{name} cannot be parsed: {_first_line(error)}"


def _named(error: Exception, files: list[SourceFile]) -> str:
    mentioned = [file.name for file in files if str(file.path) in str(error)]
    return mentioned[0] if mentioned else files[0].name if len(files) == 1 else f"one of {len(files)} files"


def _first_line(error: Exception) -> str:
    return re.sub(r"^[\w ]+ Error: ", "", str(error).strip().splitlines()[0])[:300].rstrip(" .")
