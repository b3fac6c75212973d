"""A Feast repository made with nothing of this library but the name of its offline store."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from feast import FeatureStore

START = datetime(2024, 1, 1, tzinfo=UTC)
OURS = "fti.retrieve.asof.AsofOfflineStore"


def plain_store(folder: Path, kind: str = OURS) -> "FeatureStore":
    """An empty feature store."""
    from feast import FeatureStore, RepoConfig

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "project": "plain",
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
        "online_store": {"type": "sqlite", "path": f"{folder}/online.db"},
        "offline_store": {"type": kind},
        "materialization": {"pull_latest_features": True},
        "entity_key_serialization_version": 3,
    }
    return FeatureStore(config=RepoConfig(repo_path=folder, **config))


def apply_view(store: "FeatureStore", path: str, **source: Any) -> None:
    """Registers `view`, features `value` and `word` of the entity `thing` (`id`), for three days."""
    from feast import Entity, FeatureView, Field, FileSource
    from feast.types import Int64, String
    from feast.value_type import ValueType

    thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    schema = [Field(name="value", dtype=Int64), Field(name="word", dtype=String)]
    options = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created"} | source
    view = FeatureView(
        name="view", entities=[thing], schema=schema, ttl=timedelta(days=3), source=FileSource(path=path, **options)
    )
    store.apply([thing, view])


def rows(*given: Sequence[Any]) -> pl.DataFrame:
    """Rows of that view: id, value, days after the start of the event and of its creation."""
    return pl.DataFrame(
        [
            (key, value, f"w{value}", START + timedelta(days=day), START + timedelta(days=made))
            for key, value, day, made in given
        ],
        schema={
            "id": pl.Int64,
            "value": pl.Int64,
            "word": pl.String,
            "event_timestamp": pl.Datetime("us", "UTC"),
            "created": pl.Datetime("us", "UTC"),
        },
        orient="row",
    )


def asked(*given: Sequence[Any]) -> pl.DataFrame:
    """Entity rows: id and days after the start."""
    days = [(key, START + timedelta(days=day)) for key, day in given]
    return pl.DataFrame(days, schema={"id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC")}, orient="row")


def joined(store: "FeatureStore", given: Any, **options: Any) -> list[int | None]:
    """The values found."""
    return list(
        store.get_historical_features(entity_df=given, features=["view:value"], **options)
        .to_arrow()["value"]
        .to_pylist()
    )
