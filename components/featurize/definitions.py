"""Registering with Feast what a repository defines."""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureStore

logger = logging.getLogger(__name__)


def apply(store: "FeatureStore", feature_repo: Path) -> dict[str, int]:
    """Makes the registry hold exactly what the repository's Python files define, like `feast apply`.

    What has not changed keeps its history of materialization.

    Returns:
        How many entities, feature views and feature services there are.

    Raises:
        FeatureStoreError: A definition cannot be loaded, or Feast refuses it.
    """
    defined = _load(feature_repo.absolute())
    try:
        store.apply(defined, objects_to_delete=_obsolete(store, defined), partial=False)
    except Exception as error:
        raise FeatureStoreError(
            f"Feast refuses the definitions of {feature_repo}: {error}", remedy="Correct them, then run again"
        ) from error
    store.refresh_registry()
    return {
        "entities": len(_of_kind(defined, "Entity")),
        "feature_views": len(defined) - len(_of_kind(defined, "Entity", "FeatureService")),
        "feature_services": len(_of_kind(defined, "FeatureService")),
    }


def _load(repo: Path) -> list[Any]:
    from feast import Entity, FeatureService, OnDemandFeatureView
    from feast.base_feature_view import BaseFeatureView

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


def _obsolete(store: "FeatureStore", defined: list[Any]) -> list[Any]:
    from feast.feature_view import DUMMY_ENTITY_NAME

    names = {(type(value).__name__, value.name) for value in defined}
    registered = [
        *store.list_feature_services(),
        *store.list_feature_views(),
        *store.list_on_demand_feature_views(),
        *store.list_entities(),
    ]
    return [
        value
        for value in registered
        if (type(value).__name__, value.name) not in names and value.name != DUMMY_ENTITY_NAME
    ]


def _of_kind(values: list[Any], *kinds: str) -> list[Any]:
    return [value for value in values if type(value).__name__ in kinds]
