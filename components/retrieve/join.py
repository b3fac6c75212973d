"""The as-of join: to every row, the latest values that were known at its time.

The table of values is read once, in pieces and in any order; each row keeps the best value met so far. So memory is
that of the rows asked about and of one piece, however large the table. Within a piece only times and keys are sorted,
and values are fetched for rows that have found some.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fti.retrieve.chunks import chunks
from fti.retrieve.times import between, utc

if TYPE_CHECKING:
    import polars as pl

_ROW, _TIME, _CREATED, _KEY = "__row", "__time", "__created", "__key"
_POSITION, _RANK = "__position", "__rank"
_INT64 = 1 << 63
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def asof_join(
    rows: "pl.DataFrame",
    values: "pl.LazyFrame",
    *,
    at: str,
    known_at: str,
    keys: Mapping[str, str],
    features: Mapping[str, str],
    ttl: timedelta | None = None,
    created: str | None = None,
    as_created: bool = False,
) -> "pl.DataFrame":
    """Looks up, for every row, the values known last at its time: `at - ttl <= known_at <= at`.

    Args:
        rows: The rows asked about; may repeat, in any order.
        values: The feature table; only the columns named here and the span of time needed are read.
        at: Column of `rows` with the time asked about; null finds nothing.
        known_at: Column of `values` with the time from which a row holds.
        keys: Join keys: column of `rows` -> column of `values`. None: every row of `values` is a candidate.
            A null key finds nothing.
        features: Columns of `values` to look up -> their names in the result.
        ttl: How long values hold, both ends included; None or zero: forever.
        created: Column of `values` that decides between equal times: the latest wins, null is the earliest. Without
            it, and among equals, the last row.
        as_created: Whether rows hold only from `created` on, too: late corrections stay unknown until then. A row
            without it is never found.

    Returns:
        The features alone, row by row aligned with `rows`; null where nothing was known.
    """
    import polars as pl

    schema = values.collect_schema()
    ttl = min(ttl, _LAST - _FIRST) if ttl else None
    by = [f"__key{position}" for position in range(len(keys))]
    asked = rows.select(
        pl.row_index(_ROW),
        utc(pl.col(at), rows.schema[at]).alias(_TIME),
        *(_like(rows, left, schema[right]).alias(key) for key, (left, right) in zip(by, keys.items(), strict=True)),
    )
    asked = asked.drop_nulls().sort(_TIME, maintain_order=True)
    first, last = (asked[_TIME][0], asked[_TIME][-1]) if len(asked) else (_LAST, _LAST)
    known = between(values, known_at, max(first, _FIRST + ttl) - ttl if ttl else None, last).select(
        utc(pl.col(known_at), schema[known_at]).alias(_TIME),
        *([utc(pl.col(created), schema[created]).alias(_CREATED)] if created else []),
        *(_plain(pl.col(column), schema[column]).alias(key) for key, column in zip(by, keys.values(), strict=True)),
        *(pl.col(column).alias(name) for column, name in features.items()),
    )
    known = known.drop_nulls([_TIME, *by, *([_CREATED] if created and as_created else [])])
    # Keys are numbered: whatever their types and number, they are compared as one small integer.
    numbers = asked.select(by).unique().with_row_index(_KEY) if by else None
    asked = _numbered(asked, numbers)
    found = known.drop(by).collect_schema().to_frame().clear(len(rows))
    for chunk in chunks(known, rows=len(asked)) if len(asked) else ():
        found = _update(found, asked, chunk, numbers, ttl, as_created=as_created)
        del chunk  # before the next one is gathered
    if ttl:
        fresh = rows.select(utc(pl.col(at), rows.schema[at]))[at] - found[_TIME] <= ttl
        return found.select(pl.when(fresh).then(pl.col(name)).alias(name) for name in features.values())
    return found.select(features.values())


def _update(
    found: "pl.DataFrame",
    asked: "pl.DataFrame",
    chunk: "pl.DataFrame",
    numbers: "pl.DataFrame | None",
    ttl: timedelta | None,
    *,
    as_created: bool,
) -> "pl.DataFrame":
    """Takes what a later piece of the table knows better; only for rows whose times it can concern."""
    import polars as pl

    earliest, latest = chunk[_TIME].min(), chunk[_TIME].max()
    assert isinstance(earliest, datetime) and isinstance(latest, datetime)  # noqa: S101
    start = asked[_TIME].search_sorted(earliest, "left")
    stop = asked[_TIME].search_sorted(min(latest, _LAST - ttl) + ttl, "right") if ttl else len(asked)
    times = [name for name in (_TIME, _CREATED) if name in chunk.columns]
    by = numbers.drop(_KEY).columns if numbers is not None else []
    columns = [pl.row_index(_POSITION), *by, *times]
    hits = _latest(asked[start:stop], _numbered(chunk.select(columns), numbers), as_created=as_created)
    position = pl.repeat(None, len(found), dtype=pl.UInt32, eager=True).scatter(hits[_ROW], hits[_POSITION])
    after = chunk.select(pl.col(name).gather(position) for name in found.columns)
    better = after[_TIME] >= found[_TIME]
    if _CREATED in found.columns:
        later = found[_CREATED].is_null() | (after[_CREATED] >= found[_CREATED])
        better &= (after[_TIME] > found[_TIME]) | later
    better |= found[_TIME].is_null()
    return found.select(pl.when(better).then(after[name]).otherwise(pl.col(name)).alias(name) for name in found.columns)


def _numbered(rows: "pl.DataFrame", numbers: "pl.DataFrame | None") -> "pl.DataFrame":
    """Replaces the columns of keys by their number; rows of a key that has none are left out."""
    import polars as pl

    if numbers is None:
        return rows.with_columns(pl.lit(0, pl.UInt32).alias(_KEY))
    by = numbers.drop(_KEY).columns
    return rows.join(numbers, on=by, maintain_order="left").drop(by)


def _latest(asked: "pl.DataFrame", known: "pl.DataFrame", *, as_created: bool) -> "pl.DataFrame":
    """The position in the piece of what each row finds there, null where it finds nothing; in no order."""
    import polars as pl

    known = _grouped(known.sort(_CREATED, maintain_order=True) if _CREATED in known.columns else known)
    if as_created and _CREATED in known.columns:
        # What holds from both times on: the last in order of all that hold by then, not the one that held last.
        ranked = known.with_columns(pl.row_index(_RANK), pl.max_horizontal(_TIME, _CREATED).alias(_TIME))
        holding = _grouped(ranked)
        known = holding.with_columns(known[_POSITION].gather(holding[_RANK].cum_max()))
    return _grouped(asked).join_asof(
        known.select(_TIME, _KEY, _POSITION),
        on=_TIME,
        by=_KEY,
        strategy="backward",  # of equal times the last row, so the order above decides
        check_sortedness=False,  # both are sorted; Polars cannot verify it within groups
    )


def _grouped(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Sorts by key and time, and as they came among equals. Polars joins groups that lie together much faster."""
    import polars as pl

    if rows.is_empty():
        return rows
    moment = rows[_TIME].to_physical()
    first, last = int(moment.min()), int(moment.max())  # type: ignore[arg-type]
    span = last - first + 1
    if (int(rows[_KEY].max()) + 1) * span < _INT64:  # type: ignore[arg-type]
        return rows.sort(pl.col(_KEY).cast(pl.Int64) * span + (moment - first), maintain_order=True)
    return rows.sort(_TIME, maintain_order=True).sort(_KEY, maintain_order=True)


def _like(rows: "pl.DataFrame", column: str, dtype: "pl.DataType") -> "pl.Expr":
    """A join key in the type it has in the feature table; what cannot be converted finds nothing."""
    import polars as pl

    key, given = pl.col(column), rows.schema[column]
    if given.is_float() and (dtype.is_integer() or _is_text(dtype)):
        # pandas turns integers with a gap into floats.
        key = pl.when(key == key.round()).then(key).cast(pl.Int64, strict=False)
    if isinstance(given, pl.Categorical | pl.Enum):
        key = key.cast(pl.String)
    return key.cast(pl.String if _is_text(dtype) else dtype, strict=False)


def _plain(key: "pl.Expr", dtype: "pl.DataType") -> "pl.Expr":
    import polars as pl

    return key.cast(pl.String) if _is_text(dtype) else key


def _is_text(dtype: "pl.DataType") -> bool:
    import polars as pl

    return isinstance(dtype, pl.Categorical | pl.Enum | pl.String)
