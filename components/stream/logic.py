"""Pushed events become features by the batch path's own SQL, online at once and offline soon after.

A push goes through four steps, of which the first two are one transaction on disk:
1. its rows replace those of the same key in the source tables;
2. the transforms that read the table run again: which feature rows are new, other or no more?
3. the latest values of the keys concerned go to the online store;
4. when it is due, what has changed goes to the offline store.
What fails after the second is done again by the next push. After a crash the offline store shows what it lacks: the
features follow from the source tables. So nothing is lost, and nothing counts twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, FeatureStoreError, FtiError
from fti.stream.changes import Computed
from fti.stream.compute import Computation
from fti.stream.events import Event, Judge, Rejected, typed
from fti.stream.feature import Feature, Target
from fti.stream.plan import Plan
from fti.stream.sources import Sources
from fti.validate.contract import Contract

if TYPE_CHECKING:
    import pyarrow as pa

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Pushed:
    """What became of a push.

    Attributes:
        accepted: How many events keep their contract.
        rejected: The others.
        rows: Feature view -> rows that are new, other than before, or no more.
        watermark: Until when features are given out.
    """

    accepted: int
    rejected: tuple[Rejected, ...]
    rows: Mapping[str, int]
    watermark: datetime


class Stream:
    """Feature tables that follow events. For one thread; `fti.stream.opening.open_stream` makes one.

    Args:
        sources: The source tables; as of its watermark.
        contracts: By table.
        plan: How features depend on tables.
        targets: Where each feature table goes.
        clock: Tells the time.
        flush_every: How long rows may wait for the offline store, so that its files do not become too many.
    """

    def __init__(
        self,
        sources: Sources,
        contracts: Mapping[str, Contract],
        plan: Plan,
        targets: Mapping[str, Target],
        *,
        clock: Clock,
        flush_every: timedelta,
    ) -> None:
        self._sources, self._contracts, self._plan = sources, contracts, plan
        self._clock, self._flush_every = clock, flush_every
        self._computation = Computation(sources, plan)
        self._judges: dict[str, Judge] = {}
        self._watermark = self._flushed = sources.watermark or _aware(clock())
        computed = self._computation.features({name: self._floor(name, self._watermark) for name in plan.transforms})
        self._features = {name: Feature(targets[name], rows, self._watermark) for name, rows in computed.items()}
        self._resume()

    @property
    def tables(self) -> list[str]:
        """The tables that can be pushed to."""
        return list(self._contracts)

    @property
    def watermark(self) -> datetime:
        """Until when features are given out, UTC."""
        return self._watermark

    @property
    def waiting(self) -> int:
        """How many feature rows wait for the offline store."""
        return sum(feature.waiting for feature in self._features.values())

    def push(self, table: str, events: Sequence[Event], at: datetime | None = None) -> Pushed:
        """Takes in events: whole rows of a table, each in place of the one of the same key.

        Pushing the same events again changes nothing.

        Args:
            table: The source table.
            events: Rows: column -> value. A column that is not given is null.
            at: Now; default what the clock says. Never goes back.

        Raises:
            ConfigError: There is no such table.
            SourceError: A field is unknown or of the wrong type; nothing was taken.
            ContractError: The contract does not suit a stream; nothing was taken.
            TransformError: The SQL fails on these rows; nothing was taken.
            StorageError: The rows could not be kept; nothing was taken.
            FeatureStoreError: The rows are kept, but not all of their features could be written: they will be.
        """
        if table not in self._contracts:
            raise ConfigError(f"there is no table {table!r}", allowed=", ".join(self._contracts))
        return self._step(at, table, typed(self._contracts[table], events))

    def tick(self, at: datetime | None = None) -> Pushed:
        """Lets time pass: gives out the features whose time has come, as when a flight leaves a window.

        Args:
            at: Now; default what the clock says. Never goes back.

        Raises:
            FeatureStoreError: Not all features could be written: they will be.
            StorageError: The state could not be kept.
        """
        return self._step(at)

    def flush(self) -> None:
        """Writes to the offline store what waits for it.

        Raises:
            FeatureStoreError: A store cannot be written; what waits goes on waiting.
            StorageError: The same, of a disk or an object store.
        """
        for name, feature in self._features.items():
            if feature.stamp != self._sources.stamp(name):  # a batch run has replaced the table
                feature.reconcile(self._floor(name, self._watermark))
            if feature.waiting:
                feature.show(self._floor(name, self._watermark))  # what is offline counts as online after a crash
                feature.deliver()
                self._remember(name)
        self._flushed = self._watermark

    def _resume(self) -> None:
        """Goes on from what the stores hold. A batch run that replaced a table meanwhile knows more than the stream."""
        first = self._sources.watermark is None
        for name, feature in self._features.items():
            replaced = not first and self._sources.stamp(name) != feature.stamp
            feature.reconcile(self._floor(name, self._watermark), trusted=replaced, first=first)
            self._remember(name)
        with self._sources.transaction():
            self._sources.watermark = self._watermark

    def _remember(self, feature_table: str) -> None:
        with self._sources.transaction():
            self._sources.remember(feature_table, self._features[feature_table].stamp)

    def _step(self, at: datetime | None, table: str = "", events: "pa.Table | None" = None) -> Pushed:
        now = max(_aware(at or self._clock()), self._watermark)
        accepted, rejected = 0, tuple[Rejected, ...]()
        computed: dict[str, Computed] = {}
        judge = self._judge(table) if table else None
        with self._sources.transaction():
            if judge and events is not None:
                rows, rejected = judge.split(events, now - self._plan.late)
                accepted = len(events) - len(rejected)
                if self._sources.upsert(table, judge.key, rows):
                    computed = self._computed(table, judge, now)
            changes = {
                name: feature.step(computed.get(name), self._floor(name, now), now)
                for name, feature in self._features.items()
            }
            self._forget(now)
            self._sources.watermark = now
        self._watermark = now
        for name, change in changes.items():
            self._features[name].take_over(change)
        self._write_out()
        counts = {name: len(change.rows) + len(change.gone) for name, change in changes.items()}
        written = {view: count for name, count in counts.items() if count for view in self._features[name].views}
        return Pushed(accepted, rejected, written, now)

    def _computed(self, table: str, judge: Judge, now: datetime) -> dict[str, Computed]:
        """The feature tables that a table has a part in, from where its changed rows may change them."""
        self._computation.follow(table, judge.key)
        floors = {name: self._floor(name, now) for name in self._plan.readers(table)}
        timed = self._plan.tables.get(table)
        if timed:
            changed = self._sources.earliest_change(timed.column) - timed.early
            for name, floor in floors.items():
                newest = self._features[name].newest  # a row may also add feature rows after all there are
                floors[name] = max(floor, min(changed, newest)) if floor and newest else floor
        rows = self._computation.features(floors)
        return {name: self._features[name].computed(rows[name], floor) for name, floor in floors.items()}

    def _judge(self, table: str) -> Judge:
        if table not in self._judges:
            timed = self._plan.tables.get(table)
            self._judges[table] = Judge(self._sources.connection, self._contracts[table], timed.column if timed else "")
        return self._judges[table]

    def _write_out(self) -> None:
        try:
            for name, feature in self._features.items():
                feature.show(self._floor(name, self._watermark))
            if self._watermark - self._flushed >= self._flush_every:
                self.flush()
        except FtiError as error:
            raise FeatureStoreError(
                f"what was pushed is kept, but not all features could be written: {error.got}",
                remedy="Mend the store: they follow with the next push or tick",
            ) from error

    def _floor(self, feature_table: str, at: datetime) -> datetime | None:
        return self._plan.floor(self._plan.transforms[feature_table], at)

    def _forget(self, at: datetime) -> None:
        """Once a day, drops rows of the source tables that nothing needs any more."""
        if at.date() == self._watermark.date():
            return
        for table, timed in self._plan.tables.items():
            horizon = self._plan.horizon(table, at)
            if horizon:
                self._sources.forget(table, timed.column, horizon)
                self._computation.forget(table, timed.column, horizon)


def _aware(at: datetime) -> datetime:
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
