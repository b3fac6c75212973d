"""What a feature service asks of an online store, resolved once from Feast's registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError
from fti.common.online.keys import KeyType, key_types
from fti.common.online.policy import Policy

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, FeatureView


@dataclass(frozen=True)
class Key:
    """An entity key, shared by the views that are asked by it.

    Attributes:
        join_keys: The join keys, as the views name them.
        columns: What callers name them; None for the constant key of views without entities.
        dtypes: The type of each.
    """

    join_keys: tuple[str, ...]
    columns: tuple[str | None, ...]
    dtypes: tuple[KeyType, ...]


@dataclass(frozen=True)
class View:
    """One feature view of a service.

    Attributes:
        name: Its name in the service.
        stored_as: Its name in the store.
        key: Its entity key, by position in the plan.
        features: Its features that the service selects, and Feast's name of the type of each.
        policy: How long its values hold, and what takes their place.
        shown: Whether the service selects its features, or only an on-demand view reads them.
    """

    name: str
    stored_as: str
    key: int
    features: Mapping[str, str]
    policy: Policy
    shown: bool = True


@dataclass(frozen=True)
class Plan:
    """What to read for a feature service.

    Attributes:
        project: Feast's name of the project.
        service: The service's name.
        keys: The distinct entity keys.
        views: The feature views, in order.
        on_demand: Features that on-demand views compute: name in the result -> Feast's name of the type.
        request_data: What on-demand views take from the request: name -> Feast's name of the type.
    """

    project: str
    service: str
    keys: tuple[Key, ...]
    views: tuple[View, ...]
    on_demand: Mapping[str, str]
    request_data: Mapping[str, str]

    @property
    def key_types(self) -> dict[str, KeyType]:
        """What callers name the join keys, in the order of the views, and their types."""
        return {
            column: dtype
            for key in self.keys
            for column, dtype in zip(key.columns, key.dtypes, strict=True)
            if column is not None
        }


def make_plan(store: "FeatureStore", service: "FeatureService") -> Plan:
    """Resolves a feature service.

    Raises:
        FeatureStoreError: The service names views that Feast cannot serve, two join keys of one name and different
            types, or a view whose policy is wrong.
    """
    views, on_demand = resolve(store, service)
    selected = {
        projection.name_to_use(): {feature.name for feature in projection.features}
        for projection in service.feature_view_projections
    }
    keys: dict[Key, int] = {}
    planned = [_view(store, view, keys.setdefault(_key(view), len(keys)), selected) for view in views]
    _same_types(keys)
    return Plan(
        project=store.project,
        service=service.name,
        keys=tuple(keys),
        views=tuple(planned),
        on_demand={
            f"{view.projection.name_to_use()}__{feature.name}": feature.dtype.to_value_type().name
            for view in on_demand
            for feature in view.projection.features
        },
        request_data={
            field.name: field.dtype.to_value_type().name
            for view in on_demand
            for source in view.source_request_sources.values()
            for field in source.schema
        },
    )


def resolve(store: "FeatureStore", service: "FeatureService") -> "tuple[list[FeatureView], list[Any]]":
    """The feature views that a service reads, with their projections, and its on-demand views.

    Raises:
        FeatureStoreError: The registry cannot be read, or Feast cannot serve one of the views.
    """
    from feast.errors import FeastError
    from feast.utils import _get_feature_views_to_use

    from fti.common.feature_store import registry_errors

    try:
        with registry_errors(store):
            views, on_demand = _get_feature_views_to_use(
                store.registry, store.project, service, allow_cache=True, hide_dummy_entity=False
            )
    except FeastError as error:
        raise FeatureStoreError(
            f"feature service {service.name!r}: {error}", remedy="Apply the feature repository again"
        ) from error
    for view in on_demand:
        if view.singleton or view.aggregations or view.write_to_online_store:
            raise FeatureStoreError(
                f"the on-demand view {view.name} is a singleton, aggregates, or writes to the online store",
                allowed="on-demand views that compute whole columns when they are asked",
            )
    return views, on_demand


def _key(view: "FeatureView") -> Key:
    from feast.feature_view import DUMMY_ENTITY_ID

    types = key_types(view) or {DUMMY_ENTITY_ID: "string"}
    aliases = view.projection.join_key_map
    columns = tuple(None if name == DUMMY_ENTITY_ID else aliases.get(name, name) for name in types)
    return Key(tuple(types), columns, tuple(types.values()))


def _view(store: "FeatureStore", view: "FeatureView", key: int, selected: Mapping[str, set[str]]) -> View:
    from feast.infra.online_stores.helpers import compute_versioned_name

    name = view.projection.name_to_use()
    features = {
        feature.name: feature.dtype.to_value_type().name
        for feature in view.projection.features
        if name not in selected or feature.name in selected[name]
    }
    versioned = store.config.registry.enable_online_feature_view_versioning
    policy = Policy.of(view)
    if name not in selected:  # nobody sees its values; the on-demand view takes nulls, as in training
        policy = Policy(policy.ttl)
    return View(name, compute_versioned_name(view, versioned), key, features, policy, name in selected)


def _same_types(keys: Mapping[Key, int]) -> None:
    types: dict[str, str] = {}
    for key in keys:
        for column, dtype in zip(key.columns, key.dtypes, strict=True):
            if column is not None and types.setdefault(column, dtype) != dtype:
                raise FeatureStoreError(
                    f"the join key {column} is {types[column]} in one feature view and {dtype} in another",
                    remedy="Give it one type in all views, or another name by a join key map",
                )
