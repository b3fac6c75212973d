"""A feature table in the offline store: rows are added as files, and taken out of the files that hold them."""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from fti.common.errors import FeatureStoreError, StorageError
from fti.common.feature_store import reason
from fti.common.files import atomic_file
from fti.common.masking import masked
from fti.featurize.transforms import TIME

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import pyarrow.fs as pafs
    from feast import FeatureStore, FeatureView


_DAY = "event_date="


class OfflineTable:
    """A table that featurize has published.

    Args:
        store: An open store.
        view: A feature view on the table.

    Raises:
        FeatureStoreError: There is no such table.
    """

    def __init__(self, store: "FeatureStore", view: "FeatureView") -> None:
        from fti.retrieve.source import Location

        self._store, self._view = store, view
        self._location: Location = Location.of(view.batch_source, store.config.repo_path)
        self._files()

    def stamp(self) -> str:
        """What changes with its files: their names, sizes and times."""
        files = sorted((name, info.size, info.mtime_ns) for name, info in self._files().items())
        return hashlib.sha256(repr(files).encode()).hexdigest()

    def read(self, since: datetime | None, schema: "pl.Schema") -> "pl.DataFrame":
        """Its rows from a time on, in the order in which the offline store reads them.

        Raises:
            FeatureStoreError: It has other columns than `schema`.
        """
        import polars as pl

        first = f"{_DAY}{since.date()}" if since else ""
        rows = schema.to_frame()
        for _, table in self._tables(name for name in self._files() if name >= first):
            if set(table.column_names) != set(schema):
                raise FeatureStoreError(
                    f"the feature table {self._location.name!r} has the columns {', '.join(table.column_names)}",
                    allowed=f"what its SQL gives: {', '.join(schema)}",
                    remedy="Run featurize first",
                )
            rows.extend(_typed(table, schema))
        return rows.filter(pl.col(TIME) >= since) if since else rows

    def append(self, rows: "pa.Table") -> None:
        """Adds rows as new files.

        Raises:
            FeatureStoreError: The rows do not fit the table.
            StorageError: It cannot be written.
        """
        from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

        config = self._store.config
        get_offline_store_from_config(config.offline_store).offline_write_batch(config, self._view, rows, None)

    def remove(self, gone: "pl.DataFrame") -> None:
        """Takes rows out of the files that hold them, each of which is replaced whole.

        Args:
            gone: Keys and times.

        Raises:
            FeatureStoreError: A file cannot be read.
            StorageError: It cannot be written.
        """
        days = {f"{_DAY}{day}" for day in gone[TIME].dt.date()}
        for name, table in self._tables(name for name in self._files() if name.rpartition("/")[0] in days):
            held = _typed(table, gone.schema)
            kept = held.with_row_index("fti:row").join(gone, on=gone.columns, how="anti", nulls_equal=True)
            if len(kept) < len(table):
                self._replace(name, table.take(kept["fti:row"].to_arrow()))

    def _tables(self, names: Iterable[str]) -> "Iterator[tuple[str, pa.Table]]":
        """The content of some files, in order."""
        import pyarrow.parquet as pq

        from fti.retrieve.source import reading

        filesystem, path = self._location.filesystem()
        for name in sorted(names):
            with reading(self._location):
                table = pq.ParquetFile(f"{path}/{name}", filesystem=filesystem).read()
            yield name, table

    def _replace(self, name: str, rows: "pa.Table") -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        filesystem, path = self._location.filesystem()
        if self._location.is_remote:
            try:
                with filesystem.open_output_stream(f"{path}/{name}") as stream:
                    pq.write_table(rows, stream, compression="zstd")
            except (OSError, pa.ArrowException) as error:
                raise StorageError(f"{path}/{name} could not be written: {masked(reason(error))}") from error
        else:
            with atomic_file(f"{path}/{name}") as scratch:
                pq.write_table(rows, scratch, compression="zstd")

    def _files(self) -> "dict[str, pafs.FileInfo]":
        """Its files by their path in the table."""
        from fti.retrieve.source import files, reading

        with reading(self._location):
            filesystem, path = self._location.filesystem()
            names = files(self._location)
            found = dict(zip(names, filesystem.get_file_info([f"{path}/{name}" for name in names]), strict=True))
        if not found:
            raise FeatureStoreError(
                f"the feature table {self._location.name!r} has no file at {self._location.uri}",
                remedy="Run featurize first",
            )
        return found


def _typed(table: "pa.Table", schema: "pl.Schema") -> "pl.DataFrame":
    """Some columns of a table, in their types."""
    import polars as pl

    return pl.DataFrame(pl.from_arrow(table.select(schema.names()))).cast(dict(schema))  # type: ignore[arg-type]
