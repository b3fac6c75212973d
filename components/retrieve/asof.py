"""Feast's offline store on the as-of join. Only Feast loads this module, by its name in feature_store.yaml.

Feast's own stores join every entity row with all rows of its key before they filter, and the default one loses
rows whose features are all in the future or expired, and rows that repeat.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import _get_requested_feature_views_to_features_dict
from pydantic import StrictStr

from fti.common.errors import FeatureStoreError
from fti.common.files import atomic_file
from fti.retrieve.join import asof_join, between, utc
from fti.retrieve.source import scan


class AsofOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]  # feast is untyped
    """`offline_store:` in feature_store.yaml."""

    type: StrictStr = "fti.retrieve.asof.AsofOfflineStore"


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A query that runs when its result is asked for."""

    def __init__(
        self,
        query: Callable[[], pl.DataFrame],
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
    ) -> None:
        self._query, self._metadata = query, metadata
        self._full_feature_names, self._on_demand = full_feature_names, on_demand_feature_views or []

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named `view__feature`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Transformations that Feast applies to the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._query().to_arrow(compat_level=pl.CompatLevel.oldest())

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return pd.DataFrame(self._to_arrow_internal(timeout).to_pandas())

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None
    ) -> None:
        """Saves the result as one Parquet file."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise FeatureStoreError(f"a {type(storage).__name__} cannot hold it", allowed="SavedDatasetFileStorage")
        with atomic_file(storage.file_options.uri) as scratch:
            pq.write_table(self.to_arrow(), scratch)


class AsofOfflineStore(OfflineStore):  # type: ignore[misc]
    """Parquet files and folders, local or on S3, read by Polars."""

    @staticmethod
    def get_historical_features(  # noqa: PLR0917  # Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """Point-in-time join of entity rows with features: order and repeated rows are kept, and rows without."""
        if not isinstance(entity_df, pd.DataFrame):
            raise FeatureStoreError(f"entity rows came as {type(entity_df).__name__}", allowed="a pandas DataFrame")
        at = infer_event_timestamp_from_entity_df(dict(zip(entity_df.columns, entity_df.dtypes, strict=True)))
        rows = pl.from_pandas(entity_df)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        wanted, _ = _get_requested_feature_views_to_features_dict(feature_refs, feature_views, on_demand)

        def query() -> pl.DataFrame:
            found = [
                _lookup(config, rows, at, view, names, full_names=full_feature_names) for view, names in wanted.items()
            ]
            return pl.concat([rows, *found], how="horizontal")

        times = rows.select(utc(pl.col(at), rows.schema[at]))[at]
        keys = [column for column in rows.columns if column != at]
        metadata = RetrievalMetadata(feature_refs, keys, times.min(), times.max())
        return AsofRetrievalJob(query, metadata, full_feature_names, on_demand)

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
        """The latest row of each key within a span of time, both ends included."""
        times = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]

        def query() -> pl.DataFrame:
            rows = between(scan(data_source, config), timestamp_field, start_date, end_date)
            ordered = rows.select(*join_key_columns, *feature_name_columns, *times).sort(times, maintain_order=True)
            if not join_key_columns:
                return _keyless(ordered.last()).collect()
            return ordered.unique(join_key_columns, keep="last", maintain_order=True).collect()

        return AsofRetrievalJob(query)

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
        """Every row within a span of time, both ends included."""
        times = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]

        def query() -> pl.DataFrame:
            rows = between(scan(data_source, config), timestamp_field, start_date, end_date)
            selected = rows.select(*join_key_columns, *feature_name_columns, *times)
            return (selected if join_key_columns else _keyless(selected)).collect()

        return AsofRetrievalJob(query)


def _keyless(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Feast files values that are about nothing in particular under a key of its own."""
    return rows.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))


def _lookup(
    config: RepoConfig, rows: pl.DataFrame, at: str, view: FeatureView, names: list[str], *, full_names: bool
) -> pl.DataFrame:
    source = view.batch_source
    column_of = {feature: column for column, feature in source.field_mapping.items()}
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    join_keys = [column.name for column in view.entity_columns]
    asked_by = view.projection.join_key_map
    missing = sorted({asked_by.get(key, key) for key in join_keys} - set(rows.columns))
    if missing:
        raise FeatureStoreError(
            f"the entity rows lack {', '.join(missing)}, join keys of the feature view {view.name!r}",
            remedy="Add them to the entity rows",
        )
    return asof_join(
        rows,
        scan(source, config),
        at=at,
        known_at=column_of.get(source.timestamp_field, source.timestamp_field),
        keys={asked_by.get(key, key): column_of.get(key, key) for key in join_keys},
        features={column_of.get(name, name): prefix + name for name in names},
        ttl=view.ttl,
        created=column_of.get(source.created_timestamp_column, source.created_timestamp_column) or None,
    )
