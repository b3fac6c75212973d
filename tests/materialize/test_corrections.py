"""Whatever becomes of the offline table, the online store says what it says; and what was streamed in since."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from fti.common.feature_store import open_store
from fti.common.online.writer import open_writer
from fti.common.settings import Settings
from fti.featurize.logic import featurize
from fti.materialize.changes import Done, Span, Table, to_do
from fti.materialize.logic import materialize
from tests.materialize.stores import latest, noon, stored, write_repo, write_spending
from tests.servers import redis_server

CUSTOMERS = list(range(5))


def rows_of(*rows: tuple[int, int, int]) -> pl.DataFrame:
    """Customer, day, orders."""
    table = pl.DataFrame(rows, schema={"customer": pl.Int64, "day": pl.Int64, "orders": pl.Int64}, orient="row")
    return table.with_columns(total=pl.col("orders") / 2)


def test_a_row_that_is_gone_and_a_key_that_is_gone(tmp_path: Path, settings: Settings) -> None:
    repo = write_repo(tmp_path, settings)
    write_spending(settings, rows_of((0, 1, 1), (0, 3, 2), (1, 2, 3), (2, 3, 4)))
    materialize(repo, "", settings)
    write_spending(settings, rows_of((0, 1, 1), (2, 3, 4)))
    (done,) = materialize(repo, "", settings)
    assert stored(repo, settings, CUSTOMERS) == {0: (1, noon(1)), 2: (4, noon(3))}
    assert (done.start, done.removed) == (datetime(2024, 3, 3, tzinfo=UTC), 1)
    assert materialize(repo, "", settings)[0].keys == 0


def check_streamed(tmp_path: Path, settings: Settings, online: str) -> None:
    repo = write_repo(tmp_path, settings, online)
    write_spending(settings, rows_of((0, 1, 1), (1, 2, 2)))
    materialize(repo, "", settings)
    store = open_store(repo, settings)
    writer, view = open_writer(store), store.get_feature_view("spending")
    events = {"customer": [0, 1, 3], "event_timestamp": [noon(9), noon(1), noon(2)]}
    writer.write(view, pa.table(events | {"total": [0.5] * 3, "orders": [9] * 3}), None)
    assert stored(repo, settings, CUSTOMERS) == {0: (9, noon(9)), 1: (2, noon(2)), 3: (9, noon(2))}
    corrected = rows_of((0, 1, 5), (1, 2, 6), (2, 3, 7))
    write_spending(settings, corrected)
    (done,) = materialize(repo, "", settings)
    assert (done.keys, done.kept, done.removed) == (2, 1, 1), "the offline table knows nothing of the third customer"
    assert stored(repo, settings, CUSTOMERS) == {0: (9, noon(9)), 1: (6, noon(2)), 2: (7, noon(3))}
    writer.close()


def test_streamed_values_stay(tmp_path: Path, settings: Settings) -> None:
    check_streamed(tmp_path, settings, "")


@pytest.mark.slow
def test_streamed_values_stay_in_redis(tmp_path: Path, settings: Settings) -> None:
    with redis_server() as server:
        check_streamed(tmp_path, settings, f'{{type: redis, connection_string: "127.0.0.1:{server.port}"}}')


def test_an_online_store_that_was_lost(tmp_path: Path, settings: Settings) -> None:
    repo = write_repo(tmp_path, settings)
    rows = rows_of((0, 1, 1), (1, 2, 2))
    write_spending(settings, rows)
    materialize(repo, "", settings)
    for file in settings.home.glob("online.db*"):
        file.unlink()
    assert materialize(repo, "", settings)[0].keys == 2
    assert stored(repo, settings, CUSTOMERS) == latest(rows)


@pytest.mark.slow
def test_any_history_of_corrections(tmp_path: Path, settings: Settings) -> None:
    repo = write_repo(tmp_path, settings)
    tables = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=8, unique=True)
    ends = st.sampled_from(["", "", "2024-03-02", "2024-03-04"])

    @examples(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(tables, ends), min_size=1, max_size=3))
    def check(history: list[tuple[list[tuple[int, int]], str]]) -> None:
        for serial, (keys, end) in enumerate(history):
            rows = rows_of(*((customer, day, serial * 10 + day) for customer, day in keys))
            write_spending(settings, rows)
            materialize(repo, end, settings)
        materialize(repo, "", settings)
        assert stored(repo, settings, CUSTOMERS) == latest(rows)

    check()


MAPPED = """
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Int64, String
from feast.value_type import ValueType
import os
def source(name, **options):
    return FileSource(name=name, path=os.environ["FTI_OFFLINE_URI"] + f"/{name}", timestamp_field="event_timestamp",
                      **options)
person = Entity(name="person", join_keys=["person"], value_type=ValueType.STRING)
visits = FeatureView(
    name="visits", entities=[person], schema=[Field(name="person", dtype=String), Field(name="count", dtype=Int64)],
    source=source("visits", created_timestamp_column="written", field_mapping={"who": "person", "n": "count"}),
)
weather = FeatureView(name="weather", entities=[], schema=[Field(name="sky", dtype=String)], source=source("weather"))
"""


def test_mapped_names_created_times_and_views_of_nothing_in_particular(tmp_path: Path, settings: Settings) -> None:
    repo = Path(write_repo(tmp_path, settings))
    (repo / "mapped.py").write_text(MAPPED)
    (repo / "sql/weather.sql").write_text("SELECT max(bought) AS event_timestamp, 'clear' AS sky FROM orders")
    (repo / "sql/visits.sql").write_text(
        "SELECT who, TIMESTAMP '2024-03-01' AS event_timestamp, n, TIMESTAMP '2024-03-02' + to_days(age) AS written "
        "FROM (VALUES ('a', 1, 2), ('a', 2, 3), ('a', 3, 1), ('b', 4, 0), (NULL, 5, 0)) AS rows(who, n, age)"
    )
    featurize({"orders": tmp_path / "orders.parquet"}, str(repo), tmp_path / "features.json", settings)
    assert {view.view: view.keys for view in materialize(str(repo), "", settings)} == {
        "spending": 3,
        "visits": 2,
        "weather": 1,
    }
    found = open_store(str(repo), settings).get_online_features(
        features=["visits:count", "weather:sky"], entity_rows={"person": ["a", "b", "c"]}
    )
    assert found.to_dict() == {"person": ["a", "b", "c"], "count": [2, 4, None], "sky": ["clear"] * 3}


DAY1, DAY2 = "event_date=2024-03-01/a.parquet", "event_date=2024-03-02/a.parquet"
WHEN = [datetime(2024, 3, day, tzinfo=UTC) for day in (1, 2)]
WHOLE = Done(Table("s", {DAY1: "1", DAY2: "1"}), WHEN[1] + timedelta(hours=5), whole=True)
PART = Done(WHOLE.table, WHOLE.through)


@pytest.mark.parametrize(
    ("done", "table", "until", "expected"),
    [
        (Done(), WHOLE.table, None, Span(None, False)),
        (WHOLE, Table("t", WHOLE.table.files), None, Span(None, False)),
        (WHOLE, Table("s", None), None, Span(None, False)),
        (WHOLE, Table("s", {"part.parquet": "1"}), None, Span(None, False)),
        (WHOLE, WHOLE.table, None, None),
        (PART, WHOLE.table, WHOLE.through, None),
        (PART, WHOLE.table, None, Span(WHOLE.through, True)),
        (PART, Table("s", {DAY1: "2", DAY2: "1"}), None, Span(WHEN[0], False)),
        (WHOLE, Table("s", {DAY2: "1"}), None, Span(WHEN[0], False)),
        (WHOLE, Table("s", {DAY1: "1", DAY2: "1", DAY2 + "b": "1"}), None, Span(WHEN[1], True)),
    ],
)
def test_what_is_to_do(done: Done, table: Table, until: datetime | None, expected: Span | None) -> None:
    assert to_do(Done.read(done.text()), table, until) == expected


def test_a_memory_that_is_not_understood() -> None:
    for text in (None, "", "no JSON", "{}", '{"table": 1, "through": 2, "reached": null}'):
        assert Done.read(text) == Done()
