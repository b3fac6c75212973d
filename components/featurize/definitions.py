"""Registering with Feast what a repository defines."""

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

logger = logging.getLogger(__name__)


def apply(store: "FeatureStore", defined: list[Any], feature_repo: Path) -> dict[str, int]:
    """Registers what the repository's Python files define.

    What has not changed keeps its history of materialization. What is no longer defined stays registered: a model that
    is served may still need it (`feast apply` would delete it).

    Args:
        store: An open store.
        defined: What `load_definitions` found.
        feature_repo: For messages.

    Returns:
        How many entities, feature views and feature services there are.

    Raises:
        FeatureStoreError: Feast refuses a definition.
    """
    from fti.common.feature_store import reason

    try:
        store.apply(defined)
    except Exception as error:
        raise FeatureStoreError(
            f"Feast refuses the definitions of {feature_repo}: {reason(error)}", remedy="Correct them, then run again"
        ) from error
    store.refresh_registry()
    return {
        "entities": len(_of_kind(defined, "Entity")),
        "feature_views": len(defined) - len(_of_kind(defined, "Entity", "FeatureService")),
        "feature_services": len(_of_kind(defined, "FeatureService")),
    }


def load_definitions(feature_repo: Path) -> list[Any]:
    """The Feast objects that a repository's Python files define.

    Raises:
        FeatureStoreError: A file cannot be loaded, or there is no definition at all.
    """
    from feast import Entity, FeatureService, OnDemandFeatureView
    from feast.base_feature_view import BaseFeatureView

    repo = feature_repo.absolute()
    kinds = (Entity, FeatureService, BaseFeatureView, OnDemandFeatureView)
    found: dict[tuple[str, str], Any] = {}
    with _importable(repo) as modules:
        for name in modules:
            try:
                module = importlib.import_module(name)
            except Exception as error:
                raise FeatureStoreError(
                    f"{repo / name}.py cannot be loaded: {type(error).__name__}: {error}",
                    remedy="Correct the Feast definitions",
                ) from error
            for value in vars(module).values():
                if isinstance(value, kinds):
                    found[type(value).__name__, value.name] = value
    if not found:
        raise FeatureStoreError(f"{repo} defines no feature view", allowed="Python files with Feast definitions")
    return list(found.values())


def check_columns(defined: list[Any], columns: Mapping[str, Sequence[str]], offline_uri: str) -> None:
    """Checks that tables hold what the feature views on them need.

    Args:
        defined: What `load_definitions` found.
        columns: Table of the offline store -> its columns. Views on other sources are left alone.
        offline_uri: Where the offline store is.

    Raises:
        FeatureStoreError: A table lacks a feature, a join key or a time of a view.
    """
    from feast import FeatureView, FileSource

    table_at = {f"{offline_uri}/{table}": table for table in columns}
    join_keys = {entity.name: entity.join_key for entity in _of_kind(defined, "Entity")}
    for view in defined:
        source = view.batch_source if isinstance(view, FeatureView) else None
        table = table_at.get(str(source.path).rstrip("/")) if isinstance(source, FileSource) else None
        if table is None:
            continue
        for field, column in _needed(view, join_keys).items():
            if column not in columns[table]:
                raise FeatureStoreError(
                    f"the feature view {view.name!r} needs {field!r}, which the table {table!r} lacks",
                    allowed=f"the table's columns {', '.join(columns[table])}",
                    remedy=f"Add it to {table}.sql, or take it out of the view",
                )


def _needed(view: "FeatureView", join_keys: Mapping[str, str]) -> dict[str, str]:
    """Field of a view -> column of its source."""
    source = view.batch_source
    column_of = {field: column for column, field in source.field_mapping.items()}
    keys = [join_keys[name] for name in view.entities if name in join_keys]
    times = [source.timestamp_field, source.created_timestamp_column]
    fields = [*keys, *(field.name for field in view.features), *(time for time in times if time)]
    return {field: column_of.get(field, field) for field in fields}


@contextmanager
def _importable(repo: Path) -> Iterator[list[str]]:
    """Lets the files of a repository import each other by name, without a trace of them afterwards."""
    names = sorted(file.stem for file in repo.glob("*.py") if not file.stem.startswith("_"))
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(repo))
    importlib.invalidate_caches()
    try:
        yield names
    finally:
        sys.path.remove(str(repo))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def _of_kind(values: list[Any], *kinds: str) -> list[Any]:
    return [value for value in values if type(value).__name__ in kinds]
