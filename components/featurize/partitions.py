"""Feature tables on disk: a folder for each UTC day, `event_date=YYYY-MM-DD/part-0.parquet`."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.errors import TransformError
from fti.featurize.transforms import TIME

if TYPE_CHECKING:
    import pyarrow as pa

MICROSECONDS_PER_DAY = 86_400_000_000


def write_partitions(batches: "Iterable[pa.RecordBatch]", folder: Path, table: str) -> tuple[int, int]:
    """Writes rows that come in order of time. Equal rows give equal bytes; only a day at a time is in memory.

    Args:
        batches: Rows with `event_timestamp`, ascending, nulls last.
        folder: An empty folder.
        table: The table's name, for messages.

    Returns:
        Rows and partitions written.

    Raises:
        TransformError: An `event_timestamp` is null.
    """
    import pyarrow as pa

    rows = partitions = 0
    day, pieces = -1, list[pa.Table]()
    for batch in batches:
        for piece_day, piece in _by_day(with_utc(pa.Table.from_batches([batch])), table):
            if piece_day != day and pieces:
                _write(pieces, folder, day)
                partitions, pieces = partitions + 1, []
            day = piece_day
            pieces.append(piece)
            rows += len(piece)
    if pieces:
        _write(pieces, folder, day)
        partitions += 1
    return rows, partitions


def with_utc(table: "pa.Table") -> "pa.Table":
    """The table with `event_timestamp` in UTC microseconds."""
    import pyarrow as pa

    position = table.schema.get_field_index(TIME)
    times = table.column(position)
    if times.type.tz is None:  # DuckDB works in UTC: a time without a zone is one
        times = times.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
    return table.set_column(position, TIME, times.cast(pa.timestamp("us", tz="UTC")))


def _by_day(table: "pa.Table", name: str) -> "Iterable[tuple[int, pa.Table]]":
    """Cuts ordered rows where the day, counted from 1970, changes."""
    import numpy as np

    if table.column(TIME).null_count:
        raise TransformError(
            f"{name} has rows without {TIME}",
            allowed="a time in every row: when its values became known",
            remedy="Give the time, or leave such rows out with WHERE",
        )
    days = table.column(TIME).cast("int64").to_numpy() // MICROSECONDS_PER_DAY
    cuts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    for start, stop in pairwise(cuts):
        if stop > start:
            yield int(days[start]), table.slice(start, stop - start)


def _write(pieces: "list[pa.Table]", folder: Path, day: int) -> None:
    from datetime import date, timedelta

    import pyarrow as pa
    import pyarrow.parquet as pq

    partition = folder / f"event_date={date(1970, 1, 1) + timedelta(days=day)}"
    partition.mkdir(parents=True)
    whole = pa.concat_tables(pieces).combine_chunks()
    pq.write_table(whole, partition / "part-0.parquet", compression="zstd", row_group_size=1_000_000)
