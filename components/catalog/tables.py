"""How large and how fresh a table of Parquet files is, from the files' footers: no row is read."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fti.common.errors import StorageError
from fti.common.masking import masked
from fti.common.settings import Settings
from fti.common.storage import shown

if TYPE_CHECKING:
    from pyarrow import Table as ArrowTable
    from pyarrow.fs import FileInfo, FileSystem
    from pyarrow.parquet import FileMetaData

_PARALLEL = 16


@dataclass(frozen=True)
class Table:
    """A table of Parquet files.

    Attributes:
        rows: Rows in all.
        size: Bytes of its files.
        files: How many there are.
        latest: The latest event time, UTC; None without any row, or where the files do not tell.
        missing: Column -> rows without a value; only columns of which every file tells.
    """

    rows: int = 0
    size: int = 0
    files: int = 0
    latest: datetime | None = None
    missing: dict[str, int] = field(default_factory=dict)


class Files:
    """The Parquet files of a table, newest partition last.

    Args:
        source: A file or folder: a path, `s3://` or `gs://`.
        settings: How object stores are reached.
        endpoint: An S3 endpoint that the source names for itself.

    Raises:
        StorageError: The place cannot be read. A place without files is no error.
    """

    def __init__(self, source: str, settings: Settings, endpoint: str = "") -> None:
        self._source = source
        with _errors(source):
            self._system, root = _file_system(source, settings, endpoint)
            self._files = _parquet_files(self._system, root)

    def measure(self, time_column: str, columns: Sequence[str]) -> Table:
        """Reads every footer.

        Args:
            time_column: The column with the event time.
            columns: Those whose missing values are counted.

        Raises:
            StorageError: A file is no Parquet, or cannot be read.
        """
        with _errors(self._source), ThreadPoolExecutor(_PARALLEL) as pool:
            footers = list(pool.map(self._footer, self._files))
        filled = [footer for footer in footers if footer.num_rows]
        missing = {column: [_nulls(footer, column) for footer in filled] for column in columns}
        return Table(
            rows=sum(footer.num_rows for footer in footers),
            size=sum(file.size for file in self._files),
            files=len(footers),
            latest=_latest(filled, time_column),
            missing={name: sum(filter(None, counts)) for name, counts in missing.items() if None not in counts},
        )

    def newest(self, columns: Sequence[str], rows: int, files: int) -> "ArrowTable":
        """Reads some columns of the newest partitions, until there are enough rows.

        Raises:
            StorageError: A file cannot be read, or lacks a column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts: list[ArrowTable] = []
        with _errors(self._source):
            for file in reversed(self._files[-files:]):
                with self._system.open_input_file(file.path) as stream:
                    parts.insert(0, pq.read_table(stream, columns=list(columns)))
                if sum(map(len, parts)) >= rows:
                    break
        return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})

    def _footer(self, file: "FileInfo") -> "FileMetaData":
        import pyarrow.parquet as pq

        with self._system.open_input_file(file.path) as stream:
            return pq.read_metadata(stream)


def _file_system(source: str, settings: Settings, endpoint: str) -> "tuple[FileSystem, str]":
    from pyarrow import fs

    if "://" not in source:
        return fs.LocalFileSystem(), source
    if not source.startswith("s3://"):
        system, path = fs.FileSystem.from_uri(source)
        return system, path
    address = urlsplit(endpoint or settings.s3_endpoint)
    options: dict[str, Any] = {"endpoint_override": address.netloc, "scheme": address.scheme} if address.netloc else {}
    if settings.s3_access_key:
        options |= {"access_key": settings.s3_access_key, "secret_key": settings.s3_secret_key}
        options |= {"session_token": settings.s3_session_token} if settings.s3_session_token else {}
    if settings.s3_region or address.netloc:
        options["region"] = settings.s3_region or "us-east-1"  # else Amazon would be asked where the bucket is
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=3)
    system = fs.S3FileSystem(connect_timeout=10, request_timeout=60, retry_strategy=retries, **options)
    return system, source.removeprefix("s3://")


@contextmanager
def _errors(source: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"the feature table at {shown(source)} cannot be read: {masked(str(error).splitlines()[0])}",
            remedy="Check that its store is up, and the rights; a damaged file is mended by featurize",
        ) from error


def _parquet_files(system: "FileSystem", root: str) -> "list[FileInfo]":
    from pyarrow import fs

    (place,) = system.get_file_info([root])
    if place.type == fs.FileType.File:
        return [place]
    found = system.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return sorted((file for file in found if _is_part(file.path.removeprefix(root))), key=lambda file: str(file.path))


def _is_part(path: str) -> bool:
    """What is being written has a name that begins with a point."""
    return path.endswith(".parquet") and not any(part.startswith(".") for part in path.split("/"))


def _chunks(footer: "FileMetaData", column: str) -> Iterable[Any]:
    """The statistics of a column in each row group; None where there are none."""
    names = {footer.schema.column(index).path: index for index in range(footer.num_columns)}
    if column not in names:
        return [None]
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    return [group.column(names[column]).statistics for group in groups if group.num_rows]


def _nulls(footer: "FileMetaData", column: str) -> int | None:
    counts = [chunk.null_count if chunk and chunk.has_null_count else None for chunk in _chunks(footer, column)]
    return None if None in counts else sum(filter(None, counts))


def _latest(footers: "list[FileMetaData]", column: str) -> datetime | None:
    chunks = [chunk for footer in footers for chunk in _chunks(footer, column)]
    times = [chunk.max for chunk in chunks if chunk and chunk.has_min_max]
    if len(times) < len(chunks) or not all(isinstance(time, datetime) for time in times):
        return None
    return max((time if time.tzinfo else time.replace(tzinfo=UTC) for time in times), default=None)
