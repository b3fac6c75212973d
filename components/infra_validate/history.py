"""What the feature tables say was known last, at the time of each row, found without the as-of join of training.

A view's table is read through Feast's offline store. The one that counts is the latest with an event time
up to the row's time, among equals that of the latest creation, among these the one written last. No TTL is applied:
old values are written to the online store like any other, and it is for the server to refuse them; only what is older
than twice the TTL at the earliest row is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from fti.infra_validate.views import CREATED, TIME, Lookup, read_table

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from feast import FeatureStore


@dataclass(frozen=True)
class Known:
    """What was known last of each row's key.

    Attributes:
        lookup: The view.
        table: Its rows of these keys in order of time, with Feast's names and `TIME` and perhaps `CREATED`; columns
            that it lacks are null.
        found: [N]: the row of `table` that counts, -1 where there is none.
        keys: [N]: the key of each row, as the table has it.
        age: Seconds [N] from the event to the row's time; NaN where there is none.
        lacking: The features for which the table has no column.
    """

    lookup: Lookup
    table: "pl.DataFrame"
    found: "np.ndarray"
    keys: "list[tuple[Any, ...]]"
    age: "np.ndarray"
    lacking: tuple[str, ...]

    @property
    def expired(self) -> "np.ndarray":
        """Whether the value is older than the view's TTL, bool [N]."""
        ttl = self.lookup.ttl
        return self.age > (ttl.total_seconds() if ttl else float("inf"))

    def column(self, feature: str) -> list[Any]:
        """The values of a feature [N], None where there is none, whatever their age."""
        values = self.table[feature]
        return [None if at < 0 else values[int(at)] for at in self.found]


def known(store: "FeatureStore", lookup: Lookup, rows: "pl.DataFrame", time: str) -> Known:
    """Finds what was known last of each row's key.

    Args:
        store: The feature store.
        lookup: The view.
        rows: [N]: the request's keys, and the time.
        time: The column with the time.

    Raises:
        FeatureStoreError: The view's table cannot be read.
    """
    import polars as pl

    keys, asked = list(lookup.keys), list(lookup.keys.values())
    table, lacking = read_table(store, lookup, *_span(rows[time], lookup.ttl))
    wanted = rows.select(
        pl.col(column).cast(table.schema[key], strict=False).alias(key) for key, column in lookup.keys.items()
    )
    if asked:
        table = table.join(wanted.unique(), on=keys, how="semi", maintain_order="left")
    table = table.sort([name for name in (TIME, CREATED) if name in table.columns], maintain_order=True)
    every = list(wanted.iter_rows()) if asked else [()] * len(rows)
    times = _microseconds(rows[time])
    found = _latest(table, keys, every, times)
    age = _ages(_microseconds(table[TIME]), found, times)
    return Known(lookup, table, found, every, age, lacking)


def _span(times: "pl.Series", ttl: timedelta | None) -> tuple[datetime | None, datetime]:
    """Of what times the table is read: twice the TTL is enough to see that old values are refused."""
    first, last = times.min(), times.max()
    assert isinstance(first, datetime) and isinstance(last, datetime)  # noqa: S101 - the sample has no null
    return first - 2 * ttl if ttl else None, last


def _latest(
    table: "pl.DataFrame", keys: Sequence[str], asked: Sequence[tuple[Any, ...]], times: "np.ndarray"
) -> "np.ndarray":
    """The row of a table in order of time that counts for each key and time, -1 where there is none."""
    import numpy as np
    import polars as pl

    moments = _microseconds(table[TIME])
    places = {(): np.arange(len(table))}
    if keys:
        grouped = table.select(keys).with_row_index("__place").group_by(keys).agg(pl.col("__place"))
        places = {row[:-1]: np.array(row[-1]) for row in grouped.select(*keys, "__place").iter_rows()}
    events = {key: moments[its] for key, its in places.items()}
    found = np.full(len(asked), -1)
    for row, (key, moment) in enumerate(zip(asked, times, strict=True)):
        if key in places and None not in key:
            until = int(np.searchsorted(events[key], moment, side="right"))
            found[row] = places[key][until - 1] if until else -1
    return found


def _ages(moments: "np.ndarray", found: "np.ndarray", times: "np.ndarray") -> "np.ndarray":
    import numpy as np

    ages = np.full(len(found), np.nan)
    some = found >= 0
    ages[some] = (times[some] - moments[found[some]]) / 1e6
    return ages


def _microseconds(times: "pl.Series") -> "np.ndarray":
    return times.dt.epoch("us").to_numpy()
