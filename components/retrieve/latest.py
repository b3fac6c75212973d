"""The latest row of each key, from a table that need not fit in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fti.retrieve.chunks import chunks
from fti.retrieve.times import utc

if TYPE_CHECKING:
    import polars as pl

_POSITION = "__position"


def latest(values: "pl.LazyFrame", keys: Sequence[str], times: Sequence[str]) -> "pl.DataFrame":
    """The row of each key whose times are the greatest; of equal times, the last row.

    Args:
        values: The table, read once; memory is that of one row for each key.
        keys: Columns of the key. A row with a null there belongs to nothing, and is left out. None: one row in all.
        times: Columns of times that decide, the first before the second; null is the earliest.

    Returns:
        Rows of `values`, in the order in which they were read.
    """
    import polars as pl

    kept = values.collect_schema().to_frame()
    for chunk in chunks(values.drop_nulls(keys) if keys else values, rows=0):
        both = pl.concat([kept, chunk])
        moments = [utc(pl.col(name), both.schema[name]) for name in times]
        ordered = both.select(pl.row_index(_POSITION), *keys, *moments).sort(times, maintain_order=True)
        last = ordered.unique(keys, keep="last") if keys else ordered.tail(1)
        kept = both.select(pl.all().gather(last[_POSITION].sort()))
    return kept
