"""Feature tables from SQL, published to the offline store and registered with Feast."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fti.common.duck import connect
from fti.common.errors import ConfigError, TransformError
from fti.common.files import atomic_file, digest_of, make_folder
from fti.common.settings import Settings
from fti.common.storage import local_copy, publish_dir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureTable:
    """A table in the offline store.

    Attributes:
        name: The SQL file's name without its ending.
        uri: Where its partitions lie.
        rows: Rows in all.
        partitions: Days with rows.
        digest: Of the files' names and content.
    """

    name: str
    uri: str
    rows: int
    partitions: int
    digest: str


def featurize(
    tables: Mapping[str, str | Path], feature_repo: str, output: str | Path, settings: Settings
) -> list[FeatureTable]:
    """Runs every `sql/*.sql` of a feature repository and registers its Feast definitions.

    All transforms succeed, and their tables fit the definitions, before the first table is published; each is
    replaced whole. Running it again
    on the same tables gives the same bytes. Files whose names start with an underscore are helpers for the others.

    Args:
        tables: Name in SQL -> Parquet file.
        feature_repo: Folder with `feature_store.yaml`, Feast definitions and `sql/`, by path or URI.
        output: Where a JSON description of what was written goes.
        settings: Where the offline store is.

    Raises:
        ConfigError: There is no repository, no transform or no table.
        TransformError: SQL fails (names file and line), gives no row, or rows without `event_timestamp`.
        StorageError: A table cannot be written.
        FeatureStoreError: The registry cannot be reached, a table lacks what a feature view needs, or Feast refuses
            the definitions.
    """
    from fti.common.feature_store import open_store, registry_errors
    from fti.featurize.definitions import apply, check_columns, load_definitions

    if not tables:
        raise ConfigError("no table was passed to featurize", allowed="at least one output of validate")
    make_folder(settings.home)
    # On the same disk as a local offline store, and never where its readers look.
    scratch = TemporaryDirectory(prefix=".featurize-", dir=settings.home)
    with local_copy(feature_repo, settings) as repo, scratch as folder:
        store = open_store(str(repo), settings)
        defined = load_definitions(repo)
        with registry_errors(store):
            store.refresh_registry()
        built = build_tables(tables, repo / "sql", Path(folder))
        columns = {name: _columns(table) for name, (table, _) in built.items()}
        check_columns(defined, columns, settings.offline_uri)
        published = [_publish(name, table, counts, settings) for name, (table, counts) in built.items()]
        registered = apply(store, defined, repo)
    with atomic_file(output) as target:
        target.write_text(json.dumps({"tables": [asdict(table) for table in published], "registered": registered}))
    return published


def by_name(tables: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Tables by the name that SQL knows them by.

    Raises:
        ConfigError: A table has no name, or two have the same.
    """
    named: dict[str, str] = {}
    for name, path in tables:
        if not name or name in named:
            raise ConfigError(
                f"two tables are called {name!r}" if name else f"{path} has no name",
                allowed="a name of its own in the metadata `table` of each, as ingest and validate write it",
            )
        named[name] = path
    return named


def build_tables(tables: Mapping[str, str | Path], sql: Path, folder: Path) -> dict[str, tuple[Path, tuple[int, int]]]:
    """Runs the transforms into `folder/<table>/event_date=…/`.

    Returns:
        For each table its folder and its (rows, partitions).

    Raises:
        ConfigError: There is no transform.
        TransformError: SQL fails, gives no row, or rows without `event_timestamp`.
    """
    from fti.featurize.partitions import write_partitions
    from fti.featurize.transforms import add_helper, add_view, find_transforms, select_ordered

    helpers, transforms = find_transforms(sql)
    built = {}
    with connect(scratch=folder) as connection:
        for name, path in tables.items():
            add_view(connection, name, path)
        for file in helpers:
            add_helper(connection, file)
        for file in transforms:
            target = folder / "tables" / file.stem
            select_ordered(connection, file)
            counts = write_partitions(connection.to_arrow_reader(100_000), target, file.stem)
            if not counts[0]:
                raise TransformError(f"{file} gives no row", remedy="Check its WHERE and the tables that it reads")
            logger.info("%s: %s rows in %s partitions", file.stem, f"{counts[0]:,}", counts[1])
            built[file.stem] = (target, counts)
    return built


def _columns(table: Path) -> Sequence[str]:
    """A table's columns, `event_date` of its folders' names among them."""
    import pyarrow.parquet as pq

    return [*pq.read_schema(next(table.glob("*/*.parquet"))).names, "event_date"]


def _publish(name: str, folder: Path, counts: tuple[int, int], settings: Settings) -> FeatureTable:
    uri = publish_dir(folder, f"{settings.offline_uri}/{name}", settings)
    return FeatureTable(name, uri, *counts, digest=digest_of(folder))
