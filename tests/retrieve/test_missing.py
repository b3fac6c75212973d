"""Rows for which a feature view has no value: the same in training as when the model is served."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fti.common.errors import FeatureStoreError
from fti.common.feature_store import open_store
from fti.common.online.reader import open_reader
from fti.common.settings import Settings
from fti.featurize.definitions import apply, load_definitions
from fti.retrieve.logic import Outputs, retrieve
from fti.retrieve.split import Split
from tests.common.online import put
from tests.featurize.shop import STORE

DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float32, Int64, String
from feast.value_type import ValueType
customer = Entity(name="customer", value_type=ValueType.INT64)
def view(name, on_missing):
    return FeatureView(
        name=name, entities=[customer], ttl=timedelta(days=2), tags={"on_missing": on_missing},
        schema=[
            Field(name="customer", dtype=Int64),
            Field(name="total", dtype=Float32, tags={"default": "-1"}),
            Field(name="orders", dtype=Int64, tags={"default": "0"}),
            Field(name="kind", dtype=String, tags={"default": "none"}),
        ],
        source=FileSource(
            name=name, path=os.environ["FTI_OFFLINE_URI"] + "/spending", timestamp_field="event_timestamp"
        ),
    )
null_view = view("null_view", "null")
default_view = view("default_view", "default")
refuse_view = view("refuse_view", "refuse")
all_v1 = FeatureService(name="all_v1", features=[null_view, default_view, refuse_view])
two_v1 = FeatureService(name="two_v1", features=[null_view, default_view])
"""
AT = datetime(2024, 1, 10, tzinfo=UTC)
# What is known of each customer, and since when.
KNOWN = {
    1: (timedelta(0), 5.0, 2, "a"),
    2: (timedelta(days=2), 6.0, 3, "b"),  # exactly as old as the TTL
    3: (timedelta(days=2, seconds=1), 7.0, 4, "c"),
    4: (timedelta(0), None, 1, None),
    5: (timedelta(0), None, None, None),
    6: (timedelta(0), float("nan"), None, None),
}


@pytest.fixture
def repo(settings: Settings, tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(STORE)
    (folder / "definitions.py").write_text(DEFINITIONS)
    rows = [
        {"customer": c, "event_timestamp": AT - age, "total": t, "orders": o, "kind": k}
        for c, (age, t, o, k) in KNOWN.items()
    ]
    day = Path(settings.offline_uri) / "spending" / "event_date=2024-01-10"
    day.mkdir(parents=True)
    pl.DataFrame(rows, strict=False).with_columns(pl.col("total").cast(pl.Float32)).write_parquet(day / "0.parquet")
    asked = pl.DataFrame(
        {"customer": [1, 2, 3, 4, 5, 6, 7], "event_timestamp": [AT] * 7, "bought": [True, False] * 3 + [True]}
    )
    pl.concat([asked] * 30).write_parquet(tmp_path / "asked.parquet")
    return folder


def sets(tmp_path: Path, repo: Path, service: str, settings: Settings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows to learn from, by customer, and the rejected."""
    outputs = Outputs(*(tmp_path / f"{name}.parquet" for name in ("train", "validation", "test", "rejected")))
    store = open_store(str(repo), settings)
    apply(store, load_definitions(repo), repo)
    retrieve(
        str(repo),
        service,
        entities=str(tmp_path / "asked.parquet"),
        label="bought",
        request_features=[],
        outputs=outputs,
        split=Split(method="random", fractions=(0.4, 0.3, 0.3)),
        settings=settings,
    )
    kept = pl.concat([pl.read_parquet(path) for path in (outputs.train, outputs.validation, outputs.test)])
    return kept.unique("customer").sort("customer"), pl.read_parquet(outputs.rejected).unique("customer")


def test_training_and_serving_agree(settings: Settings, tmp_path: Path, repo: Path) -> None:
    kept, rejected = sets(tmp_path, repo, "two_v1", settings)
    assert rejected.is_empty()
    assert kept["default_view__total"].to_list() == [5.0, 6.0, -1.0, None, -1.0, -1.0, -1.0]
    assert kept["default_view__orders"].to_list() == [2, 3, 0, 1, 0, 0, 0]
    assert kept["default_view__kind"].to_list() == ["a", "b", "none", None, "none", "none", "none"]
    assert kept["null_view__orders"].to_list() == [2, 3, None, 1, None, None, None]

    store = open_store(str(repo), settings)
    for customer, (age, total, orders, kind) in KNOWN.items():
        for view in ("null_view", "default_view", "refuse_view"):
            put(store, view, {"customer": customer}, {"total": total, "orders": orders, "kind": kind}, AT - age)
    served = open_reader(store, "two_v1", lambda: AT).read({"customer": kept["customer"].to_list()})
    for name, column in served.columns.items():
        trained = kept[name].to_numpy() if column.dtype == object else kept[name].cast(pl.Float32).to_numpy()
        if column.dtype == object:
            assert column.tolist() == trained.tolist(), name
        else:
            np.testing.assert_array_equal(column, trained, err_msg=name)


def test_refused_rows_are_rejected_as_they_are_when_served(settings: Settings, tmp_path: Path, repo: Path) -> None:
    kept, rejected = sets(tmp_path, repo, "all_v1", settings)
    assert kept["customer"].to_list() == [1, 2, 4]
    assert rejected.sort("customer")["customer"].to_list() == [3, 5, 6, 7]
    assert set(rejected["reason"]) == {"no value of refuse_view"}
    store = open_store(str(repo), settings)
    for customer, (age, total, orders, kind) in KNOWN.items():
        put(store, "refuse_view", {"customer": customer}, {"total": total, "orders": orders, "kind": kind}, AT - age)
    served = open_reader(store, "all_v1", lambda: AT).read({"customer": list(range(1, 8))})
    assert (np.flatnonzero(served.refused["refuse_view"]) + 1).tolist() == [3, 5, 6, 7]


def test_when_every_row_is_refused(settings: Settings, tmp_path: Path, repo: Path) -> None:
    asked = pl.read_parquet(tmp_path / "asked.parquet").filter(pl.col("customer").is_in([3, 7]))
    asked.write_parquet(tmp_path / "asked.parquet")
    with pytest.raises(FeatureStoreError, match="every entity row is refused: no value of refuse_view"):
        sets(tmp_path, repo, "all_v1", settings)
