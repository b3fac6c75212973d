"""The offline store behind Feast's own interface."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from fti.common.errors import FeatureStoreError
from fti.common.feature_store import open_store
from fti.common.settings import Settings

START = datetime(2024, 1, 1, tzinfo=UTC)
STORE = """
project: p
provider: local
registry: {registry_type: sql, path: "sqlite:///${FTI_HOME}/registry.db"}
online_store: {type: sqlite, path: "${FTI_HOME}/online.db"}
offline_store: {type: fti.retrieve.asof.AsofOfflineStore}
entity_key_serialization_version: 3
"""


@pytest.fixture
def store(tmp_path: Path, settings: Settings):  # type: ignore[no-untyped-def]
    (tmp_path / "feature_store.yaml").write_text(STORE)
    store = open_store(str(tmp_path), settings)
    from feast import Entity, FeatureView, Field, FileSource
    from feast.types import Int64
    from feast.value_type import ValueType

    values = pl.DataFrame(
        {
            "id": [1, 1, 1, 2],
            "raw": [10, 11, 12, 20],
            "known": [START, START + timedelta(days=1), START + timedelta(days=1), START],
            "made": [START, START + timedelta(hours=9), START + timedelta(hours=3), START],
        }
    )
    values.write_parquet(tmp_path / "values.parquet")
    place = Entity(name="place", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(
        path=str(tmp_path / "values.parquet"),
        timestamp_field="known",
        created_timestamp_column="made",
        field_mapping={"raw": "value"},
    )
    schema = [Field(name="value", dtype=Int64)]
    view = FeatureView(name="view", entities=[place], ttl=timedelta(days=3), schema=schema, source=source)
    world = FeatureView(name="world", entities=[], ttl=timedelta(0), schema=schema, source=source)
    store.apply([place, view, world])
    return store, view


def test_rows_keep_their_order_repeat_and_stay_without_features(store) -> None:  # type: ignore[no-untyped-def]
    days = [2, -1, 0, 2, 9, 3]
    rows = pd.DataFrame(
        {
            "id": [1, 1, 2, 1, 1, 2],
            "event_timestamp": [START + timedelta(days=day) for day in days],
            "note": list("abcdef"),
        }
    )
    job = store[0].get_historical_features(
        entity_df=rows, features=["view:value", "world:value"], full_feature_names=True
    )
    found = job.to_df()
    assert found["note"].tolist() == list("abcdef")
    # Of the two values of day 1 the one created later holds; day 9 is past the time to live, day 3 its last instant.
    assert found["view__value"].astype("Int64").tolist() == [11, pd.NA, 20, 11, pd.NA, 20]
    assert found["world__value"].isna().tolist() == [False, True, False, False, False, False]


def test_two_roles_of_one_entity(store) -> None:  # type: ignore[no-untyped-def]
    from feast import FeatureService

    feast, view = store
    roles = [view.with_name(role).with_join_key_map({"id": role}) for role in ("here", "there")]
    service = FeatureService(name="roles", features=roles)
    feast.apply([service])
    rows = pd.DataFrame({"here": [1, 2], "there": [2, 7], "event_timestamp": [START, START]})
    found = feast.get_historical_features(entity_df=rows, features=service, full_feature_names=True).to_df()
    assert found["here__value"].tolist() == [10, 20]
    assert found["there__value"].astype("Int64").tolist() == [20, pd.NA]


def test_a_join_key_that_is_missing(store) -> None:  # type: ignore[no-untyped-def]
    rows = pd.DataFrame({"other": [1], "event_timestamp": [START]})
    with pytest.raises(FeatureStoreError, match="lack id, join keys of the feature view 'view'"):
        store[0].get_historical_features(entity_df=rows, features=["view:value"]).to_df()


def test_the_latest_row_of_each_key_goes_online(store) -> None:  # type: ignore[no-untyped-def]
    store[0].materialize(START, START + timedelta(days=5))
    found = store[0].get_online_features(["view:value"], [{"id": 1}, {"id": 2}, {"id": 3}]).to_dict()
    assert found["value"] == [11, 20, None]
