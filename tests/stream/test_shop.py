"""Streaming on a small shop: the law under any order of events, and what happens when something goes wrong."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fti.common.errors import (
    BusyError,
    ConfigError,
    ContractError,
    FeatureStoreError,
    SourceError,
    StorageError,
    TransformError,
)
from fti.common.feature_store import open_store
from fti.common.files import digest_of
from fti.materialize.logic import materialize
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, object_store
from tests.servers import redis_server
from tests.stream.shop import KEYS, MIDNIGHT, STREAM, Shop, make_shop, order

FIRST = [order(0, 0, -30), order(1, 1, -5, 20.0)]
KEPT = [*FIRST, order(9, 3, -50)]  # the last of them is never corrected: the batch path refuses empty tables
END = MIDNIGHT + timedelta(days=5)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.delenv("FTI_OFFLINE_URI", raising=False)
    return make_shop(tmp_path, FIRST)


def hour(hours: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hours)


def online(shop: Shop) -> dict[str, list[Any]]:
    """What Feast's own reader finds for customers 0 to 2."""
    store = open_store(str(shop.repo), shop.settings)
    service = store.get_feature_service("shop_v1")
    return store.get_online_features(service, {"customer": [0, 1, 2]}, full_feature_names=True).to_dict()  # type: ignore[no-any-return]


def latest(tables: dict[str, pl.DataFrame], at: datetime) -> dict[str, list[Any]]:
    """The same from feature tables."""
    found: dict[str, list[Any]] = {"customer": [0, 1, 2]}
    for view, rows in tables.items():
        known = rows.filter(pl.col("event_timestamp") <= at).sort("event_timestamp")
        for name in [name for name in rows.columns if name not in ("customer", "event_timestamp")]:
            of = [known.filter(pl.col("customer") == c) if KEYS[view] else known for c in range(3)]
            found[f"{view}__{name}"] = [each[name][-1] if len(each) else None for each in of]
    return found


def require_same(shop: Shop, orders: list[dict[str, object]], at: datetime) -> None:
    batch, streamed = shop.batch(orders, at), shop.streamed(at)
    for name, expected in batch.items():
        assert streamed[name].equals(expected), (name, streamed[name], expected)
    assert online(shop) == latest(batch, at)


amounts = st.none() | st.integers(0, 90).map(float)
events = st.builds(order, st.integers(0, 5), st.integers(0, 2), st.integers(-60, 80), amounts)
steps = st.lists(
    st.tuples(
        st.lists(events, max_size=4),
        st.integers(0, 30),  # hours until the next
        st.sampled_from(["", "", "", "restart", "batch"]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FTI_OFFLINE_URI", raising=False)
        shop = make_shop(tmp_path_factory.mktemp("template"), KEPT)
        with shop.open():
            pass
        shutil.copytree(shop.settings.home, shop.folder / "fresh")
        yield shop


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_any_order_of_events_ends_as_the_batch(template: Shop, steps: list[Any]) -> None:
    shop = template
    shutil.rmtree(shop.settings.home)
    shutil.copytree(shop.folder / "fresh", shop.settings.home)
    shop.write(KEPT)
    orders, at = {row["number"]: row for row in KEPT}, MIDNIGHT
    with ExitStack() as opened:
        stream = opened.enter_context(shop.open(at, timedelta(hours=10)))
        for sent, hours, then in steps:
            stream.push("orders", sent, at)
            orders |= {row["number"]: row for row in sent}
            if then == "restart":
                opened.close()
                stream = opened.enter_context(shop.open(at, timedelta(hours=10)))
            if then == "batch":
                shop.write(list(orders.values()))
                shop.featurize()
            at += timedelta(hours=hours)
            stream.tick(at)
        stream.tick(END)
    require_same(shop, list(orders.values()), END)


def test_what_is_pushed_is_online_at_once_and_what_leaves_a_window_when_its_time_comes(shop: Shop) -> None:
    with shop.open() as stream:
        pushed = stream.push("orders", [order(2, 2, 1), order(3, 2, 30)], hour(1))
        assert (pushed.accepted, pushed.rejected, pushed.watermark) == (2, (), hour(1))
        assert pushed.rows["spending"] == 1
        assert online(shop)["recent__orders_2d"][2] == 1
        assert stream.tick(hour(29)).rows == {}
        stream.tick(hour(30))
        assert online(shop)["recent__orders_2d"][2] == 2
        stream.tick(hour(49))
        assert online(shop)["recent__orders_2d"][2] == 1
    require_same(shop, [*FIRST, order(2, 2, 1), order(3, 2, 30)], hour(49))


def test_values_that_a_batch_run_wrote_online_before_their_time_are_taken_back(shop: Shop) -> None:
    orders = [*FIRST, order(2, 2, 5), order(3, 0, 6)]
    shop.write(orders)
    shop.featurize()
    materialize(str(shop.repo), "", shop.settings)
    assert online(shop)["spending__total"] == [20.0, 20.0, 10.0]
    with shop.open(hour(5.5)) as stream:
        stream.tick(hour(5.5))
        assert online(shop) == latest(shop.batch(orders, hour(5.5)), hour(5.5))
        stream.tick(hour(6))
    require_same(shop, orders, hour(6))


def test_a_correction_replaces_and_a_row_that_is_no_more_leaves_both_stores(shop: Shop) -> None:
    with shop.open() as stream:
        stream.push("orders", [order(2, 2, 1), order(3, 0, 2, 50.0)], hour(3))
        assert online(shop)["spending__total"] == [60.0, 20.0, 10.0]
        stream.push("orders", [order(2, 1, 1), order(3, 0, 2, 5.0)], hour(4))
        assert online(shop)["spending__total"] == [15.0, 30.0, None]
    require_same(shop, [*FIRST, order(2, 1, 1), order(3, 0, 2, 5.0)], hour(4))


def test_a_key_whose_last_row_is_gone_gets_the_one_before_the_window(shop: Shop) -> None:
    """Which only the offline store still knows."""
    text = (shop.repo / "stream.yaml").read_text()
    (shop.repo / "stream.yaml").write_text(text.replace("late: 30d", "late: 2h"))
    with shop.open() as stream:
        stream.push("orders", [order(2, 0, 1)], hour(1))
        assert online(shop)["spending__total"][0] == 20.0
        stream.push("orders", [order(2, 1, 1)], hour(2))
        assert online(shop)["spending__total"][:2] == [10.0, 30.0]
    require_same(shop, [*FIRST, order(2, 1, 1)], hour(2))


def test_the_same_events_again_change_nothing(shop: Shop) -> None:
    with shop.open() as stream:
        stream.push("orders", [order(2, 2, 1)], hour(1))
        before = digest_of(shop.settings.offline_uri)
        pushed = stream.push("orders", [order(2, 2, 1), order(2, 2, 1)], hour(1))
        assert (pushed.accepted, pushed.rows) == (2, {})
    with shop.open(hour(1)) as stream:
        assert stream.push("orders", [order(2, 2, 1)], hour(1)).rows == {}
    assert digest_of(shop.settings.offline_uri) == before


def test_events_that_break_the_contract_are_named_with_reasons_and_the_others_taken(shop: Shop) -> None:
    bad = [
        order(2, -1, 1),
        order(3, 1, 1, 950.0),
        order(4, 1, 1, 5000.0),
        order(5, 1, -24 * 31),
        {"customer": 1, "bought": "2024-01-10", "amount": 1},
    ]
    with shop.open() as stream:
        pushed = stream.push("orders", [*bad, order(6, 1, 1)], hour(1))
    assert pushed.accepted == 1
    assert {each.event: each.reasons for each in pushed.rejected} == {
        0: ("customer is below 0",),
        1: ("only customer 0 buys in bulk",),
        2: ("amount is above 1000", "only customer 0 buys in bulk"),
        3: ("bought lies before 2023-12-11 01:00:00 UTC, too late for the stream",),
        4: ("number is missing",),
    }
    require_same(shop, [*FIRST, order(6, 1, 1)], hour(1))


@pytest.mark.parametrize(
    ("table", "event", "kind", "says"),
    [
        ("order", {}, ConfigError, "no table 'order'. Allowed: orders, customers"),
        ("orders", 5, SourceError, r"events\[1\] is the number 5"),
        ("orders", {"nubmer": 1}, SourceError, r"events\[1\].nubmer is an unknown field. Allowed: amount"),
        ("orders", {"number": "2"}, SourceError, r"events\[1\].number is the text '2'. Allowed: a value of type int64"),
        ("orders", {"number": 2.5}, SourceError, r"events\[1\].number is the number 2.5"),
        ("orders", {"number": True}, SourceError, r"events\[1\].number is the boolean True"),
        ("orders", {"number": 2**63}, SourceError, r"events\[1\].number is the number"),
        ("orders", {"number": float("inf")}, SourceError, r"events\[1\].number is the number inf"),
        ("orders", {"amount": [1]}, SourceError, r"events\[1\].amount is a list"),
        ("orders", {"bought": "noon"}, SourceError, r"events\[1\].bought is the text 'noon'"),
        ("orders", {"bought": 5}, SourceError, r"events\[1\].bought is the number 5"),
        ("customers", {"level": "\ud800"}, SourceError, r"events\[1\].level is the text"),
    ],
)
def test_a_malformed_event_is_named_and_nothing_is_taken(
    shop: Shop, table: str, event: Any, kind: type[Exception], says: str
) -> None:
    before = digest_of(shop.settings.offline_uri)
    good = {"customer": 2, "level": "gold"} if table == "customers" else order(2, 2, 1)
    with shop.open() as stream:
        with pytest.raises(kind, match=says):
            stream.push(table, [good, event], hour(1))
        assert stream.tick(hour(1)).rows == {}
    assert digest_of(shop.settings.offline_uri) == before


def test_a_table_without_time_is_streamed_too(shop: Shop) -> None:
    with shop.open() as stream:
        pushed = stream.push("customers", [{"customer": 2, "level": "gold"}, {"customer": 0, "level": "basic"}])
        assert pushed.rows == {"loyalty": 2}
    assert online(shop)["loyalty__level"] == ["basic", "basic", "gold"]
    assert shop.streamed(END)["loyalty"]["level"].to_list() == ["basic", "basic", "gold"]


def test_a_row_on_which_the_sql_fails_is_not_taken(shop: Shop) -> None:
    (shop.repo / "sql" / "_paid.sql").write_text("SELECT * FROM orders WHERE if(number = 13, error('13'), 1) = 1")
    with shop.open() as stream:
        with pytest.raises(TransformError, match=r"_paid.sql.*13"):
            stream.push("orders", [order(13, 1, 1), order(2, 1, 1)], hour(1))
        assert stream.push("orders", [order(2, 2, 1)], hour(1)).rows["spending"] == 1
    require_same(shop, [*FIRST, order(2, 2, 1)], hour(1))


@pytest.mark.slow
def test_an_online_store_that_is_away_is_caught_up_with(shop: Shop) -> None:
    with redis_server() as redis:
        profile = shop.repo / "feature_store.yaml"
        sqlite = 'online_store: {type: sqlite, path: "${FTI_HOME}/online.db"}'
        to = f'online_store: {{type: redis, connection_string: "127.0.0.1:{redis.port}"}}'
        profile.write_text(profile.read_text().replace(sqlite, to))
        with shop.open(flush_every=timedelta(hours=9)) as stream:
            stream.push("orders", [order(2, 2, 1)], hour(1))
            assert online(shop)["spending__orders"][2] == 1
            redis.stop()
            with pytest.raises(FeatureStoreError, match="what was pushed is kept, but not all features"):
                stream.push("orders", [order(3, 2, 2)], hour(2))
            with pytest.raises(FeatureStoreError, match="not all features"):
                stream.tick(hour(2))
            redis.start()
            stream.tick(hour(2))
            assert online(shop)["spending__orders"][2] == 2
    assert shop.streamed(END)["spending"]["total"].to_list() == [10.0, 20.0, 10.0, 20.0]


@pytest.mark.slow
def test_an_object_store_holds_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    with object_store(tmp_path / "store") as endpoint:
        environ = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "FTI_OFFLINE_URI": f"s3://{BUCKET}/offline",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        shop = make_shop(tmp_path, FIRST, environ)
        with shop.open() as stream:
            stream.push("orders", [order(2, 2, 1), order(3, 0, 2)], hour(3))
            shop.featurize()
            stream.push("orders", [order(2, 1, 1)], hour(4))
        require_same(shop, [*FIRST, order(2, 1, 1), order(3, 0, 2)], hour(4))


def test_an_offline_store_that_fails_is_caught_up_with(shop: Shop) -> None:
    table = Path(shop.settings.offline_uri) / "spending"
    with shop.open() as stream:
        table.rename(table.with_name("away"))
        with pytest.raises(FeatureStoreError, match=r"what was pushed is kept.*spending' has no file"):
            stream.push("orders", [order(2, 2, 1)], hour(1))
        assert online(shop)["spending__orders"][2] == 1
        table.with_name("away").rename(table)
        stream.tick(hour(2))
    require_same(shop, [*FIRST, order(2, 2, 1)], hour(2))


def test_rows_wait_for_the_offline_store_as_long_as_they_may(shop: Shop) -> None:
    with shop.open(flush_every=timedelta(hours=2)) as stream:
        stream.push("orders", [order(2, 2, 1)], hour(1))
        assert (stream.waiting, len(shop.streamed(END)["spending"])) == (3, 2)
        stream.tick(hour(2))
        assert (stream.waiting, len(shop.streamed(END)["spending"])) == (0, 3)
        stream.push("orders", [order(3, 2, 3)], hour(3))
    assert len(shop.streamed(END)["spending"]) == 4


def test_after_a_batch_run_the_stream_adds_what_its_source_did_not_have(shop: Shop) -> None:
    with shop.open() as stream:
        stream.push("orders", [order(2, 2, 1)], hour(1))
        shop.featurize()  # replaces the tables by what the source has
        assert len(shop.streamed(END)["spending"]) == 2
        stream.tick(hour(1))
    require_same(shop, [*FIRST, order(2, 2, 1)], hour(1))


def test_after_a_batch_run_in_its_absence_the_stream_leaves_what_it_does_not_know(shop: Shop) -> None:
    with shop.open() as stream:
        stream.push("orders", [order(2, 2, 1)], hour(1))
    everything = [*FIRST, order(2, 2, 1), order(3, 1, 5), order(4, 2, 6)]
    shop.write(everything)
    shop.featurize()
    with shop.open(hour(7)) as stream:
        stream.tick(hour(7))
        assert shop.streamed(hour(7))["spending"].equals(shop.batch(everything, hour(7))["spending"])
        stream.push("orders", everything[3:], hour(8))
    require_same(shop, everything, hour(8))


def test_only_one_stream_at_a_time(shop: Shop) -> None:
    with shop.open(), pytest.raises(BusyError, match="another stream is at work"), shop.open():
        pass


def test_a_stream_that_stood_still_for_too_long_starts_from_the_sources(shop: Shop) -> None:
    with shop.open() as stream:
        stream.push("orders", [order(2, 2, 1)], hour(1))
    late = hour(24 * 40)
    with pytest.raises(ConfigError, match=r"stood still since 2024-01-10 01:00 UTC.*--reseed"), shop.open(late):
        pass
    shop.write([*FIRST, order(2, 2, 1), order(3, 2, 700)])
    shop.featurize()
    materialize(str(shop.repo), late.isoformat(), shop.settings)
    with shop.open(late, reseed=True) as stream:
        stream.push("orders", [order(4, 2, 24 * 39)], late)
    require_same(shop, [*FIRST, order(2, 2, 1), order(3, 2, 700), order(4, 2, 24 * 39)], late)


def test_a_stream_goes_on_with_what_a_contract_still_says(shop: Shop) -> None:
    with shop.open():
        pass
    contract = shop.repo / "orders.yaml"
    contract.write_text(contract.read_text().replace("customer: {type: int64, min: 0}", "customer: {type: string}"))
    with (
        pytest.raises(ConfigError, match=r"'orders' has other columns than .*--reseed"),
        shop.open(),
    ):
        pass


def test_a_check_that_fails_on_an_event(shop: Shop) -> None:
    contract = shop.repo / "orders.yaml"
    contract.write_text(
        contract.read_text().replace("sql: amount < 900 OR customer = 0", "sql: \"if(number = 13, error('13'), true)\"")
    )
    with shop.open() as stream:
        with pytest.raises(ContractError, match="orders.yaml: a check fails on the data.*13"):
            stream.push("orders", [order(13, 1, 1)], hour(1))
        assert stream.push("orders", [order(2, 2, 1)], hour(1)).accepted == 1


def test_a_damaged_file_of_the_offline_store_is_named(shop: Shop) -> None:
    with shop.open() as stream:
        stream.push("orders", [order(2, 2, 1)], hour(1))
        file = max(Path(shop.settings.offline_uri).glob("spending/event_date=2024-01-10/*.parquet"))
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        with pytest.raises(FeatureStoreError, match="kept, but not all.*spending"):
            stream.push("orders", [order(2, 1, 1)], hour(2))
        file.write_bytes(whole)
        stream.tick(hour(2))
    require_same(shop, [*FIRST, order(2, 1, 1)], hour(2))


@pytest.mark.parametrize(
    ("old", "new"), [("unique: true", "unique: false"), ("columns:", "undeclared: keep\ncolumns:")]
)
def test_a_contract_that_does_not_suit_a_stream(shop: Shop, old: str, new: str) -> None:
    contract = shop.repo / "orders.yaml"
    contract.write_text(contract.read_text().replace(old, new))
    with shop.open() as stream, pytest.raises(ContractError, match="orders.yaml has . unique keys"):
        stream.push("orders", [order(2, 2, 1)])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (STREAM, "late: [", "is not valid YAML"),
        ("late: 30d", "late: 30 days", "late is '30 days'. Allowed: a number with m, h, d or w"),
        ("late: 30d", "later: 30d", "has other keys.*late is required"),
        (
            "orders: {time: bought}",
            "order: {time: bought}",
            "tables names order. Allowed: a mapping of orders",
        ),
        ("{time: bought}", "{time: amount}", "tables.orders.time is 'amount'. Allowed: a timestamp or date"),
        ("{time: bought}", "{at: bought}", "tables.orders is {'at': 'bought'}"),
        ("{time: bought}", "{time: bought, early: soon}", "tables.orders.early is 'soon'"),
        ("_priced: orders", "_price: orders", "helpers names _price. Allowed: a mapping of _paid, _priced"),
        (
            "_priced: orders",
            "_priced: customers",
            "helpers._priced is 'customers'. Allowed: .* orders",
        ),
        ("recent: 2d, ", "", "reach says nothing of recent"),
        ("recent: 2d", "recent: long", "reach.recent is 'long'"),
        ("recent: 2d", "recnt: 2d", "reach names recnt. Allowed: a mapping of loyalty, recent"),
    ],
)
def test_a_stream_yaml_that_cannot_be_used_is_explained(shop: Shop, old: str, new: str, says: str) -> None:
    file = shop.repo / "stream.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=says), shop.open():
        pass


def test_without_stream_yaml_or_featurize(shop: Shop) -> None:
    (shop.repo / "stream.yaml").unlink()
    with pytest.raises(ConfigError, match=r"stream.yaml does not exist. .*docs/streaming.md"), shop.open():
        pass
    shutil.rmtree(shop.settings.home)
    with pytest.raises(FeatureStoreError, match="Run featurize first"), shop.open():
        pass


def test_a_damaged_file_is_explained_and_can_be_replaced(shop: Shop) -> None:
    with shop.open():
        pass
    (shop.settings.home / "stream" / "stream.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"stream.duckdb cannot be opened.*--reseed"), shop.open():
        pass
    with shop.open(reseed=True) as stream:
        assert stream.push("orders", [order(2, 2, 1)], hour(1)).rows["spending"] == 1
