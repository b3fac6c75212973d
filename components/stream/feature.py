"""One feature table that a stream keeps up to date, with the views on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from fti.featurize.transforms import TIME
from fti.stream.changes import Change, Computed, State, one_each, step

if TYPE_CHECKING:
    import pyarrow as pa

    from fti.stream.offline import OfflineTable
    from fti.stream.online import OnlineView

_GONE = "fti:gone"  # in waiting rows: true for the key and time of a row that is no more


@dataclass(frozen=True)
class Target:
    """Where a feature table goes.

    Attributes:
        key: The columns of the join keys of all its views.
        created: The columns of their created timestamps.
        offline: The table in the offline store.
        views: The views on it in the online store, by name.
    """

    key: Sequence[str]
    created: Sequence[str]
    offline: "OfflineTable"
    views: "Mapping[str, OnlineView]"


class Feature:
    """A feature table in memory.

    Args:
        target: Where it goes.
        rows: The table as its transform gives it now.
        at: Now.
    """

    def __init__(self, target: Target, rows: "pa.Table", at: datetime) -> None:
        import polars as pl

        self._target, self._same = target, [*target.key, TIME]
        self._state = State(one_each(rows, target.key, target.created), at, at)
        self._owed = self._state.rows.select(self._same).clear()
        self._waiting = self._state.rows.clear().with_columns(pl.lit(None, pl.Boolean).alias(_GONE))

    @property
    def views(self) -> list[str]:
        """The names of its views."""
        return list(self._target.views)

    @property
    def waiting(self) -> int:
        """How many rows wait for the offline store."""
        return len(self._waiting)

    @property
    def stamp(self) -> str:
        """What changes with the files in the offline store."""
        return self._target.offline.stamp()

    @property
    def newest(self) -> datetime | None:
        """The time of its last row."""
        newest = self._state.rows[TIME].max()
        return newest if isinstance(newest, datetime) else None

    def computed(self, rows: "pa.Table", since: datetime | None) -> Computed:
        """What its transform gave, from a time on."""
        return Computed(one_each(rows, self._target.key, self._target.created), since)

    def step(self, computed: Computed | None, floor: datetime | None, at: datetime) -> Change:
        """What follows from a new computation, or from time alone; changes nothing yet."""
        return step(self._state, computed, self._target.key, floor, at)

    def take_over(self, change: Change) -> None:
        """Goes on from a change."""
        import polars as pl

        self._state = change.state
        if len(change.touched):
            self._owed = pl.concat([self._owed, change.touched]).unique()
        if len(change.rows) or len(change.gone):
            rows = change.rows.with_columns(pl.lit(False).alias(_GONE))
            gone = change.gone.with_columns(pl.lit(True).alias(_GONE))
            posted = pl.concat([self._waiting, rows, gone], how="diagonal")
            self._waiting = posted.unique(self._same, keep="last", maintain_order=True)

    def reconcile(self, floor: datetime | None, *, trusted: bool = False, first: bool = False) -> None:
        """Finds out what of the table the offline store lacks, or has otherwise: after a start, and after a batch run.

        Args:
            floor: The earliest row to compare; None: all.
            trusted: Later rows of the offline store than the stream has given out stay: they know more.
            first: The online store may lack any of the rows, or have such whose time has not come.
        """
        import polars as pl

        held = self._target.offline.read(floor, self._state.rows.schema)
        held = held.sort(self._target.created, maintain_order=True) if self._target.created else held
        held = held.unique(self._same, keep="last", maintain_order=True)
        newest = held[TIME].max()
        assert newest is None or isinstance(newest, datetime)  # noqa: S101
        stored = max(filter(None, [self._state.shown, newest]))
        until = pl.col(TIME) <= (self._state.shown if trusted else stored)
        due, held = self._state.rows.filter(until), held.filter(until)
        rows = due.join(held, on=due.columns, how="anti", nulls_equal=True)
        gone = held.join(due, on=self._same, how="anti", nulls_equal=True).select(self._same)
        touched = pl.concat([rows.select(self._same), gone]).filter(pl.col(TIME) <= self._state.shown)
        touched = due.select(self._same) if first else touched
        self.take_over(Change(replace(self._state, stored=stored), rows, gone, touched))

    def show(self, floor: datetime | None) -> None:
        """Brings the online store up to date.

        Raises:
            FeatureStoreError: It cannot be written; it is tried again next time.
        """
        if len(self._owed):
            for view in self._target.views.values():
                view.show(self._state, self._owed, floor)
            self._owed = self._owed.clear()

    def deliver(self) -> None:
        """Writes what waits to the offline store.

        Raises:
            FeatureStoreError: The rows do not fit the table.
            StorageError: It cannot be written; what waits goes on waiting.
        """
        import polars as pl

        gone, rows = self._waiting.filter(pl.col(_GONE)), self._waiting.filter(~pl.col(_GONE)).drop(_GONE)
        if len(gone):
            self._target.offline.remove(gone.select(self._same))
        if len(rows):
            self._target.offline.append(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
        self._waiting = self._waiting.clear()
