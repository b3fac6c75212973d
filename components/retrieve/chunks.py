"""A table of any size in pieces that fit in memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# Large enough for what every piece costs anew not to count, small beside what Feast and pandas need.
_BYTES = 256 << 20
_BATCHES = 6  # in each piece: columns of few parts are quick to gather from


def chunks(frame: "pl.LazyFrame", rows: int = 0) -> "Iterator[pl.DataFrame]":
    """Runs a query by Polars' streaming engine, and gathers its result into pieces.

    Args:
        frame: The query; the order of its rows is kept.
        rows: The least height of a piece (the last may be lower); its least size is 256 MB in any case.
    """
    import polars as pl

    batch_rows = max(_BYTES // _BATCHES // 8 // max(len(frame.collect_schema()), 1), 1)
    # Where filters and renamings are all pushed into it, a scan reads ahead of its reader by gigabytes. A step that
    # cannot be pushed down bounds that.
    bounded = frame.map_batches(_unchanged, streamable=True)
    held: list[pl.DataFrame] = []
    height = size = 0
    for batch in bounded.collect_batches(maintain_order=True, chunk_size=batch_rows):
        held.append(batch)
        height, size = height + len(batch), size + int(batch.estimated_size())
        if size >= _BYTES and height >= rows:
            yield _joined(held)
            height = size = 0
    if height:
        yield _joined(held)


def _unchanged(batch: "pl.DataFrame") -> "pl.DataFrame":
    return batch


def _joined(held: "list[pl.DataFrame]") -> "pl.DataFrame":
    """Empties the list before the piece is handed out, so that batches are not held beside it."""
    import polars as pl

    whole = pl.concat(held)
    held.clear()
    return whole
