"""The as-of join: to every row, the latest values that were known at its time."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

_ROW, _TIME = "__row", "__time"


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
        created: Column of `values` that decides between equal times: the latest wins. Without it, the last row.

    Returns:
        The features alone, row by row aligned with `rows`; null where nothing was known.
    """
    import polars as pl

    by = [f"__key{position}" for position in range(len(keys))]
    schema = values.collect_schema()
    asked = rows.select(
        pl.row_index(_ROW),
        utc(pl.col(at), rows.schema[at]).alias(_TIME),
        *(_like(rows, left, schema[right]).alias(key) for key, (left, right) in zip(by, keys.items(), strict=True)),
    ).drop_nulls()
    known = _known(
        values,
        asked,
        known_at=known_at,
        keys=dict(zip(by, keys.values(), strict=True)),
        features=features,
        ttl=ttl,
        created=created,
    )
    found = asked.sort(_TIME, _ROW).join_asof(
        known,
        on=_TIME,
        by=by or None,
        strategy="backward",
        tolerance=ttl or None,
        check_sortedness=False,  # both are sorted above; Polars cannot verify it within groups
    )
    aligned = rows.select(pl.row_index(_ROW)).join(found, on=_ROW, how="left", maintain_order="left")
    return aligned.select(features.values())


def utc(column: "pl.Expr", dtype: "pl.DataType") -> "pl.Expr":
    """A column of times as UTC microseconds: naive ones are UTC, strings are ISO 8601, dates their midnight."""
    import polars as pl

    if dtype == pl.String:
        return column.str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def between(values: "pl.LazyFrame", time: str, start: datetime | None, end: datetime | None) -> "pl.LazyFrame":
    """The rows of a feature table within a span of time, both ends included, reading no partition beyond it.

    A table partitioned by `event_date` (the UTC date of `event_timestamp`) is pruned by it.
    """
    import polars as pl

    schema = values.collect_schema()
    moment = utc(pl.col(time), schema[time])
    pruned = time == "event_timestamp" and schema.get("event_date") == pl.Date
    if start is not None:
        values = values.filter(pl.col("event_date") >= start.date()) if pruned else values
        values = values.filter(moment >= start)
    if end is not None:
        values = values.filter(pl.col("event_date") <= end.date()) if pruned else values
        values = values.filter(moment <= end)
    return values


def _known(
    values: "pl.LazyFrame",
    asked: "pl.DataFrame",
    *,
    known_at: str,
    keys: Mapping[str, str],
    features: Mapping[str, str],
    ttl: timedelta | None,
    created: str | None,
) -> "pl.DataFrame":
    """What could be found at all: sorted by time, one row for each key and time."""
    import polars as pl

    schema = values.collect_schema()
    never = datetime.max.replace(tzinfo=UTC)
    first, last = (asked[_TIME].min(), asked[_TIME].max()) if len(asked) else (never, never)
    assert isinstance(first, datetime) and isinstance(last, datetime)  # noqa: S101
    selected = between(values, known_at, first - ttl if ttl else None, last).select(
        utc(pl.col(known_at), schema[known_at]).alias(_TIME),
        *(_plain(pl.col(column), schema[column]).alias(key) for key, column in keys.items()),
        *(pl.col(column).alias(name) for column, name in features.items()),
        *([utc(pl.col(created), schema[created]).alias("__created")] if created else []),
    )
    ordered = selected.drop_nulls([_TIME, *keys]).sort(_TIME, *(["__created"] if created else []), maintain_order=True)
    latest = ordered.unique([_TIME, *keys], keep="last", maintain_order=True)
    return latest.collect().select(_TIME, *keys, *features.values())


def _like(rows: "pl.DataFrame", column: str, dtype: "pl.DataType") -> "pl.Expr":
    """A join key in the type it has in the feature table; what cannot be converted finds nothing."""
    import polars as pl

    key = pl.col(column)
    if rows.schema[column].is_float() and dtype.is_integer():
        # pandas turns integers with a gap into floats.
        return pl.when(key == key.round()).then(key).cast(dtype, strict=False)
    if isinstance(rows.schema[column], pl.Categorical | pl.Enum):
        key = key.cast(pl.String)
    return key.cast(pl.String if _is_text(dtype) else dtype, strict=False)


def _plain(key: "pl.Expr", dtype: "pl.DataType") -> "pl.Expr":
    import polars as pl

    return key.cast(pl.String) if _is_text(dtype) else key


def _is_text(dtype: "pl.DataType") -> bool:
    import polars as pl

    return isinstance(dtype, pl.Categorical | pl.Enum | pl.String)
