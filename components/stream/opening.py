"""Opening a stream on a feature repository."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, FeatureStoreError
from fti.common.settings import Settings
from fti.common.storage import local_copy
from fti.stream.feature import Target
from fti.stream.history import History
from fti.stream.logic import Clock, Stream
from fti.stream.offline import OfflineTable
from fti.stream.online import OnlineView, key_columns
from fti.stream.plan import Plan, read_plan
from fti.stream.sources import Sources, open_sources
from fti.validate.contract import Contract
from fti.validate.parsing import read_contract

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

    from fti.common.online.writer import OnlineWriter

_ENTRY = {"table", "source", "contract"}


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


@contextmanager
def open_stream(
    feature_repo: str,
    tables: Sequence[Mapping[str, str]],
    settings: Settings,
    *,
    null_values: Sequence[str] = ("",),
    clock: Clock = now,
    flush_every: timedelta = timedelta(0),
    reseed: bool = False,
) -> Iterator[Stream]:
    """Opens a stream; one process at a time. What waits for the offline store is written at the end.

    The first time, the source tables start from the sources, read and validated as by the batch path; afterwards
    they go on from where the last stream left them.

    Args:
        feature_repo: Folder with `feature_store.yaml`, `sql/` and `stream.yaml`, by path or URI; featurize has run.
        tables: As of the pipeline `features`: `table`, `source` and `contract` of each.
        settings: Where state is.
        null_values: Texts that mean "missing" in CSV files.
        clock: Tells the time, in UTC.
        flush_every: How long rows may wait for the offline store; zero: each push writes files there.
        reseed: Start from the sources again; they must hold what was pushed.

    Raises:
        BusyError: Another stream is at work.
        ConfigError: `tables` or `stream.yaml` is wrong, or the stream stood still for too long.
        FeatureStoreError: Nothing is registered, or the stores cannot be reached.
        FtiError: A source, contract or transform cannot be used.
    """
    from fti.common.feature_store import open_store
    from fti.common.online.writer import open_writer

    contracts = {entry["table"]: read_contract(entry["contract"], settings) for entry in _checked(tables)}
    with local_copy(feature_repo, settings) as repo, open_sources(settings.home / "stream", anew=reseed) as sources:
        store = open_store(str(repo), settings)
        views = _views(store, settings)
        plan = read_plan(repo, contracts, views, sources.connection)
        _check_times(plan, contracts)
        _check_gap(plan, sources, clock())
        History(tables, contracts, null_values, settings).seed(sources, plan, clock())
        with closing(open_writer(store)) as writer:
            targets = {name: _target(store, writer, views[name]) for name in plan.transforms}
            stream = Stream(sources, contracts, plan, targets, clock=clock, flush_every=flush_every)
            yield stream
            stream.flush()


def _checked(tables: Sequence[Mapping[str, str]]) -> Sequence[Mapping[str, str]]:
    names = [entry.get("table") for entry in tables]
    if not tables or any(entry.keys() != _ENTRY for entry in tables) or len(set(names)) < len(names):
        raise ConfigError(f"tables are {list(tables)!r:.200}", allowed="a list of {table, source, contract}, each once")
    return tables


def _views(store: "FeatureStore", settings: Settings) -> "dict[str, list[FeatureView]]":
    """Feature table -> the views on it."""
    from feast import FileSource

    from fti.common.feature_store import registry_errors

    found: dict[str, list[FeatureView]] = {}
    with registry_errors(store):
        for view in sorted(store.list_feature_views(), key=lambda view: str(view.name)):
            path = str(view.batch_source.path).rstrip("/") if isinstance(view.batch_source, FileSource) else ""
            if view.online and path.startswith(f"{settings.offline_uri}/"):
                found.setdefault(path.removeprefix(f"{settings.offline_uri}/"), []).append(view)
    if not found:
        raise FeatureStoreError(
            f"no feature view is registered on a table in {settings.offline_uri}", remedy="Run featurize first"
        )
    return found


def _target(store: "FeatureStore", writer: "OnlineWriter", views: "list[FeatureView]") -> Target:
    keys = {column: None for view in views for column in key_columns(view)}
    created = {view.batch_source.created_timestamp_column: None for view in views}
    return Target(
        key=list(keys),
        created=[name for name in created if name],
        offline=OfflineTable(store, views[0]),
        views={view.name: OnlineView(store, writer, view) for view in views},
    )


def _check_times(plan: Plan, contracts: Mapping[str, Contract]) -> None:
    for table, timed in plan.tables.items():
        column = next((each for each in contracts[table].columns if each.name == timed.column), None)
        if column is None or column.nullable or column.type not in {"timestamp", "date"}:
            raise ConfigError(
                f"stream.yaml: tables.{table}.time is {timed.column!r}",
                allowed=f"a timestamp or date of {contracts[table].uri} that is never missing",
            )


def _check_gap(plan: Plan, sources: Sources, at: datetime) -> None:
    watermark = sources.watermark
    if plan.tables and watermark and at - watermark > plan.late:
        raise ConfigError(
            f"the stream stood still since {watermark:%Y-%m-%d %H:%M} UTC, and corrects no more than {plan.late}",
            remedy="Start with --reseed, once the sources hold what was pushed",
        )
