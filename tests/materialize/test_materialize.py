"""The online store: latest values, incremental, safe to run twice."""

import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock

from fti.common.errors import BusyError, ConfigError, FeatureStoreError
from fti.common.feature_store import open_store, service_of
from fti.common.settings import Settings
from fti.featurize.logic import featurize
from fti.materialize.logic import materialize
from tests.featurize.shop import write_shop


@pytest.fixture
def repo(tmp_path: Path, settings: Settings) -> str:
    repo, orders = write_shop(tmp_path)
    featurize({"orders": orders}, str(repo), settings.home / "features.json", settings)
    return str(repo)


def online_features(repo: str, settings: Settings, customers: list[int]) -> dict[str, list[Any]]:
    """What Feast reads."""
    store = open_store(repo, settings)
    service = store.get_feature_service("shop_v1")
    found = store.get_online_features(features=service, entity_rows={"customer": customers}, full_feature_names=True)
    return {name: values for name, values in found.to_dict().items() if name != "customer"}


def orders_of(repo: str, settings: Settings) -> list[int | None]:
    found = online_features(repo, settings, [0, 1, 2, 99])
    assert sorted(found) == ["spending__orders", "spending__total"]
    return found["spending__orders"]


def test_each_run_goes_on_where_the_last_one_stopped(repo: str, settings: Settings) -> None:
    assert orders_of(repo, settings) == [None] * 4
    (first,) = materialize(repo, "2024-01-10T12:00:00", settings)
    assert (first.start, first.end) == (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 10, 12, tzinfo=UTC))
    assert first.keys == 3
    assert orders_of(repo, settings) == [4, 3, 3, None]
    (second,) = materialize(repo, "", settings)
    assert (second.start, second.end) == (first.end, datetime(2024, 1, 30, 12, tzinfo=UTC))
    assert orders_of(repo, settings) == [10, 10, 10, None]
    (third,) = materialize(repo, "", settings)
    assert third.keys == 0
    assert orders_of(repo, settings) == [10, 10, 10, None]


def test_registering_again_keeps_the_place(repo: str, settings: Settings, tmp_path: Path) -> None:
    materialize(repo, "", settings)
    featurize({"orders": tmp_path / "orders.parquet"}, repo, settings.home / "features.json", settings)
    assert materialize(repo, "", settings)[0].keys == 0


def more_orders(tmp_path: Path, **columns: list[object]) -> Path:
    """The shop's orders and some more."""
    orders = pl.read_parquet(tmp_path / "orders.parquet")
    more = pl.DataFrame(columns | {"channel": ["web"] * len(columns["customer"])}).cast(dict(orders.schema))
    pl.concat([orders, more.select(orders.columns)]).sort("bought").write_parquet(tmp_path / "more.parquet")
    return tmp_path / "more.parquet"


def totals(repo: str, settings: Settings, customer: int) -> tuple[float | None, int | None]:
    found = online_features(repo, settings, [customer])
    return found["spending__total"][0], found["spending__orders"][0]


def test_a_row_of_long_ago_that_comes_late_is_materialized(repo: str, settings: Settings, tmp_path: Path) -> None:
    materialize(repo, "", settings)
    orders = more_orders(tmp_path, customer=[7], bought=[datetime(2024, 1, 3)], amount=[5.0])
    featurize({"orders": orders}, repo, settings.home / "features.json", settings)
    (late,) = materialize(repo, "", settings)
    assert late.start == datetime(2024, 1, 3, tzinfo=UTC)
    assert totals(repo, settings, 7) == (5.0, 1)
    assert orders_of(repo, settings) == [10, 10, 10, None]


def test_an_end_in_the_future_leaves_no_gap(repo: str, settings: Settings, tmp_path: Path) -> None:
    materialize(repo, "2030-01-01", settings)
    orders = more_orders(tmp_path, customer=[0], bought=[datetime(2024, 2, 20)], amount=[5.0])
    featurize({"orders": orders}, repo, settings.home / "features.json", settings)
    materialize(repo, "", settings)
    assert totals(repo, settings, 0)[1] == 11


def test_a_transform_that_was_corrected_is_materialized(repo: str, settings: Settings, tmp_path: Path) -> None:
    materialize(repo, "", settings)
    total, _ = totals(repo, settings, 0)
    sql = Path(repo, "sql/spending.sql")
    sql.write_text(sql.read_text().replace("sum(amount)", "2 * sum(amount)"))
    featurize({"orders": tmp_path / "orders.parquet"}, repo, settings.home / "features.json", settings)
    materialize(repo, "", settings)
    assert total
    assert totals(repo, settings, 0)[0] == 2 * total


def test_a_feature_added_to_a_view_is_materialized(repo: str, settings: Settings, tmp_path: Path) -> None:
    materialize(repo, "", settings)
    sql, definitions = Path(repo, "sql/spending.sql"), Path(repo, "definitions.py")
    sql.write_text(sql.read_text().replace("count(*)", "max(amount) OVER past AS most, count(*)"))
    field = 'Field(name="orders", dtype=Int64)'
    definitions.write_text(definitions.read_text().replace(field, f'{field}, Field(name="most", dtype=Float32)'))
    featurize({"orders": tmp_path / "orders.parquet"}, repo, settings.home / "features.json", settings)
    materialize(repo, "", settings)
    found = online_features(repo, settings, [0, 1, 2])
    assert None not in found["spending__most"]


def test_an_end_in_the_past_changes_nothing(repo: str, settings: Settings) -> None:
    materialize(repo, "", settings)
    assert materialize(repo, "2024-01-02", settings)[0].keys == 0
    assert orders_of(repo, settings) == [10, 10, 10, None]


def test_what_cannot_be_used(repo: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="end is 'yesterday'"):
        materialize(repo, "yesterday", settings)
    with FileLock(settings.home / "materialize.lock"), pytest.raises(BusyError, match="another materialization"):
        materialize(repo, "", settings)
    Path(settings.offline_uri, "spending").rename(tmp_path / "elsewhere")
    with pytest.raises(FeatureStoreError, match="featurize first"):
        materialize(repo, "", settings)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///${FTI_HOME}/registry.db", "file is not a database"),
        ("postgresql+psycopg://me:pass-word@127.0.0.1:1/feast", "Connection refused"),
        ("postgresql+psycopg://me:pass-word:1:2/feast", "cannot be reached"),
    ],
)
def test_a_registry_that_cannot_be_reached(repo: str, settings: Settings, url: str, said: str) -> None:
    (settings.home / "registry.db").write_bytes(b"no database" * 1000)
    profile = Path(repo) / "feature_store.yaml"
    profile.write_text(profile.read_text().replace("sqlite:///${FTI_HOME}/registry.db", url))
    for use in (lambda: materialize(repo, "", settings), lambda: service_of(open_store(repo, settings), "shop_v1")):
        with pytest.raises(FeatureStoreError, match=said) as failure:
            use()
        assert "registry of the feature store 'shop' cannot be reached" in str(failure.value)
        assert "pass-word" not in "".join(traceback.format_exception(failure.value))
        assert "\n" not in str(failure.value)


def test_errors_show_no_query_plan(repo: str, settings: Settings) -> None:
    for file in Path(settings.offline_uri, "spending").rglob("*.parquet"):
        pl.read_parquet(file, hive_partitioning=False).drop("total").write_parquet(file)
    with pytest.raises(FeatureStoreError, match="total") as failure:
        materialize(repo, "", settings)
    assert "\n" not in str(failure.value)


def test_nothing_registered(tmp_path: Path, settings: Settings) -> None:
    repo, _ = write_shop(tmp_path)
    with pytest.raises(ConfigError, match="no feature view"):
        materialize(str(repo), "", settings)
