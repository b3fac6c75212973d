"""The latest features into the online store, from where the last run ended."""

import contextlib
import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fti.common.errors import BusyError, ConfigError, FeatureStoreError
from fti.common.settings import Settings
from fti.materialize import changes

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore, FeatureView

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Materialized:
    """What was done for one feature view.

    Attributes:
        view: Its name.
        start: From when, UTC.
        end: Until when, UTC.
        keys: How many entities got new values.
        seconds: Wall time.
    """

    view: str
    start: datetime
    end: datetime
    keys: int
    seconds: float


def materialize(feature_repo: str, end: str, settings: Settings) -> list[Materialized]:
    """Brings the online store up to `end`: each view from where it stopped, or from the first day that has changed.

    A new view, a view whose columns have changed, and a table in an object store are read from their earliest event.

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
    with _alone(settings):
        return [_materialize(store, view, until, settings) for view in views]


def _materialize(
    store: "FeatureStore", view: "FeatureView", until: datetime | None, settings: Settings
) -> Materialized:
    started = time.monotonic()
    earliest, last = _span(store, view)
    through = view.most_recent_end_time
    table = changes.Fingerprint.of(view)
    since = table.changed_since(changes.read(view.name, settings))
    end = min(last, max(until or last, through or earliest))
    if through is None or since == changes.ALL:
        start = earliest
    else:
        start = min(through, since or through)
    keys = 0
    if start <= end and not (since is None and through and through >= end):
        keys = _pull(store, view, start, end, latest=True).num_rows
        _write(store, view, start, end)
        changes.write(view.name, table, settings)
    seconds = time.monotonic() - started
    logger.info("%s: %s keys up to %s in %.1f s", view.name, f"{keys:,}", end.isoformat(), seconds)
    return Materialized(view.name, start, end, keys, seconds)


def _write(store: "FeatureStore", view: "FeatureView", start: datetime, end: datetime) -> None:
    from fti.common.feature_store import reason

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            store.materialize(start_date=start, end_date=end, feature_views=[view.name])
    except Exception as error:
        raise FeatureStoreError(
            f"the feature view {view.name!r} could not be materialized: {reason(error)}",
            remedy="Mend the cause and run it again: it goes on where it stopped",
        ) from error


def _span(store: "FeatureStore", view: "FeatureView") -> tuple[datetime, datetime]:
    """The earliest and the latest event of a view's table."""
    import pyarrow.compute as pc

    times = _pull(store, view, None, None, latest=False).column(0)
    if not len(times):
        raise FeatureStoreError(f"the table of {view.name!r} has no row", remedy="Run featurize first")
    bounds = pc.min_max(times).as_py()
    return _aware(bounds["min"]), _aware(bounds["max"])


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _pull(
    store: "FeatureStore", view: "FeatureView", start: datetime | None, end: datetime | None, *, latest: bool
) -> "pa.Table":
    """Reads times of a view's table: of each key's latest row, or of all rows."""
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    from fti.common.feature_store import reason

    offline = get_offline_store_from_config(store.config.offline_store)
    source = view.batch_source
    column_of = {feature: column for column, feature in source.field_mapping.items()}
    keys = [column_of.get(column.name, column.name) for column in view.entity_columns] if latest else []
    created = {"created_timestamp_column": source.created_timestamp_column or None}
    pull = offline.pull_latest_from_table_or_query if latest else offline.pull_all_from_table_or_query
    try:
        return pull(
            config=store.config,
            data_source=source,
            join_key_columns=keys,
            feature_name_columns=[],
            timestamp_field=source.timestamp_field,
            start_date=start,
            end_date=end,
            **created,
        ).to_arrow()
    except FeatureStoreError:
        raise
    except Exception as error:
        raise FeatureStoreError(
            f"the table of the feature view {view.name!r} cannot be read: {reason(error)}",
            remedy="Run featurize first",
        ) from error


def _instant(end: str) -> datetime:
    try:
        instant = datetime.fromisoformat(end)
    except ValueError:
        raise ConfigError(
            f"end is {end!r}", allowed="an instant in ISO 8601, such as 2013-10-01T00:00:00Z, or nothing"
        ) from None
    return _aware(instant)


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Two runs at once would write older values over newer ones."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(settings.home / "materialize.lock", timeout=0):
            yield
    except Timeout:
        raise BusyError(
            f"another materialization is at work in {settings.home}", remedy="Wait until it has ended, then run again"
        ) from None
