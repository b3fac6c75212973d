"""An online store of its own: the same repository, project and registry, but SQLite in a scratch folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from fti.common.feature_store import open_store, service_of
from fti.common.online.plan import make_plan
from fti.common.online.writer import open_writer
from fti.common.profile import profile_of, read_profile
from fti.common.settings import Settings
from fti.common.storage import local_copy
from fti.infra_validate.history import Known
from fti.infra_validate.views import CREATED, TIME, lookups

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore, FeatureView

PROFILE = "FEAST_FS_YAML_FILE_PATH"


class ScratchStore:
    """The feature store of a repository, with an empty online store of its own.

    Args:
        feature_repo: The Feast repository.
        feature_service: Whose views it holds.
        folder: Where the online store and its profile go.
        settings: Where the registry and the offline store lie.

    Attributes:
        feature_repo: The Feast repository.
        profile: A Feast profile that names this online store.
        store: Feast's own.
        lookups: The views of the feature service.
        whole_keys: The entity keys that are whole numbers; the others are text.

    Raises:
        ConfigError: The repository has no profile, or it refers to a variable that is not set.
        StorageError: The repository cannot be read.
        FeatureStoreError: The registry cannot be read, or lacks the feature service.
    """

    def __init__(self, feature_repo: str, feature_service: str, folder: Path, settings: Settings) -> None:
        self.feature_repo = feature_repo
        self.profile = folder / "feature_store.yaml"
        with local_copy(feature_repo, settings) as repo:
            own = profile_of(repo.absolute(), os.environ)
            read_profile(own, {**os.environ, **settings.environ()})  # says what is wrong with it, by its own name
            changed = _with_online_store(own.read_text(encoding="utf-8"), folder / "online.db")
        self.profile.write_text(changed, encoding="utf-8")
        with _environ(PROFILE, str(self.profile)):
            self.store: FeatureStore = open_store(feature_repo, settings)
        service = service_of(self.store, feature_service)
        self.lookups = lookups(self.store, service)
        types = make_plan(self.store, service).key_types
        self.whole_keys = frozenset(key for key, dtype in types.items() if dtype.startswith("int"))
        self._writer = open_writer(self.store)
        self._held: list[tuple[FeatureView, list[bytes]]] = []
        self._make_tables()

    def hold(self, histories: Sequence[Known], rows: Sequence[int], times: Sequence[datetime], now: datetime) -> None:
        """Makes the online store hold what was known at some rows' times, and nothing else.

        Args:
            histories: The views.
            rows: No two with a key in common, unless their times are equal.
            times: [N]: the time of every row.
            now: What the rows' times become: event times are later by as much, so that ages stay.
        """
        while self._held:
            view, keys = self._held.pop()
            self._writer.remove(view, keys, now)
        for history in histories:
            wanted = {history.keys[row]: row for row in rows if history.found[row] >= 0}
            if wanted:
                shifts = [now - times[row] for row in wanted.values()]
                moved = _moved(history, [int(history.found[row]) for row in wanted.values()], shifts)
                view = history.lookup.view
                self._held.append((view, self._writer.write(view, moved, now).keys))

    def close(self) -> None:
        """Gives the connections back."""
        self._writer.close()

    def _make_tables(self) -> None:
        from feast.infra.online_stores.helpers import get_online_store_from_config

        online = get_online_store_from_config(self.store.config.online_store)
        online.update(self.store.config, [], [lookup.view for lookup in self.lookups], [], [], partial=True)


def _moved(history: Known, places: Sequence[int], shifts: Sequence[timedelta]) -> "pa.Table":
    """Rows of a view's table with Feast's names, their event times later by a shift each."""
    import polars as pl

    source = history.lookup.view.batch_source
    names = {TIME: source.timestamp_field, CREATED: source.created_timestamp_column}
    rows = history.table[list(places)].with_columns(pl.col(TIME) + pl.Series(shifts, dtype=pl.Duration("us")))
    renamed = rows.rename({name: to for name, to in names.items() if name in rows.columns})
    return renamed.to_arrow(compat_level=pl.CompatLevel.oldest())


def _with_online_store(profile: str, file: Path) -> str:
    """A profile with SQLite as its online store. Variables stay variables: no secret is written down."""
    # Nodes, not values: a quoted variable stays quoted.
    added = yaml.safe_dump({"online_store": {"type": "sqlite", "path": str(file)}})
    root, online = (yaml.compose(text, yaml.SafeLoader) for text in (profile, added))
    assert root and online  # noqa: S101 - it has just been read
    root.value = [pair for pair in root.value if pair[0].value != "online_store"] + online.value
    return str(yaml.serialize(root))


@contextmanager
def _environ(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
