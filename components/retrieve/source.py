"""Where Parquet tables lie, and reading them lazily: a file or a folder, local, on S3 or in Google's storage."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileOptions, FileSource

from fti.common.errors import FeatureStoreError, FtiError
from fti.common.feature_store import reason
from fti.common.masking import masked

_RETRIES = 5  # with growing pauses: a store that answers 503 gets some seconds to recover
_GCS_EMULATOR = "STORAGE_EMULATOR_HOST"
_HIDDEN = (".", "_")


@dataclass(frozen=True)
class Location:
    """Where a table lies.

    Attributes:
        name: What messages call it.
        uri: Path or URI, without a slash at its end.
        endpoint: Of an S3 store, where it is not the environment's.
        credentials: `AWS_…` by name, where they are not the environment's. Never shown.
    """

    name: str
    uri: str
    endpoint: str = ""
    credentials: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, source: DataSource | None, repo_path: Path | None) -> "Location":
        """Where a source's table lies. Relative paths start at the repository.

        Raises:
            FeatureStoreError: The source is of another kind.
        """
        if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
            name = source.name if source else "of the feature view"
            raise FeatureStoreError(f"the source {name!r} is no Parquet file", allowed="FileSource with Parquet")
        return cls.at(source.file_options, repo_path, source.name, source.resolve_credentials())

    @classmethod
    def at(
        cls, options: FileOptions, repo_path: Path | None, name: str = "", credentials: dict[str, str] | None = None
    ) -> "Location":
        """Where Feast's file options point to."""
        uri = FileSource.get_uri_for_file_path(repo_path, options.uri).rstrip("/")
        return cls(name or uri, uri, options.s3_endpoint_override, credentials or {})

    @property
    def is_remote(self) -> bool:
        """Whether it is in an object store."""
        return "://" in self.uri

    @property
    def is_folder(self) -> bool:
        """Whether it is, or will be, a folder of files."""
        return not self.uri.endswith(".parquet") and not (not self.is_remote and Path(self.uri).is_file())

    @property
    def pattern(self) -> str:
        """The glob of its files."""
        path = self.uri if self.is_remote else glob.escape(self.uri)
        return f"{path}/**/*.parquet" if self.is_folder else path

    @property
    def storage_options(self) -> dict[str, str | int] | None:
        """How Polars reaches it."""
        if not self.is_remote:
            return None
        options: dict[str, str | int] = {name.lower(): value for name, value in self.credentials.items()}
        options["max_retries"] = _RETRIES
        if self.endpoint:
            options["aws_endpoint_url"] = self.endpoint
        if self.endpoint.startswith("http://"):
            options["aws_allow_http"] = "true"
        return options

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """How Arrow reaches it, for listing and writing; and its path there."""
        if not self.is_remote:
            return pafs.LocalFileSystem(), self.uri
        scheme, path = self.uri.split("://", 1)
        if scheme == "s3":
            return self._s3(), path
        emulator = os.environ.get(_GCS_EMULATOR)
        if scheme == "gs" and emulator:
            host = emulator.removeprefix("http://")
            return pafs.GcsFileSystem(anonymous=True, scheme="http", endpoint_override=host), path
        filesystem, path = pafs.FileSystem.from_uri(self.uri)
        return filesystem, path

    def _s3(self) -> pafs.FileSystem:
        names = {
            "access_key": "AWS_ACCESS_KEY_ID",
            "secret_key": "AWS_SECRET_ACCESS_KEY",
            "session_token": "AWS_SESSION_TOKEN",
            "region": "AWS_DEFAULT_REGION",
        }
        options = {option: self.credentials[name] for option, name in names.items() if name in self.credentials}
        endpoint = self.endpoint or os.environ.get("AWS_ENDPOINT_URL")  # Arrow does not look there
        if endpoint:
            options["endpoint_override"] = endpoint
        return pafs.S3FileSystem(
            **options, retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_RETRIES), connect_timeout=10
        )


def scan(location: Location) -> pl.LazyFrame:
    """Opens a table without reading its rows.

    Files are read in order of their paths. Folders named `column=value` become columns, whatever the column; files of
    other types or with columns missing are refused when they are met, further columns of some are not seen.

    Raises:
        FeatureStoreError: There is nothing, or nothing readable.
    """
    with reading(location):
        if not location.is_remote and location.is_folder:
            _refuse_empty(location)
        frame = pl.scan_parquet(
            location.pattern,
            hive_partitioning=location.is_folder,
            try_parse_hive_dates=True,
            storage_options=location.storage_options,
            missing_columns="raise",
            extra_columns="ignore",
            hidden_file_prefix=_HIDDEN,
        )
        frame.collect_schema()
    return frame


@contextmanager
def reading(location: Location) -> Iterator[None]:
    """Turns what reading a table may raise into one error that names the table, and the file that is damaged.

    Raises:
        FeatureStoreError: Whatever went wrong.
    """
    try:
        yield
    except FtiError:
        raise
    except Exception as error:  # besides Polars' and Arrow's own, those of whatever library finds credentials
        damaged = _damaged(location) if isinstance(error, pl.exceptions.ComputeError) else ""
        raise FeatureStoreError(
            f"the feature table {location.name!r} cannot be read at {damaged or location.uri}: {masked(reason(error))}",
            remedy="Write that file again, or take it away" if damaged else "Run featurize first, or check the source",
        ) from error


def files(location: Location) -> list[str]:
    """The paths of a table's files, relative to its folder, in the order in which they are read."""
    filesystem, path = location.filesystem()
    found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
    names = [each.path.removeprefix(path).lstrip("/") for each in found if each.type == pafs.FileType.File]
    return sorted(name for name in names if name.endswith(".parquet") and not name.split("/")[-1].startswith(_HIDDEN))


def exists(location: Location) -> bool:
    """Whether there is such a file, or a folder that holds some."""
    if location.is_folder:
        return bool(files(location))
    filesystem, path = location.filesystem()
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def schema_of(location: Location) -> pa.Schema | None:
    """The columns that lie in a table's files: of the last file; without those of the folders' names. None: no file.

    Raises:
        FeatureStoreError: It cannot be read.
    """
    with reading(location):
        filesystem, path = location.filesystem()
        if location.is_folder:
            names = files(location)
            return pq.read_schema(f"{path}/{names[-1]}", filesystem=filesystem) if names else None
        return pq.read_schema(path, filesystem=filesystem)


def _refuse_empty(location: Location) -> None:
    """Polars passes over files without a byte: rows would be missing, and nobody would know."""
    for path in Path(location.uri).rglob("*.parquet"):
        if not path.name.startswith(_HIDDEN) and path.stat().st_size == 0:
            raise FeatureStoreError(
                f"the feature table {location.name!r} cannot be read at {path}: it is empty",
                remedy="Write that file again, or take it away",
            )


def _damaged(location: Location) -> str:
    """The first local file that is not whole: Polars does not say which."""
    for name in files(location) if location.is_folder and not location.is_remote else ():
        path = Path(location.uri, name)
        try:
            pq.read_metadata(path)
        except (OSError, pa.ArrowException):
            return str(path)
    return ""
