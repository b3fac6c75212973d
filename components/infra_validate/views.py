"""The feature views of a service, and their tables, read whole through Feast's offline store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fti.common.errors import FeatureStoreError
from fti.common.feature_store import reason
from fti.common.online.plan import resolve
from fti.retrieve.times import utc

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from feast import FeatureService, FeatureStore, FeatureView

TIME, CREATED = "__event", "__created"  # of the tables that are read here


@dataclass(frozen=True)
class Lookup:
    """A feature view, as a service asks for it.

    Attributes:
        view: The view.
        name: The prefix of its features: `<name>__<feature>`.
        features: Those that are asked for.
        keys: The view's join keys, and the column of the request in which each comes.
    """

    view: "FeatureView"
    name: str
    features: tuple[str, ...]
    keys: Mapping[str, str]

    @property
    def ttl(self) -> timedelta | None:
        """How long values may be used; None: for ever."""
        return self.view.ttl or None


def lookups(store: "FeatureStore", service: "FeatureService") -> list[Lookup]:
    """The feature views that a service reads, those behind its on-demand views too.

    Raises:
        FeatureStoreError: The registry cannot be read.
    """
    from feast.feature_view import DUMMY_ENTITY_ID

    found = []
    for view in resolve(store, service)[0]:
        asked_by = view.projection.join_key_map
        names = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
        features = tuple(feature.name for feature in view.projection.features)
        found.append(Lookup(view, view.projection.name_to_use(), features, {n: asked_by.get(n, n) for n in names}))
    return found


def read_table(
    store: "FeatureStore", lookup: Lookup, start: datetime | None, end: datetime
) -> "tuple[pl.DataFrame, tuple[str, ...]]":
    """Reads a view's table.

    Args:
        store: The feature store.
        lookup: The view.
        start: The first event time; None: the earliest.
        end: The last.

    Returns:
        Its rows with Feast's names and `TIME` and, where the source has one, `CREATED`, in UTC; columns that it lacks
        are null. And the features for which it has no column.

    Raises:
        FeatureStoreError: It cannot be read.
    """
    import polars as pl

    view = lookup.view
    features = [field.name for field in view.features]
    try:
        rows, lacking = _pull(store, lookup, features, start, end), []
    except FeatureStoreError:
        now = datetime.now(UTC)
        _pull(store, lookup, [], now, now)  # says why, where the whole table cannot be read
        lacking = [feature for feature in features if not _has(store, lookup, feature, now)]
        if not lacking:
            raise
        rows = _pull(store, lookup, [feature for feature in features if feature not in lacking], start, end)
    table = pl.DataFrame(pl.from_arrow(rows)).with_columns(pl.col(pl.Categorical).cast(pl.String))
    times = (TIME, CREATED)[: 2 if CREATED in table.columns else 1]
    return table.with_columns(
        *(utc(pl.col(name), table.schema[name]) for name in times), *(pl.lit(None).alias(name) for name in lacking)
    ).drop_nulls(TIME), tuple(lacking)


def _has(store: "FeatureStore", lookup: Lookup, feature: str, now: datetime) -> bool:
    try:
        _pull(store, lookup, [feature], now, now)
    except FeatureStoreError:
        return False
    return True


def _pull(
    store: "FeatureStore", lookup: Lookup, features: Sequence[str], start: datetime | None, end: datetime
) -> "pa.Table":
    """Reads rows through Feast's offline store; names the times `TIME` and `CREATED`."""
    from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

    source = lookup.view.batch_source
    column_of = {name: column for column, name in source.field_mapping.items()}
    created = source.created_timestamp_column or None
    try:
        found = (
            get_offline_store_from_config(store.config.offline_store)
            .pull_all_from_table_or_query(
                config=store.config,
                data_source=source,
                join_key_columns=[column_of.get(name, name) for name in lookup.keys],
                feature_name_columns=[column_of.get(name, name) for name in features],
                timestamp_field=column_of.get(source.timestamp_field, source.timestamp_field),
                created_timestamp_column=column_of.get(created, created),
                start_date=start,
                end_date=end,
            )
            .to_arrow()
        )
    except FeatureStoreError:
        raise
    except Exception as error:
        raise FeatureStoreError(
            f"the table of the feature view {lookup.view.name!r} cannot be read: {reason(error)}",
            remedy="Run featurize first",
        ) from error
    names = {**source.field_mapping, column_of.get(source.timestamp_field, source.timestamp_field): TIME}
    if created:
        names[column_of.get(created, created)] = CREATED
    return found.rename_columns([names.get(name, name) for name in found.column_names])
