"""A table of any size in pieces that fit in memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# Large enough for what every piece costs anew not to count, small beside what Feast and pandas need.
_BYTES = 256 << 20


def chunks(frame: "pl.LazyFrame", rows: int = 0) -> "Iterator[pl.DataFrame]":
    """Runs a query by Polars' streaming engine, and gathers its result into pieces.

    Args:
        frame: The query; the order of its rows is kept.
        rows: The least height of a piece (the last may be lower); its least size is 256 MB in any case.
    """
    import polars as pl

    held: list[pl.DataFrame] = []
    height = size = 0
    for batch in frame.collect_batches(maintain_order=True, optimizations=pl.QueryOptFlags(predicate_pushdown=False)):
        held.append(batch)
        height, size = height + len(batch), size + batch.estimated_size()
        if size >= _BYTES and height >= rows:
            yield _joined(held)
            height = size = 0
    if height:
        yield _joined(held)


def _joined(held: "list[pl.DataFrame]") -> "pl.DataFrame":
    """Empties the list before the piece is handed out: batches and piece are not held both."""
    import polars as pl

    whole = pl.concat(held, rechunk=False)
    held.clear()
    return whole
