"""A query of the offline store that runs when its result is asked for."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage

from fti.common.errors import FeatureStoreError
from fti.retrieve.append import write
from fti.retrieve.source import Location, exists


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]  # feast is untyped
    """What Feast runs, transforms further, and saves.

    Args:
        query: Gives the result.
        repo_path: Where relative paths of saved datasets start.
        metadata: What was asked for.
        full_feature_names: Whether features are named `view__feature`.
        on_demand_feature_views: Transformations that Feast applies to the result.
    """

    def __init__(
        self,
        query: Callable[[], pl.DataFrame],
        repo_path: Path | None,
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
    ) -> None:
        self._query, self._repo_path, self._metadata = query, repo_path, metadata
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
        """Saves the result as Parquet, whole or not at all: one file, or a folder where the path is that of no file.

        Raises:
            FeatureStoreError: The storage is of another kind, or something is there already.
            StorageError: It cannot be written.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise FeatureStoreError(f"a {type(storage).__name__} cannot hold it", allowed="SavedDatasetFileStorage")
        location = Location.at(storage.file_options, self._repo_path)
        if not allow_overwrite and exists(location):
            raise FeatureStoreError(
                f"{location.uri} holds something already", remedy="Choose another path, or set allow_overwrite=True"
            )
        write(location, self.to_arrow())
