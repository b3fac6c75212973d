"""A small feature store to read online, with every kind of key, type and projection."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fti.common.feature_store import open_store
from fti.common.settings import Settings

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
STORE = """
project: online
provider: local
registry: {{registry_type: sql, path: "sqlite:///${{FTI_HOME}}/registry.db"}}
online_store: {online}
offline_store: {{type: fti.retrieve.asof.AsofOfflineStore}}
entity_key_serialization_version: 3
"""
SQLITE = '{type: sqlite, path: "${FTI_HOME}/online.db"}'


def redis_store(port: int, more: str = "") -> str:
    return f'{{type: redis, connection_string: "127.0.0.1:{port}{more}"}}'


def open_shop(folder: Path, online: str) -> Any:
    """An open Feast store in which nothing is applied yet."""
    repo = folder / "repo"
    repo.mkdir(parents=True, exist_ok=True)
    (repo / "feature_store.yaml").write_text(STORE.format(online=online))
    return open_store(str(repo), Settings.from_env({"FTI_HOME": str(folder / "home")}))


def apply_shop(folder: Path, online: str) -> Any:
    """An open Feast store with the views `every`, `pair`, `place` and `world`, and the service `all_v1`."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast import types as t

    store = open_shop(folder, online)
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    shop = Entity(name="shop", value_type=ValueType.STRING)
    day = Entity(name="day", value_type=ValueType.INT32)

    def view(name: str, entities: list[Any], keys: Mapping[str, Any], mapped: Mapping[str, str] = {}, **fields: Any):
        source = FileSource(
            name=name, path=str(folder / name), timestamp_field="event_timestamp", field_mapping=dict(mapped)
        )
        schema = [Field(name=field, dtype=dtype) for field, dtype in {**keys, **fields}.items()]
        return FeatureView(name=name, entities=entities, ttl=timedelta(0), schema=schema, source=source)

    every = view(
        "every",
        [customer],
        {"customer_id": t.Int64},
        f=t.Float32,
        d=t.Float64,
        i=t.Int32,
        l=t.Int64,
        b=t.Bool,
        s=t.String,
        u=t.UnixTimestamp,
        a=t.Array(t.Int64),
    )
    pair = view("pair", [shop, customer], {"shop": t.String, "customer_id": t.Int64}, {"raw": "n"}, n=t.Int64)
    place = view("place", [shop, day], {"shop": t.String, "day": t.Int32}, x=t.Float32, y=t.String)
    world = view("world", [], {}, w=t.Float64)
    # Feast cannot read a service that holds a view both with and without another name.
    mine = every.with_name("mine")
    friend = every.with_name("friend").with_join_key_map({"customer_id": "friend_id"})[["f", "s"]]
    store.apply(
        [
            *[customer, shop, day, every, pair, place, world],
            FeatureService(name="all_v1", features=[mine, pair, place[["y", "x"]], world, friend]),
            FeatureService(name="numbers_v1", features=[every[["f", "l"]]]),
        ]
    )
    return store


def put(store: Any, view: str, key: Mapping[str, Any], values: Mapping[str, Any], at: datetime = NOW) -> None:
    """Writes a row as Feast does."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.type_map import python_values_to_proto_values

    table = store.get_feature_view(view) if view != "world" else store.registry.get_feature_view(view, store.project)
    types = {column.name: column.dtype.to_value_type() for column in [*table.entity_columns, *table.features]}
    protos = {name: python_values_to_proto_values([value], types[name])[0] for name, value in {**key, **values}.items()}
    entity = EntityKey(join_keys=list(key), entity_values=[protos[name] for name in key])
    stored = {name: protos[name] for name in values}
    store._get_provider().online_store.online_write_batch(
        store.config, table, [(entity, stored, at, None)], lambda rows: None
    )


def reference(
    store: Any, service: str, entities: Mapping[str, Sequence[Any]]
) -> dict[str, tuple[list[Any], list[int]]]:
    """What Feast's own reader says: for each feature its values and the seconds of their event times (0: none)."""
    response = store.get_online_features(
        features=store.get_feature_service(service), entity_rows=dict(entities), full_feature_names=True
    )
    values = response.to_dict()
    times = {
        name: [stamp.seconds for stamp in vector.event_timestamps]
        for name, vector in zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True)
    }
    return {name: (values[name], times[name]) for name in times if name not in entities}
