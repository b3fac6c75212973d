"""Registering with Feast what a repository defines."""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import ConfigError, FeatureStoreError, FtiError

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

_LONG = 600  # characters of what Feast says


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
        FeatureStoreError: Feast refuses a definition, the registry cannot be reached, or is newer than the code.
        BusyError: Another has been changing the registry for two minutes.
    """
    from fti.common.feature_store import registry_errors
    from fti.common.registry import changing

    with registry_errors(store), changing(store):
        _apply(store, defined, feature_repo)
        store.refresh_registry()
        _require_registered(store, defined)
    return {
        "entities": len(_of_kind(defined, "Entity")),
        "feature_views": len(defined) - len(_of_kind(defined, "Entity", "FeatureService")),
        "feature_services": len(_of_kind(defined, "FeatureService")),
    }


def _apply(store: "FeatureStore", defined: list[Any], feature_repo: Path) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        store.apply(defined)
    except SQLAlchemyError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:_LONG] or type(error).__name__
        raise FeatureStoreError(
            f"Feast refuses the definitions of {feature_repo}: {why}", remedy="Correct them, then run again"
        ) from error


def _require_registered(store: "FeatureStore", defined: list[Any]) -> None:
    """Feast takes a row that the database refuses for one that somebody else has just written, and says nothing."""
    kinds = {"Entity": store.list_entities, "FeatureService": store.list_feature_services}
    registered = {kind: {each.name for each in listed()} for kind, listed in kinds.items()}
    views = {each.name for each in store.list_all_feature_views()}
    lost = sorted(each.name for each in defined if each.name not in registered.get(type(each).__name__, views))
    if lost:
        raise FeatureStoreError(
            f"the registry did not take {', '.join(lost)}",
            remedy="Its tables may be of a newer version of Feast: install that",
        )


def load_definitions(feature_repo: Path) -> list[Any]:
    """The Feast objects that a repository's Python files define.

    Raises:
        ConfigError: A file reads a variable that is not set.
        FeatureStoreError: A file cannot be loaded, there is no definition at all, or a view's tags contradict each
            other.
    """
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
    from feast.base_feature_view import BaseFeatureView

    from fti.common.online.policy import Policy

    repo = feature_repo.absolute()
    kinds = (Entity, FeatureService, BaseFeatureView, OnDemandFeatureView)
    found: dict[tuple[str, str], Any] = {}
    with _importable(repo) as modules:
        for name in modules:
            try:
                module = importlib.import_module(name)
            except Exception as error:
                raise _unloadable(repo / f"{name}.py", error) from error
            for value in vars(module).values():
                if isinstance(value, kinds):
                    found[type(value).__name__, value.name] = value
    if not found:
        raise FeatureStoreError(f"{repo} defines no feature view", allowed="Python files with Feast definitions")
    for value in found.values():
        if isinstance(value, FeatureView):
            Policy.of(value)
    return list(found.values())


def _unloadable(file: Path, error: Exception) -> FtiError:
    from traceback import walk_tb

    raised_in = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
    if isinstance(error, KeyError) and raised_in[-1] == "os":
        return ConfigError(
            f"{file} reads {error.args[0]}, which the environment does not set", remedy=f"Set {error.args[0]}"
        )
    return FeatureStoreError(
        f"{file} cannot be loaded: {type(error).__name__}: {error}", remedy="Correct the Feast definitions"
    )


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
