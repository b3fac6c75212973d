"""Times of whatever type as UTC, and the rows of a table within a span of them."""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    import polars as pl

_DAY = timedelta(days=1)
_PARTITION, _PARTITIONED = "event_date", "event_timestamp"


def utc(column: "pl.Expr", dtype: "pl.DataType") -> "pl.Expr":
    """A column of times as UTC microseconds: naive ones are UTC, strings are ISO 8601, dates their midnight."""
    import polars as pl

    if dtype == pl.Datetime("us", "UTC"):
        return column
    if dtype == pl.String:
        return column.str.to_datetime(time_unit="us", time_zone="UTC", strict=True)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return column.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def between(values: "pl.LazyFrame", time: str, start: datetime | None, end: datetime | None) -> "pl.LazyFrame":
    """The rows of a feature table within a span of time, both ends included, reading no partition beyond it.

    Parquet's own statistics rule out files and row groups. In tables partitioned by `event_date`, the date of
    `event_timestamp`, whole folders are ruled out unopened; a day is left on both sides for dates of any time zone.

    Args:
        values: The table.
        time: Its column of times.
        start: The first instant; naive is UTC. None: from the beginning.
        end: The last instant, likewise.
    """
    import polars as pl

    schema = values.collect_schema()
    pruned = time == _PARTITIONED and schema.get(_PARTITION) == pl.Date
    if start is not None:
        start = _aware(start)
        first = max(start.date(), date.min + _DAY) - _DAY
        values = values.filter(pl.col(_PARTITION) >= first) if pruned else values
        values = values.filter(_compared(time, schema[time], start, later=True))
    if end is not None:
        end = _aware(end)
        last = min(end.date(), date.max - _DAY) + _DAY
        values = values.filter(pl.col(_PARTITION) <= last) if pruned else values
        values = values.filter(_compared(time, schema[time], end, later=False))
    return values


def _aware(instant: datetime) -> datetime:
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)


def _compared(time: str, dtype: "pl.DataType", instant: datetime, *, later: bool) -> "pl.Expr":
    """Compares in the column's own type where that is exact: statistics can be used only then."""
    import polars as pl

    column, bound = utc(pl.col(time), dtype), pl.lit(instant)
    if isinstance(dtype, pl.Datetime) and dtype.time_unit == "us":
        with suppress(OverflowError):  # at the ends of the calendar there may be no such time in the other zone
            local = instant.astimezone(ZoneInfo(dtype.time_zone or "UTC"))
            column, bound = pl.col(time), pl.lit(local if dtype.time_zone else local.replace(tzinfo=None), dtype=dtype)
    return column >= bound if later else column <= bound
