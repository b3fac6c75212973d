"""Adding rows to a table that lies in a folder, as files that nobody sees before they are whole."""

import io
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fti.common.errors import FeatureStoreError, StorageError
from fti.common.feature_store import reason
from fti.common.files import atomic_dir, atomic_file
from fti.common.masking import masked
from fti.retrieve.source import Location, files, reading, schema_of
from fti.retrieve.times import utc

DAY = "event_date"
_NULL = "__HIVE_DEFAULT_PARTITION__"


def append(
    location: Location,
    table: pa.Table,
    timestamp: str,
    *,
    partition_by: Sequence[str] = (DAY,),
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Adds rows to a table: one file for each partition, whose name sorts after those that are there.

    So of rows with equal key and time, those appended last are read last, and win. Local files appear by a rename once
    all are written, those in an object store when each is complete.

    Args:
        location: A folder; made where it is absent.
        table: Rows with the table's columns in any order. A column `event_date` that only names folders may be absent:
            it is the UTC date of `timestamp`.
        timestamp: The column of event times.
        partition_by: The columns that name folders, for a table that has no file yet; others keep those they have.
        progress: Called with the rows of each file that is written.

    Raises:
        FeatureStoreError: The table is a single file, or the rows do not fit it.
        StorageError: It cannot be written.
    """
    if not location.is_folder:
        raise FeatureStoreError(
            f"{location.name!r} is the single file {location.uri}, to which nothing can be added",
            allowed="a source that is a folder of Parquet files",
            remedy="Move the file into a folder, and make that the path of the source",
        )
    with reading(location):
        names = files(location)
    parents = names[-1].split("/")[:-1] if names else [f"{name}=" for name in partition_by]
    columns = [part.partition("=")[0] for part in parents if "=" in part]
    rows = _fitted(location, table, [name for name in columns if name != DAY or DAY in table.column_names])
    parts = _partitions(location, rows, timestamp, columns)
    encoded = {_name(folder, names): _parquet(part) for folder, part in parts.items()}
    filesystem, path = location.filesystem()
    try:
        if location.is_remote:
            for name, content in encoded.items():
                _put(filesystem, f"{path}/{name}", content)
        else:
            _publish(Path(path), encoded)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"rows could not be added to {location.name!r} at {location.uri}: {masked(reason(error))}",
            remedy="Mend the cause and add them again: rows that are there twice count once",
        ) from error
    for part in parts.values():
        if progress:
            progress(len(part))


def write(location: Location, table: pa.Table) -> None:
    """Writes a table as one file, in place of whatever is there: the file itself, or `part-0.parquet` in the folder.

    Raises:
        StorageError: It cannot be written.
    """
    if location.is_remote:
        _replace(location, table)
    elif location.is_folder:
        with atomic_dir(location.uri) as scratch:
            pq.write_table(table, scratch / "part-0.parquet", compression="zstd")
    else:
        with atomic_file(location.uri) as scratch:
            pq.write_table(table, scratch, compression="zstd")


def _replace(location: Location, table: pa.Table) -> None:
    filesystem, path = location.filesystem()
    target = "part-0.parquet" if location.is_folder else ""
    try:
        _put(filesystem, f"{path}/{target}".rstrip("/"), _parquet(table))
        for name in files(location) if location.is_folder else ():
            if name != target:
                filesystem.delete_file(f"{path}/{name}")
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{location.uri} could not be written: {masked(reason(error))}") from error


def _fitted(location: Location, table: pa.Table, partitions: list[str]) -> pa.Table:
    """The rows in the columns and types of the table that is there."""
    schema = schema_of(location)
    if schema is None:
        return table
    wanted = [*schema.names, *(name for name in partitions if name not in schema.names)]
    if sorted(wanted) != sorted(table.column_names):
        raise FeatureStoreError(
            f"rows for {location.name!r} have the columns {', '.join(table.column_names)}", allowed=", ".join(wanted)
        )
    options = {"allow_time_truncate": True}  # times finer than those that are there
    columns = []
    for name in wanted:
        column = table.column(name)
        dtype = schema.field(name).type if name in schema.names else column.type
        try:
            columns.append(column.cast(options=pc.CastOptions(dtype, **options)))
        except pa.ArrowException as error:
            raise FeatureStoreError(
                f"{name} of rows for {location.name!r} is {column.type}: {reason(error)}", allowed=str(dtype)
            ) from error
    return pa.table(columns, names=wanted)


def _partitions(location: Location, rows: pa.Table, timestamp: str, columns: list[str]) -> dict[str, pa.Table]:
    """The rows of each folder, in order of time, and as they came among equal times."""
    if timestamp not in rows.column_names or rows.column(timestamp).null_count:
        raise FeatureStoreError(f"rows for {location.name!r} lack {timestamp}", allowed="a time in every row")
    frame = pl.DataFrame(pl.from_arrow(rows.select(list({timestamp, *columns} & set(rows.column_names)))))
    moment = utc(pl.col(timestamp), frame.schema[timestamp])
    day = [moment.dt.date().alias(DAY)] if DAY in columns and DAY not in frame.columns else []
    order = frame.with_columns(*day, __moment=moment).with_row_index("__row").sort("__moment", maintain_order=True)
    kept = rows.drop_columns([name for name in columns if name in rows.column_names])
    if not columns:
        return {"": kept.take(order["__row"].to_arrow())} if len(rows) else {}
    grouped = order.group_by(columns, maintain_order=True).agg("__row").sort(columns)
    return {_folder(columns, values): kept.take(pa.array(indices)) for *values, indices in grouped.iter_rows()}


def _folder(columns: list[str], values: list[Any]) -> str:
    named = (_NULL if value is None else quote(str(value), safe="") for value in values)
    return "".join(f"{column}={value}/" for column, value in zip(columns, named, strict=True))


def _name(folder: str, present: list[str]) -> str:
    """A name that no other writer gives, and that sorts after those in the folder: they start with the time."""
    name = f"part-{time.time_ns():020}-{uuid.uuid4().hex[:8]}.parquet"
    last = max((each.removeprefix(folder) for each in present if each.startswith(folder)), default="")
    # The clock of whoever wrote the last one was ahead, or the name is another's.
    return folder + (name if name > last else f"{last.removesuffix('.parquet')}_{name}")


def _parquet(table: pa.Table) -> memoryview:
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(), stream, compression="zstd", row_group_size=1_000_000)
    return stream.getbuffer()


def _put(filesystem: pafs.FileSystem, path: str, content: memoryview) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def _publish(folder: Path, encoded: dict[str, memoryview]) -> None:
    """Writes all under names that no reader looks at, then renames them."""
    scratch: dict[Path, Path] = {}
    try:
        for name, content in encoded.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch[target] = target.with_name(f".{target.name}.{os.getpid()}")
            scratch[target].write_bytes(content)
        for target, written in scratch.items():
            written.replace(target)
    finally:
        for written in scratch.values():
            written.unlink(missing_ok=True)
