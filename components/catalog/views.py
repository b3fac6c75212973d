"""What is registered: feature views with their keys, features and tags."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureStore

MISSING = {
    "null": "null",
    "default": "each feature's default",
    "refuse": "a prediction is refused, a row is left out of training",
}


@dataclass(frozen=True)
class Feature:
    """A feature as its view declares it; texts are empty where it declares none.

    Attributes:
        name: Its name within the view.
        type: Feast's type, such as `Float32`.
        unit: Tag `unit`.
        description: What it means.
        default: Tag `default`: what stands for a missing value where the view's `on_missing` says so.
    """

    name: str
    type: str
    unit: str
    description: str
    default: str | None


@dataclass(frozen=True)
class Key:
    """A join key of a view.

    Attributes:
        name: What requests and tables call it.
        type: Feast's type.
        description: What its entity means.
    """

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class View:
    """A feature view.

    Attributes:
        name: Its name.
        description: What it means.
        owner: Who answers for it: tag `owner`, or Feast's own field.
        event_time: When a value becomes known: tag `event_time`.
        on_missing: What stands for a value that is missing or expired: `null`, `default` or `refuse`.
        keys: Its join keys; none where the values are about nothing in particular.
        ttl: How long a value holds; None for ever.
        features: In the order of the view.
        services: The feature services that use it.
        source: Path or URI of its table, or the name of another kind of source; empty for values computed on demand.
        time_column: The table's column with the event time; empty where the source is no table of files.
        columns: Features -> columns of the table.
        s3_endpoint: The object store of the table, where the source names one.
        online_through: The event time up to which the online store was filled; None if it never was.
    """

    name: str
    description: str
    owner: str
    event_time: str
    on_missing: str
    keys: tuple[Key, ...]
    ttl: timedelta | None
    features: tuple[Feature, ...]
    services: tuple[str, ...]
    source: str
    time_column: str
    columns: dict[str, str]
    s3_endpoint: str
    online_through: datetime | None


def registered(store: "FeatureStore") -> list[View]:
    """The feature views of a store, by name.

    Raises:
        FeatureStoreError: The registry cannot be read, or holds no view.
    """
    from fti.common.feature_store import registry_errors

    with registry_errors(store):
        views = store.list_all_feature_views()
        meanings = {entity.join_key: entity.description for entity in store.list_entities()}
        used: dict[str, list[str]] = {}
        for service in store.list_feature_services():
            for projection in service.feature_view_projections:
                used.setdefault(projection.name, []).append(service.name)
    if not views:
        raise FeatureStoreError(
            f"the feature store {store.project!r} has no feature view",
            remedy="Run featurize, which registers what feature_repo defines: fti run features",
        )
    found = [_view(view, meanings, tuple(sorted(set(used.get(view.name, []))))) for view in views]
    return sorted(found, key=lambda view: view.name)


def view_named(views: list[View], name: str) -> View:
    """One of the views.

    Raises:
        FeatureStoreError: There is none of that name; says which are near.
    """
    for view in views:
        if view.name == name:
            return view
    near = get_close_matches(name, [view.name for view in views], n=2)
    raise FeatureStoreError(
        f"there is no feature view {name!r}",
        allowed=", ".join(view.name for view in views),
        remedy=f"Perhaps {' or '.join(near)} is meant" if near else "",
    )


def _view(view: Any, meanings: dict[str, str], services: tuple[str, ...]) -> View:
    from feast import FileSource
    from feast.feature_view import DUMMY_ENTITY_ID

    source = getattr(view, "batch_source", None)
    table = source if isinstance(source, FileSource) else None
    keys = [column for column in getattr(view, "entity_columns", []) if column.name != DUMMY_ENTITY_ID]
    column_of = {field: column for column, field in (table.field_mapping if table else {}).items()}
    return View(
        name=view.name,
        description=view.description,
        owner=view.tags.get("owner") or view.owner,
        event_time=view.tags.get("event_time", ""),
        on_missing=view.tags.get("on_missing", "null"),
        keys=tuple(Key(key.name, str(key.dtype), meanings.get(key.name, "")) for key in keys),
        ttl=getattr(view, "ttl", None) or None,
        features=tuple(_feature(field) for field in view.features),
        services=services,
        source=str(table.path).rstrip("/") if table else source.name if source else "",
        time_column=str(column_of.get(table.timestamp_field, table.timestamp_field)) if table else "",
        columns={field.name: column_of.get(field.name, field.name) for field in view.features},
        s3_endpoint=(table.s3_endpoint_override or "") if table else "",
        online_through=getattr(view, "most_recent_end_time", None),
    )


def _feature(field: Any) -> Feature:
    return Feature(
        field.name, str(field.dtype), field.tags.get("unit", ""), field.description, field.tags.get("default")
    )
