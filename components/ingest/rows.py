"""Rows → Parquet: from a stream of Arrow batches, or from whatever Python objects a database driver hands out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    import pyarrow as pa


ROW_GROUP = 122_880  # rows


def write_rows(reader: "pa.RecordBatchReader", path: Path) -> int:
    """Writes a stream as Parquet, in row groups of equal size, and returns the number of rows.

    The bytes depend on nothing but the rows: DuckDB's own writer cuts row groups as threads and memory allow, so that
    equal data would differ in their digest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, pending, waiting = 0, [], 0
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            pending.append(batch)
            waiting += batch.num_rows
            while waiting >= ROW_GROUP:
                table = pa.Table.from_batches(pending)
                writer.write_table(table.slice(0, ROW_GROUP).combine_chunks(), ROW_GROUP)
                pending, waiting = table.slice(ROW_GROUP).to_batches(), waiting - ROW_GROUP
                rows += ROW_GROUP
        if waiting:
            writer.write_table(pa.Table.from_batches(pending).combine_chunks(), ROW_GROUP)
    return rows + waiting


def to_arrow(names: list[str], rows: Sequence[Sequence[object]]) -> "pa.Table":
    """A batch of rows as an Arrow table, each column in the type that its values have."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True))
    return pa.table([_array(column) for column in columns], names=names)


def _array(values: Sequence[object]) -> "pa.Array":
    """Values as Arrow types them; as text where it cannot (mixed types) or should not (documents, UUIDs)."""
    import pyarrow as pa

    if not any(isinstance(value, dict | list | UUID) for value in values):
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            pass
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def unify(parts: list[Path], schemas: "list[pa.Schema]", target: Path) -> Path:
    """Joins Parquet files of a batch each into one, every column in the type that holds all of its values.

    Args:
        parts: The files, which are consumed.
        schemas: Their schemas.
        target: Where the one file goes.
    """
    import pyarrow.parquet as pq

    schema = _common_schema(schemas)
    with pq.ParquetWriter(target, schema) as writer:
        for part in parts:
            table = pq.read_table(part)
            for index, field in enumerate(schema):
                table = table.set_column(index, field, _converted(table.column(index), field.type))
            writer.write_table(table)
            part.unlink()
    return target


def _common_schema(schemas: "list[pa.Schema]") -> "pa.Schema":
    import pyarrow as pa

    fields = []
    for index, name in enumerate(schemas[0].names):
        alone = [pa.schema([schema.field(index)]) for schema in schemas]
        try:
            common = pa.unify_schemas(alone, promote_options="permissive").field(0).type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            common = pa.string()
        fields.append(pa.field(name, pa.string() if pa.types.is_null(common) else common))
    return pa.schema(fields)


def _converted(column: "pa.ChunkedArray", kind: "pa.DataType") -> "pa.ChunkedArray":
    import pyarrow as pa

    if pa.types.is_string(kind) and not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
        return pa.chunked_array([[_text(value) for value in column.to_pylist()]], pa.string())
    return column.cast(kind)
