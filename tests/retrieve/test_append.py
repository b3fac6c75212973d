"""Adding rows to tables: whole or not at all, read last, and in the folders where they belong."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fti.common.errors import FeatureStoreError, StorageError
from fti.retrieve import append as module
from fti.retrieve.append import append
from fti.retrieve.source import Location, files, scan
from tests.retrieve.plain import apply_view, asked, joined, plain_store, rows


def table(*given: Any) -> pa.Table:
    return rows(*given).drop("created").to_arrow()


@pytest.fixture
def location(tmp_path: Path) -> Location:
    folder = tmp_path / "table"
    append(Location("t", str(folder)), table((1, 1, 0, 0), (1, 2, 1, 0)), "event_timestamp")
    return Location("t", str(folder))


def values(location: Location) -> list[int]:
    return scan(location).collect()["value"].to_list()


def test_days_get_their_folder_and_rows_their_order(location: Location) -> None:
    seen: list[int] = []
    append(
        location,
        table((1, 6, 1, 0), (2, 5, 0.5, 0), (1, 3, 0, 0), (1, 4, 0, 0)),
        "event_timestamp",
        progress=seen.append,
    )
    assert [name.split("/")[0] for name in files(location)] == ["event_date=2024-01-01"] * 2 + [
        "event_date=2024-01-02"
    ] * 2
    assert values(location) == [1, 3, 4, 5, 2, 6]
    assert seen == [3, 1]
    assert pq.read_schema(Path(location.uri, files(location)[0])).names == ["id", "value", "word", "event_timestamp"]


@pytest.mark.parametrize("last", ["part-0", "part-zzz", "~", "part-99999999999999999999-x", "ä"])
def test_a_new_file_sorts_after_those_that_are_there(tmp_path: Path, last: str) -> None:
    folder = tmp_path / "table/event_date=2024-01-01"
    folder.mkdir(parents=True)
    pq.write_table(table((1, 1, 0, 0)), folder / f"{last}.parquet")
    location = Location("t", str(tmp_path / "table"))
    for value in (2, 3, 4):
        append(location, table((1, value, 0, 0)), "event_timestamp")
    assert values(location) == [1, 2, 3, 4]


def test_a_folder_without_partitions_keeps_none(tmp_path: Path) -> None:
    pq.write_table(table((1, 1, 5, 0)), tmp_path / "a.parquet")
    location = Location("t", str(tmp_path))
    append(location, table((1, 2, 0, 0)), "event_timestamp")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet", ".parquet"]
    assert values(location) == [1, 2]


def test_partitions_by_other_columns(tmp_path: Path) -> None:
    location = Location("t", str(tmp_path / "table"))
    append(location, table((1, 1, 0, 0)), "event_timestamp", partition_by=["word", "id"])
    new = table((2, 2, 0, 0), (1, 1, 1, 0)).set_column(2, "word", pa.array(["a/b ä", None]))
    append(location, new, "event_timestamp")
    found = scan(location).select("id", "value", "word").collect()
    assert set(found.iter_rows()) == {(1, 1, "w1"), (2, 2, "a/b ä"), (1, 1, None)}


def test_rows_take_the_types_of_the_table(location: Location) -> None:
    new = pd.DataFrame({"word": ["x"], "event_timestamp": [datetime(2024, 1, 1, 0, 0, 1)], "value": [7.0], "id": [1]})
    append(location, pa.Table.from_pandas(new), "event_timestamp")
    assert values(location) == [1, 7, 2]
    assert scan(location).collect_schema()["event_timestamp"] == pl.Datetime("us", "UTC")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["word"]), "Allowed: id, value, word, event_timestamp"),
        (lambda t: t.append_column("more", pa.array([1])), "have the columns id, value, word, event_timestamp, more"),
        (lambda t: t.set_column(1, "value", pa.array([1.5])), "value of rows for 't' is double.*Allowed: int64"),
        (lambda t: t.set_column(1, "value", pa.array(["x"])), "value of rows for 't' is string.*Allowed: int64"),
        (lambda t: t.set_column(3, "event_timestamp", pa.nulls(1, t.schema.field(3).type)), "lack event_timestamp"),
    ],
)
def test_rows_that_do_not_fit_leave_nothing(location: Location, change: Any, said: str) -> None:
    before = files(location)
    with pytest.raises(FeatureStoreError, match=said):
        append(location, change(table((1, 9, 0, 0))), "event_timestamp")
    assert files(location) == before


def test_what_breaks_off_leaves_nothing(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two files cannot be written: the first does not appear either."""
    Path(location.uri, "event_date=2024-01-06").write_text("in the way")
    before = sorted(path for path in Path(location.uri).rglob("*"))
    with pytest.raises(StorageError, match="rows could not be added to 't'"):
        append(location, table((1, 8, 0, 0), (1, 9, 5, 0)), "event_timestamp")
    assert sorted(path for path in Path(location.uri).rglob("*")) == before


def test_a_clock_that_went_back(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "time_ns", lambda: 0)
    append(location, table((1, 3, 0, 0)), "event_timestamp")
    append(location, table((1, 4, 0, 0)), "event_timestamp")
    assert values(location) == [1, 3, 4, 2]


def test_a_single_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(table((1, 1, 0, 0)), tmp_path / "t.parquet")
    with pytest.raises(FeatureStoreError, match="single file.*Move the file into a folder"):
        append(Location("t", str(tmp_path / "t.parquet")), table((1, 2, 0, 0)), "event_timestamp")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(location: Location) -> None:
    Path(location.uri).chmod(0o500)
    with pytest.raises(StorageError, match="could not be added"):
        append(location, table((1, 1, 9, 0)), "event_timestamp")


def test_feast_pushes_rows_to_the_table_of_a_view(tmp_path: Path) -> None:
    """Feast's own push, with columns that the source maps to other names, and a late correction."""
    from feast import Entity, FeatureView, Field, FileSource, PushSource
    from feast.data_source import PushMode
    from feast.types import Int64
    from feast.value_type import ValueType

    store = plain_store(tmp_path / "repo")
    append(
        Location("t", str(tmp_path / "table")),
        rows((1, 10, 0, 0)).drop("word").rename({"value": "raw"}).to_arrow(),
        "event_timestamp",
    )
    thing = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    batch = FileSource(
        path=str(tmp_path / "table"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
        field_mapping={"raw": "value"},
    )
    source = PushSource(name="pushed", batch_source=batch)
    view = FeatureView(name="view", entities=[thing], schema=[Field(name="value", dtype=Int64)], source=source)
    store.apply([thing, view])
    news = rows((1, 11, 0, 1), (2, 20, 0, 0)).drop("word").rename({"value": "raw"}).to_pandas()
    store.push("pushed", news, to=PushMode.OFFLINE)
    assert joined(store, asked((1, 0), (2, 4))) == [11, 20]


def test_the_logs_of_a_feature_server(tmp_path: Path) -> None:
    from feast import FeatureService
    from feast.feature_logging import LoggingConfig
    from feast.infra.offline_stores.file_source import FileLoggingDestination

    store = plain_store(tmp_path / "repo")
    rows((1, 10, 0, 0)).write_parquet(tmp_path / "view.parquet")
    apply_view(store, str(tmp_path / "view.parquet"))
    logging = LoggingConfig(destination=FileLoggingDestination(path=str(tmp_path / "logs")))
    service = FeatureService(name="s", features=[store.get_feature_view("view")], logging_config=logging)
    store.apply([service])
    now = datetime.now(UTC)
    logs = pa.table(
        {
            "id": [1],
            "view__value": [10],
            "view__value__timestamp": [now],
            "view__value__status": pa.array([2], pa.int32()),
            "view__word": ["w10"],
            "view__word__timestamp": [now],
            "view__word__status": pa.array([2], pa.int32()),
            "__log_timestamp": [now],
            "__log_date": [now.date()],
            "__request_id": ["r"],
        }
    )
    (tmp_path / "more").mkdir()
    pq.write_table(logs, tmp_path / "more/x.parquet")
    store.write_logged_features(logs, service)
    store.write_logged_features(tmp_path / "more", service)
    assert scan(Location("logs", str(tmp_path / "logs"))).collect()["view__value"].to_list() == [10, 10]
