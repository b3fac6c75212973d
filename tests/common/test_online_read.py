"""Reading online features: as Feast's own reader does, only faster; and TTL and policies as they are declared."""

import asyncio
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fti.common.errors import ConfigError, FeatureStoreError
from fti.common.online.feast_store import FeastSource
from fti.common.online.keys import entity_keys
from fti.common.online.plan import make_plan
from fti.common.online.reader import OnlineReader, open_reader
from fti.common.online.values import NUMBERS, numbers, objects, times
from fti.common.online.vectors import Vectors
from tests.common.online import NOW, SQLITE, apply_shop, open_shop, put, redis_store, reference
from tests.servers import redis_server

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
SECONDS = st.integers(-(10**9), 4 * 10**9)
FEW_OR_MANY = st.sampled_from([1, 70])  # few values are decoded by a loop, many by NumPy


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield apply_shop(folder, SQLITE)
        return
    with redis_server() as server:
        yield apply_shop(folder, redis_store(server.port))


def same(column: "np.ndarray", expected: list[Any]) -> bool:
    """Numbers as float32 with NaN, all else as it is."""
    if column.dtype == object:
        return column.tolist() == expected
    with np.errstate(over="ignore"):
        wanted = np.array([math.nan if value is None else value for value in expected], dtype=np.float64)
        return np.array_equal(column, wanted.astype(np.float32), equal_nan=True)


def nullable(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["", "a", "Ä b"]),
        st.integers(-2, 2),
        st.fixed_dictionaries(
            {
                "f": nullable(FLOAT32),
                "d": nullable(st.floats(allow_nan=False)),
                "i": nullable(INT32),
                "l": nullable(INT64),
                "b": nullable(st.booleans()),
                "s": nullable(TEXT),
                "u": nullable(st.integers(0, 2**31).map(lambda s: datetime.fromtimestamp(s, UTC))),
                "a": nullable(st.lists(st.integers(0, 9), min_size=1)),
            }
        ),
    ),
    max_size=6,
)
ASKED = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["", "a", "Ä b", "other"]), st.integers(-3, 3)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, asked=ASKED, seconds=st.integers(0, 10**6))
def test_it_reads_what_feast_reads(store: Any, rows: list[Any], asked: list[Any], seconds: int) -> None:
    for step, (customer, shop, day, values) in enumerate(rows):
        at = NOW + timedelta(seconds=seconds + step)
        put(store, "every", {"customer_id": customer}, values, at)
        put(store, "pair", {"shop": shop, "customer_id": customer}, {"n": values["l"]}, at)
        put(store, "place", {"day": day, "shop": shop}, {"x": values["f"], "y": values["s"]}, at)
        put(store, "world", {"__dummy_id": ""}, {"w": values["d"]}, at)
    entities = dict(zip(["customer_id", "friend_id", "shop", "day"], map(list, zip(*asked, strict=True)), strict=True))
    reader = open_reader(store, "all_v1", lambda: NOW)
    found = reader.read(entities)
    expected = reference(store, "all_v1", entities)
    assert found.columns.keys() == expected.keys() == reader.kinds.keys()
    for name, (values, stamps) in expected.items():
        assert same(found.columns[name], values), name
        known = found.known_at[name.split("__")[0]]
        assert np.where(np.isnat(known), 0, known.astype("M8[s]").astype(np.int64)).tolist() == stamps, name
    check_feast_source(store, reader, entities)
    if reader.on_loop:
        check_same(found, asyncio.run(reader.aread(entities)))
    for view, status in found.status.items():
        valued = [
            any(value is not None for value in row)
            for row in zip(*(v for name, (v, _) in expected.items() if name.startswith(f"{view}__")), strict=True)
        ]
        assert (status == "fresh").tolist() == valued and set(status) <= {"fresh", "missing"}
    reader.close()


def check_feast_source(store: Any, reader: OnlineReader, entities: dict[str, list[Any]]) -> None:
    """What any other store of Feast's gives, through Feast's own reader: the same."""
    plan = make_plan(store, store.get_feature_service("all_v1"))
    source = FeastSource(store, store.get_feature_service("all_v1"), plan)
    check_same(reader.read(entities), OnlineReader(plan, source, lambda: NOW).read(entities))


def check_same(one: Vectors, other: Vectors) -> None:
    for part in ("columns", "status", "known_at"):
        assert getattr(one, part).keys() == getattr(other, part).keys()
        for name, column in getattr(one, part).items():
            np.testing.assert_array_equal(column, getattr(other, part)[name], err_msg=name)


@given(st.lists(st.tuples(INT64, TEXT, INT32, st.binary(max_size=9), SECONDS)))
def test_keys_are_feasts(rows: list[tuple[Any, ...]]) -> None:
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    names, dtypes = ["z", "ä", "y", "a", "t"], ["int64", "string", "int32", "bytes", "unix_timestamp"]
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    keys = entity_keys(names, dtypes, columns)  # type: ignore[arg-type]
    for row, key in zip(rows, keys, strict=True):
        values = [Value(**{f"{dtype}_val": value}) for dtype, value in zip(dtypes, row, strict=True)]
        assert key == serialize_entity_key(EntityKey(join_keys=names, entity_values=values), 3)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int64", [1, None]),
        ("int64", [1, 2**63]),
        ("int32", [1, 2**31]),
        ("string", ["a", 1]),
        ("string", ["a", "\ud800"]),
        ("int64", [1, 1.0]),
    ],
)
def test_a_key_of_another_type_is_refused(dtype: Any, values: list[Any]) -> None:
    with pytest.raises(ConfigError, match=f"join key k: row 1 is .*Allowed: values of type {dtype}"):
        entity_keys(["k"], [dtype], [values])


FIELDS = {
    "FLOAT": ("float_val", FLOAT32),
    "DOUBLE": ("double_val", st.floats(allow_nan=False)),
    "INT32": ("int32_val", INT32),
    "INT64": ("int64_val", INT64),
    "BOOL": ("bool_val", st.booleans()),
    "STRING": ("string_val", TEXT | st.integers(100, 40_000).map(lambda size: "ß" * size)),
    "BYTES": ("bytes_val", st.binary()),
}


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(FIELDS)))
def test_values_are_decoded_as_by_protobuf(data: st.DataObject, kind: str) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    field, strategy = FIELDS[kind]
    wanted = data.draw(st.lists(nullable(strategy), max_size=20)) * data.draw(FEW_OR_MANY)
    stored = [None if value is None else Value(**{field: value}).SerializeToString() for value in wanted]
    decoded = (numbers if kind in NUMBERS else objects)(kind, stored)
    assert same(decoded, wanted)


@settings(deadline=None)
@given(st.data())
def test_a_value_of_another_type_is_never_taken_for_a_number(data: st.DataObject) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    kind, other = data.draw(st.permutations(sorted(FIELDS)).map(lambda kinds: kinds[:2]))
    family = {"DOUBLE": "FLOAT", "INT32": "INT64"}
    if family.get(kind, kind) == family.get(other, other):
        return
    good = [Value(**{FIELDS[kind][0]: value}) for value in data.draw(st.lists(FIELDS[kind][1], max_size=5))]
    good *= data.draw(FEW_OR_MANY)
    bad = Value(**{FIELDS[other][0]: data.draw(FIELDS[other][1])})
    mixed = data.draw(st.permutations([*good, bad]))
    with pytest.raises(FeatureStoreError, match=f"of type {family.get(other, other)}|of type {other}"):
        (numbers if kind in NUMBERS else objects)(kind, [value.SerializeToString() for value in mixed])


@given(st.lists(nullable(st.tuples(SECONDS, st.integers(0, 999_999_999))), max_size=20), FEW_OR_MANY)
def test_event_times_are_decoded_as_by_protobuf(stamps: list[tuple[int, int] | None], times_over: int) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    stamps = stamps * times_over
    stored = [
        None if stamp is None else Timestamp(seconds=stamp[0], nanos=stamp[1]).SerializeToString() for stamp in stamps
    ]
    for stamp, value, found in zip(stamps, stored, times(stored), strict=True):
        expected = -(2**63) if not value else stamp[0] * 10**6 + stamp[1] // 1000  # type: ignore[index]
        assert found == expected


def test_what_callers_must_send(store: Any) -> None:
    reader = open_reader(store, "all_v1", lambda: NOW)
    assert reader.keys == {"customer_id": "int64", "shop": "string", "day": "int32", "friend_id": "int64"}
    keys: dict[str, list[Any]] = {"customer_id": [1, 2], "friend_id": [1, 2], "shop": ["a", "a"], "day": [0, 0]}
    with pytest.raises(ConfigError, match="no friend_id"):
        reader.read({name: values for name, values in keys.items() if name != "friend_id"})
    with pytest.raises(ConfigError, match=r"columns of \[1, 2\] rows"):
        reader.read({**keys, "day": [0]})
    with pytest.raises(ConfigError, match="join key customer_id: row 1 is '2'"):
        reader.read({**keys, "customer_id": [1, "2"]})
    with pytest.raises(ConfigError, match="join key shop"):
        reader.read({**keys, "shop": [["a"], "b"]})
    empty = reader.read({name: [] for name in keys})
    assert all(len(column) == 0 for column in empty.columns.values())
    with pytest.raises(FeatureStoreError, match=r"no feature service 'none'.*all_v1, numbers_v1"):
        open_reader(store, "none", lambda: NOW)


def test_many_rows_of_few_keys_and_more_keys_than_a_statement_takes(store: Any) -> None:
    for customer in (7, 1999):
        put(store, "every", {"customer_id": customer}, {"f": customer / 2, "l": customer}, NOW + timedelta(days=99))
    reader = open_reader(store, "numbers_v1", lambda: NOW)
    asked = [*range(1990, 4000), *[7] * 5000]
    found = reader.read({"customer_id": asked}).columns
    assert found["every__l"][asked.index(1999)] == 1999 and (found["every__f"][-5000:] == 3.5).all()
    assert np.isnan(found["every__f"][asked.index(2000) : 2010]).all()


def test_eight_threads_read_at_once_while_one_writes(store: Any) -> None:
    put(store, "every", {"customer_id": 1}, {"f": 1.0, "l": 1}, NOW + timedelta(days=100))
    reader = open_reader(store, "numbers_v1", lambda: NOW)
    problems: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(100):
                found = reader.read({"customer_id": [1, 500]}).columns["every__f"]
                assert found[0] >= 1 and np.isnan(found[1])
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for step in range(50):
        put(store, "every", {"customer_id": 1}, {"f": 1.0 + step, "l": 1}, NOW + timedelta(days=101 + step))
    for thread in threads:
        thread.join()
    assert not problems


def test_a_feature_whose_type_has_changed_is_an_error(tmp_path: Path) -> None:
    from feast import FeatureView, Field
    from feast.types import Int64, String

    store = apply_shop(tmp_path, SQLITE)
    reader = open_reader(store, "numbers_v1", lambda: NOW)
    view = store.get_feature_view("every")
    fields = [Field(name="f", dtype=String), Field(name="l", dtype=Int64), Field(name="customer_id", dtype=Int64)]
    changed = FeatureView(
        name="every", entities=[store.get_entity("customer")], schema=fields, source=view.batch_source
    )
    store.apply([changed])
    put(store, "every", {"customer_id": 1}, {"f": "1", "l": 1})
    with pytest.raises(FeatureStoreError, match=r"every__f: .*of type STRING.*Allowed: FLOAT, as registered when"):
        reader.read({"customer_id": [1]})


def test_before_anything_is_materialized(tmp_path: Path) -> None:
    store = apply_shop(tmp_path, SQLITE)
    reader = open_reader(store, "numbers_v1", lambda: NOW)
    assert reader.read({"customer_id": [1]}).status["every"].tolist() == ["missing"]
    (tmp_path / "home/online.db").unlink()
    with pytest.raises(FeatureStoreError, match=r"online\.db does not answer"):
        reader.read({"customer_id": [1]})
    import sqlite3

    sqlite3.connect(tmp_path / "home/online.db").execute("CREATE TABLE other (x)")
    with pytest.raises(FeatureStoreError, match="lacks a feature view: no such table: online_every"):
        reader.read({"customer_id": [1]})


def test_a_store_made_anew_is_followed(tmp_path: Path) -> None:
    store = apply_shop(tmp_path, SQLITE)
    put(store, "every", {"customer_id": 1}, {"f": 1.0, "l": 1})
    reader = open_reader(store, "numbers_v1", lambda: NOW)
    assert reader.read({"customer_id": [1]}).columns["every__f"].tolist() == [1.0]
    (tmp_path / "home/online.db").unlink()
    other = apply_shop(tmp_path, SQLITE)
    put(other, "every", {"customer_id": 1}, {"f": 2.0, "l": 1})
    assert reader.read({"customer_id": [1]}).columns["every__f"].tolist() == [2.0]


POLICIES = """
forever null 0
day null 86400
filled default 86400
strict refuse 86400
"""


def policy_reader(folder: Path, now: datetime, **tags: Any) -> tuple[Any, OnlineReader]:
    """Views `forever`, `day`, `filled` and `strict` of one customer, each with a number and a text."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, Int64, String

    store = open_shop(folder, SQLITE)
    customer = Entity(name="customer", value_type=ValueType.INT64)
    views = []
    for line in POLICIES.split("\n")[1:-1]:
        name, on_missing, ttl = line.split()
        fields = [
            Field(name="customer", dtype=Int64),
            Field(name="n", dtype=Float32, tags={"default": "-1.5"}),
            Field(name="t", dtype=String, tags={"default": "none"}),
        ]
        source = FileSource(name=name, path=str(folder / name), timestamp_field="event_timestamp")
        views.append(
            FeatureView(
                name=name,
                entities=[customer],
                ttl=timedelta(seconds=int(ttl)),
                schema=fields,
                source=source,
                tags={"on_missing": on_missing} if on_missing != "null" else {},
            )
        )
    store.apply([customer, *views, FeatureService(name="v1", features=views)])
    return store, open_reader(store, "v1", lambda: now)


def test_ttl_and_policies(tmp_path: Path) -> None:
    store, reader = policy_reader(tmp_path, NOW)
    ages = {1: timedelta(days=1), 2: timedelta(days=1, seconds=1), 3: timedelta(0), 4: timedelta(days=-1)}
    for customer, age in ages.items():
        for view in ("forever", "day", "filled", "strict"):
            text = None if customer == 3 else "x"
            put(store, view, {"customer": customer}, {"n": None if customer == 3 else 1.0, "t": text}, NOW - age)
    put(store, "filled", {"customer": 5}, {"n": None, "t": "y"}, NOW)
    found = reader.read({"customer": [1, 2, 3, 4, 5]})
    assert found.status["forever"].tolist() == ["fresh", "fresh", "missing", "fresh", "missing"]
    for view in ("day", "filled", "strict"):
        last = "fresh" if view == "filled" else "missing"
        assert found.status[view].tolist() == ["fresh", "stale", "missing", "fresh", last], view
    assert found.known_at["day"][1] == np.datetime64(NOW.replace(tzinfo=None) - ages[2])
    assert np.isnat(found.known_at["day"][4])
    assert same(found.columns["forever__n"], [1.0, 1.0, None, 1.0, None])
    assert same(found.columns["day__n"], [1.0, None, None, 1.0, None])
    assert same(found.columns["day__t"], ["x", None, None, "x", None])
    assert same(found.columns["filled__n"], [1.0, -1.5, -1.5, 1.0, None]), "a single null in a row stays one"
    assert same(found.columns["filled__t"], ["x", "none", "none", "x", "y"])
    assert {view: rows.tolist() for view, rows in found.refused.items()} == {"strict": [False, True, True, False, True]}


def test_a_store_that_is_not_asked(tmp_path: Path) -> None:
    _, reader = policy_reader(tmp_path, NOW)
    found = reader.unavailable(2)
    assert {status for rows in found.status.values() for status in rows.tolist()} == {"unavailable"}
    assert same(found.columns["day__n"], [None, None]) and same(found.columns["filled__t"], ["none", "none"])
    assert found.refused["strict"].all() and found.columns.keys() == reader.kinds.keys()


@pytest.mark.parametrize(
    ("tags", "field", "message"),
    [
        ({"on_missing": "zero"}, {}, "on_missing is 'zero'. Allowed: null, default, refuse"),
        ({"on_missing": "default"}, {}, "feature n of view v has no default"),
        ({"on_missing": "default"}, {"default": "few"}, "its default is 'few'. Allowed: a value of type INT64"),
        ({"on_missing": "default"}, {"default": "1.5"}, "its default is '1.5'"),
    ],
)
def test_a_wrong_policy_is_named(tags: dict[str, str], field: dict[str, str], message: str) -> None:
    from feast import FeatureView, Field, FileSource
    from feast.types import Int64

    from fti.common.online.policy import Policy

    source = FileSource(name="v", path="none", timestamp_field="event_timestamp")
    view = FeatureView(name="v", schema=[Field(name="n", dtype=Int64, tags=field)], source=source, tags=tags)
    with pytest.raises(FeatureStoreError, match=message):
        Policy.of(view)


def test_on_demand_views_are_computed_from_fresh_values_only(tmp_path: Path) -> None:
    import pandas as pd
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64, Int64

    store = open_shop(tmp_path, SQLITE)
    customer = Entity(name="customer", value_type=ValueType.INT64)
    source = FileSource(name="base", path=str(tmp_path / "base"), timestamp_field="event_timestamp")
    fields = [Field(name=name, dtype=Int64) for name in ("customer", "n", "m")]
    base = FeatureView(name="base", entities=[customer], ttl=timedelta(days=1), schema=fields, source=source)
    request = RequestSource(name="request", schema=[Field(name="plus", dtype=Int64)])

    @on_demand_feature_view(sources=[base, request], schema=[Field(name="sum", dtype=Float64)], mode="python")
    def total(inputs: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(inputs["n"], inputs["plus"], strict=True)
        return {"sum": [None if n is None else float(n + plus) for n, plus in pairs]}

    @on_demand_feature_view(sources=[base], schema=[Field(name="half", dtype=Float64)], mode="pandas")
    def halved(inputs: pd.DataFrame) -> pd.DataFrame:
        return (inputs["base__n"] / 2).to_frame("half").astype("float64")

    service = FeatureService(name="v1", features=[base[["m"]], total, halved.with_name("halves")])
    store.apply([customer, base, request, total, halved, service])
    for number, age in {1: 0, 2: 2}.items():
        put(store, "base", {"customer": number}, {"n": 10 * number, "m": number}, NOW - timedelta(days=age))
    reader = open_reader(store, "v1", lambda: NOW)
    assert reader.request_data == {"plus": "INT64"}
    found = reader.read({"customer": [2, 1, 3], "plus": [5, 6, 7]})
    assert found.columns.keys() == {"base__m", "total__sum", "halves__half"} == reader.kinds.keys()
    assert same(found.columns["halves__half"], [None, 5.0, None])
    assert same(found.columns["base__m"], [None, 1, None])
    assert same(found.columns["total__sum"], [None, 16.0, None])
    assert found.status["base"].tolist() == ["stale", "fresh", "missing"]
    with pytest.raises(ConfigError, match="no plus"):
        reader.read({"customer": [1]})
