"""Reading Feast's file sources lazily: a Parquet file, or a folder of them, local or on S3."""

import glob
from pathlib import Path

import polars as pl
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from fti.common.errors import FeatureStoreError
from fti.common.feature_store import reason


def scan(source: DataSource, config: RepoConfig) -> pl.LazyFrame:
    """Opens a source without reading its rows.

    Args:
        source: A FileSource; a folder is read with its subfolders, `event_date=…` among them as a column.
        config: Relative paths start at its `repo_path`.

    Raises:
        FeatureStoreError: The source is of another kind, or holds nothing readable.
    """
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        raise FeatureStoreError(f"the source {source.name!r} is no Parquet file", allowed="FileSource with Parquet")
    uri = FileSource.get_uri_for_file_path(config.repo_path, source.path).rstrip("/")
    folder = not uri.endswith(".parquet") and not (Path(uri).is_file())
    options = {"aws_endpoint_url": source.s3_endpoint_override} if source.s3_endpoint_override else {}
    if source.s3_endpoint_override and source.s3_endpoint_override.startswith("http://"):
        options["aws_allow_http"] = "true"
    path = uri if "://" in uri else glob.escape(uri)
    try:
        frame = pl.scan_parquet(
            f"{path}/**/*.parquet" if folder else path,
            hive_partitioning=folder,
            try_parse_hive_dates=True,
            storage_options=options if "://" in uri else None,
            missing_columns="raise",
        )
        frame.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FeatureStoreError(
            f"the feature table {source.name!r} cannot be read at {uri}: {reason(error)}", remedy="Run featurize first"
        ) from error
    return frame
