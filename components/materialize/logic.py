"""The latest features into the online store, from where the last run ended."""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, FeatureStoreError
from fti.common.online.writer import OnlineWriter, open_writer
from fti.common.settings import Settings
from fti.materialize.alone import alone
from fti.materialize.changes import Done, Span, Table, to_do
from fti.materialize.progress import progress
from fti.materialize.table import latest

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore, FeatureView

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Materialized:
    """What was done for one feature view.

    Attributes:
        view: Its name.
        start: From when its table was read, UTC.
        end: The latest event that the online store holds of the table, UTC.
        keys: How many entities got new values.
        seconds: Wall time.
        kept: How many entities kept values that were streamed in since.
        removed: How many entities lost theirs, because the table has no row of them any more.
    """

    view: str
    start: datetime
    end: datetime
    keys: int
    seconds: float
    kept: int = 0
    removed: int = 0


def materialize(feature_repo: str, end: str, settings: Settings) -> list[Materialized]:
    """Makes the online store hold what the offline tables say, up to `end`.

    Each view goes on where it stopped, or from the first day that has changed since. It is read from its first event
    where it is new, its columns have changed, the online store has lost it, or its files cannot be listed. Corrected
    rows replace what was materialized of them, whatever their event time; entities whose rows are gone get the values
    before those, or none; values of later events than the table has were streamed in, and stay.

    Args:
        feature_repo: Folder with `feature_store.yaml`.
        end: ISO 8601, UTC where no zone is given; "" for the latest event of each table. Never goes back.
        settings: Where state is.

    Returns:
        One entry for each view.

    Raises:
        ConfigError: `end` is no instant, or nothing is registered.
        FeatureStoreError: The registry cannot be reached, a table cannot be read or the online store written; what
            was done before stays done.
        BusyError: Another materialization is at work.
    """
    from fti.common.feature_store import open_store, registry_errors

    until = _instant(end) if end else None
    store = open_store(feature_repo, settings)
    with registry_errors(store):
        views = sorted((view for view in store.list_feature_views() if view.online), key=lambda view: str(view.name))
    if not views:
        raise ConfigError(
            "no feature view is registered", allowed="at least one, with online=True", remedy="Run featurize first"
        )
    with alone(store, settings) as held, contextlib.closing(open_writer(store)) as writer:
        return [_materialize(store, writer, view, until, settings, held=held) for view in views]


def _materialize(
    store: "FeatureStore",
    writer: OnlineWriter,
    view: "FeatureView",
    until: datetime | None,
    settings: Settings,
    *,
    held: Callable[[], None],
) -> Materialized:
    started = time.monotonic()
    done, table = Done.read(writer.recall(view)), Table.of(store, view, settings)
    if until and done.through:
        until = max(until, done.through)
    span = to_do(done, table, until)
    rows = latest(store, view, span.since, until) if span else None
    if span is None or rows is None or _nothing(view, span, rows, until):
        through = done.through or until or datetime.now(UTC)
        return _told(Materialized(view.name, through, through, 0, time.monotonic() - started))
    first, last = _bounds(view, rows, since=span.since or table.first_day, through=done.through if span.since else None)
    through = max(last, done.reached or last)
    held()
    writer.remember(view, done.reaching(through).text())
    keys, kept, removed = _write(store, writer, view, rows, span=span, through=through)
    held()
    _register(store, view, first, last)
    writer.remember(view, Done(table, last, until is None, through).text())
    return _told(Materialized(view.name, first, last, keys, time.monotonic() - started, kept, removed))


def _nothing(view: "FeatureView", span: Span, rows: "pa.Table", until: datetime | None) -> bool:
    """Whether a table has no row yet; rows that have gone since are something."""
    if len(rows) or span.since:
        return False
    if until is None:
        raise FeatureStoreError(f"the table of {view.name!r} has no row", remedy="Run featurize first")
    return True


def _bounds(
    view: "FeatureView", rows: "pa.Table", *, since: datetime | None, through: datetime | None
) -> tuple[datetime, datetime]:
    """From when the table was read, and its last event; with `since`, what was materialized before is not in `rows`."""
    from fti.common.online.rows import event_times, instant_of

    times = event_times(view, rows)
    found = [instant_of(int(time)) for time in ([times.min(), times.max()] if len(times) else [])]
    known = [each for each in (since, through) if each]
    return min(known + found), max(known + found)


def _write(
    store: "FeatureStore", writer: OnlineWriter, view: "FeatureView", rows: "pa.Table", *, span: Span, through: datetime
) -> tuple[int, int, int]:
    """Writes rows and mends what they no longer say; how many keys were written, kept and removed."""
    with progress(f"materialize {view.name}", len(rows)) as advance:
        of = writer.write(view, rows, through, advance)
    if span.only_added:
        return of.written, of.kept, 0
    strays, written, kept = set(writer.strays(view, set(of.keys), span.since, through)), of.written, of.kept
    if strays and span.since:
        older = writer.write(view, _rows_of(strays, view, latest(store, view, None, span.since)), through)
        written, kept = written + older.written, kept + older.kept
        strays -= set(older.keys)
    return written, kept, writer.remove(view, list(strays), through)


def _rows_of(keys: set[bytes], view: "FeatureView", table: "pa.Table") -> "pa.Table":
    import numpy as np

    from fti.common.online.rows import Rows

    rows = Rows.of(view, table)
    return rows.part(np.flatnonzero([key in keys for key in rows.keys])).table


def _register(store: "FeatureStore", view: "FeatureView", start: datetime, end: datetime) -> None:
    from fti.common.feature_store import registry_errors
    from fti.common.registry import changing

    with registry_errors(store), changing(store):
        store.registry.apply_materialization(view, store.project, start, end)


def _told(view: Materialized) -> Materialized:
    keys, end = f"{view.keys:,}", view.end.isoformat()
    logger.info("%s: %s keys up to %s in %.1f s", view.view, keys, end, view.seconds)
    return view


def _instant(end: str) -> datetime:
    try:
        instant = datetime.fromisoformat(end)
    except ValueError:
        raise ConfigError(
            f"end is {end!r}", allowed="an instant in ISO 8601, such as 2013-10-01T00:00:00Z, or nothing"
        ) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
