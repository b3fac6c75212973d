"""Feast's offline store on the as-of join. Only Feast loads this module, by its name in feature_store.yaml.

Feast's own stores join every entity row with all rows of its key before they filter, and the default one loses
rows whose features are all in the future or expired, and rows that repeat. docs/offline-store.md lists every
difference.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import _get_requested_feature_views_to_features_dict
from pydantic import StrictStr

from fti.common.errors import FeatureStoreError
from fti.common.feature_store import reason
from fti.retrieve.append import append
from fti.retrieve.frames import entity_rows, time_of
from fti.retrieve.job import AsofRetrievalJob
from fti.retrieve.join import asof_join
from fti.retrieve.latest import latest
from fti.retrieve.source import Location, reading, scan, schema_of
from fti.retrieve.times import between, utc


class AsofOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # feast is untyped
    """`offline_store:` in feature_store.yaml."""

    type: StrictStr = "fti.retrieve.asof.AsofOfflineStore"


class AsofOfflineStore(OfflineStore):  # type: ignore[misc]
    """Parquet files and folders, local, on S3 or in Google's storage, read by Polars."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(  # noqa: PLR0917  # Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """Point-in-time join of entity rows with features: order and repeated rows are kept, and rows without.

        Args:
            config: Of the feature store.
            feature_views: The views asked for.
            feature_refs: The features asked for, `view:feature`.
            entity_df: Join keys, request data and a time: a pandas or Polars data frame, an Arrow table, or the path or
                URI of Parquet.
            registry: Where on-demand views are found.
            project: Whose.
            full_feature_names: Whether features are named `view__feature`.
            filter_by_created_timestamp: Whether values count only from their created timestamp on, too.

        Raises:
            FeatureStoreError: The entity rows cannot be used; a feature table cannot be read.
        """
        given = entity_rows(entity_df)
        at = time_of(given)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        wanted, _on_demand = _get_requested_feature_views_to_features_dict(feature_refs, feature_views, on_demand)
        columns = given.collect_schema().names()
        _require(columns, feature_views, on_demand)

        def query() -> pl.DataFrame:
            rows = _collect(given)
            names = {"full_names": full_feature_names, "as_created": filter_by_created_timestamp}
            found = [_look_up(config, rows, at, view, features, **names) for view, features in wanted.items()]
            return _side_by_side([rows, *found])

        metadata = RetrievalMetadata(feature_refs, [name for name in columns if name != at], *_span(given, at))
        return AsofRetrievalJob(query, config.repo_path, metadata, full_feature_names, on_demand)

    @staticmethod
    def pull_latest_from_table_or_query(  # noqa: PLR0917
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The latest row of each key within a span of time, both ends included; memory is that of the result."""
        times = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = [*join_key_columns, *feature_name_columns, *times]

        def rows(values: pl.LazyFrame) -> pl.DataFrame:
            spanned = between(values, timestamp_field, start_date, end_date).select(columns)
            return _keyed(latest(spanned, join_key_columns, times), join_key_columns)

        return _pull(config, data_source, rows)

    @staticmethod
    def pull_all_from_table_or_query(  # noqa: PLR0917
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row within a span of time, both ends included, in the order of the table."""
        times = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = [*join_key_columns, *feature_name_columns, *times]

        def rows(values: pl.LazyFrame) -> pl.DataFrame:
            spanned = between(values, timestamp_field, start_date, end_date).select(columns)
            return _keyed(spanned.collect(engine="streaming"), join_key_columns)

        return _pull(config, data_source, rows)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Adds rows to a view's table as new files, never touching those that are there (`fti.retrieve.append`).

        Args:
            config: Of the feature store.
            feature_view: Whose table.
            table: Rows with the columns of the table, by their own names or those that the view's source maps them to.
            progress: Called with the rows of each file that is written.

        Raises:
            FeatureStoreError: The table is a single file, or the rows do not fit it.
            StorageError: It cannot be written.
        """
        source = feature_view.batch_source
        location = Location.of(source, config.repo_path)
        columns = {feature: column for column, feature in source.field_mapping.items()}
        named = table.rename_columns([columns.get(name, name) for name in table.column_names])
        append(location, named, source.timestamp_field, progress=progress)

    @staticmethod
    def write_logged_features(
        config: RepoConfig, data: pa.Table | Path, source: LoggingSource, logging_config: LoggingConfig, registry: Any
    ) -> None:
        """Adds what a feature server has logged to the folder of its logs.

        Raises:
            FeatureStoreError: Logs go elsewhere than to a folder, or the rows do not fit it.
            StorageError: It cannot be written.
        """
        to = logging_config.destination
        if not isinstance(to, FileLoggingDestination):
            raise FeatureStoreError(f"a {type(to).__name__} cannot hold logs", allowed="FileLoggingDestination")
        rows = data if isinstance(data, pa.Table) else pq.read_table(data)
        location = Location.of(to.to_data_source(), config.repo_path)
        append(location, rows, source.get_log_timestamp_column(), partition_by=to.partition_by or ())

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """The columns of a table's files and their types; not those that only its folders' names hold."""
        location = Location.of(data_source, config.repo_path)
        schema = schema_of(location)
        if schema is None:
            raise FeatureStoreError(f"the feature table {location.name!r} has no file at {location.uri}")
        # Polars calls every text large, for which Feast knows JSON only.
        return [(column.name, str(column.type).replace("large_string", "string")) for column in schema]


def _pull(config: RepoConfig, source: DataSource, rows: Callable[[pl.LazyFrame], pl.DataFrame]) -> AsofRetrievalJob:
    location = Location.of(source, config.repo_path)

    def query() -> pl.DataFrame:
        with reading(location):
            return rows(scan(location))

    return AsofRetrievalJob(query, config.repo_path)


def _keyed(rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Feast files values that are about nothing in particular under a key of its own."""
    return rows if keys else rows.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))


def _require(columns: list[str], views: list[FeatureView], on_demand: list[OnDemandFeatureView]) -> None:
    for view in views:
        asked_by = view.projection.join_key_map
        missing = sorted({asked_by.get(key.name, key.name) for key in view.entity_columns} - set(columns))
        if missing:
            raise FeatureStoreError(
                f"the entity rows lack {', '.join(missing)}, join keys of the feature view {view.name!r}",
                remedy="Add them to the entity rows",
            )
    for view in on_demand:
        missing = sorted(view.get_request_data_schema().keys() - set(columns))
        if missing:
            raise FeatureStoreError(
                f"the entity rows lack {', '.join(missing)}, request data of the on-demand view {view.name!r}",
                remedy="Add them to the entity rows",
            )


def _collect(given: pl.LazyFrame) -> pl.DataFrame:
    try:
        return given.collect(engine="streaming")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FeatureStoreError(f"the entity rows cannot be read: {reason(error)}") from error


def _span(given: pl.LazyFrame, at: str) -> tuple[Any, Any]:
    time = utc(pl.col(at), given.collect_schema()[at])
    try:
        return given.select(time.min().alias("first"), time.max().alias("last")).collect(engine="streaming").row(0)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FeatureStoreError(
            f"{at} of the entity rows holds what is no time: {reason(error)}", allowed="times, or ISO 8601"
        ) from error


def _look_up(
    config: RepoConfig,
    rows: pl.DataFrame,
    at: str,
    view: FeatureView,
    features: list[str],
    *,
    full_names: bool,
    as_created: bool,
) -> pl.DataFrame:
    source = view.batch_source
    location = Location.of(source, config.repo_path)
    column_of = {feature: column for column, feature in source.field_mapping.items()}
    prefix = f"{view.projection.name_alias or view.name}__" if full_names else ""
    asked_by = view.projection.join_key_map
    with reading(location):
        return asof_join(
            rows,
            scan(location),
            at=at,
            known_at=column_of.get(source.timestamp_field, source.timestamp_field),
            keys={asked_by.get(key.name, key.name): column_of.get(key.name, key.name) for key in view.entity_columns},
            features={column_of.get(name, name): prefix + name for name in features},
            ttl=view.ttl,
            created=column_of.get(source.created_timestamp_column, source.created_timestamp_column) or None,
            as_created=as_created,
        )


def _side_by_side(frames: list[pl.DataFrame]) -> pl.DataFrame:
    try:
        return pl.concat(frames, how="horizontal")
    except pl.exceptions.DuplicateError as error:
        raise FeatureStoreError(
            f"a feature has the name of another column: {reason(error)}", remedy="Set full_feature_names=True"
        ) from error
