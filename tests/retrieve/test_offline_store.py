"""All that Feast can ask of an offline store, in a repository that uses nothing else of this library."""

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

from fti.common.errors import FeatureStoreError
from tests.retrieve.plain import START, apply_view, asked, joined, plain_store, rows

HISTORY = rows((1, 10, 0, 0), (1, 11, 1, 1), (1, 12, 1, 3), (2, 20, 0, 0))


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = plain_store(tmp_path / "repo")
    HISTORY.write_parquet(tmp_path / "view.parquet")
    apply_view(store, str(tmp_path / "view.parquet"))
    return store


def test_late_corrections_stay_unknown_until_they_were_made(store: Any) -> None:
    given = asked((1, 2), (1, 3), (1, 4), (1, 4.5), (2, 0))
    assert joined(store, given) == [12, 12, 12, None, 20]
    assert joined(store, given, filter_by_created_timestamp=True) == [11, 12, 12, None, 20]


@pytest.mark.parametrize("form", ["pandas", "polars", "arrow", "file", "folder", "Path"])
def test_entity_rows_in_every_form(store: Any, tmp_path: Path, form: str) -> None:
    frame = asked((1, 0), (2, 3), (1, 0), (7, 0)).with_columns(note=pl.Series(["a", "b", "c", "d"]))
    frame.write_parquet(tmp_path / "asked.parquet")
    (tmp_path / "folder/day=1").mkdir(parents=True)
    frame.write_parquet(tmp_path / "folder/day=1/x.parquet")
    forms = {
        "pandas": frame.to_pandas(),
        "polars": frame,
        "arrow": frame.to_arrow(),
        "file": str(tmp_path / "asked.parquet"),
        "folder": str(tmp_path / "folder"),
        "Path": tmp_path / "asked.parquet",
    }
    job = store.get_historical_features(entity_df=forms[form], features=["view:word"], full_feature_names=True)
    found = pl.DataFrame(pl.from_arrow(job.to_arrow()))
    assert found["view__word"].to_list() == ["w10", "w20", "w10", None]
    assert found["note"].to_list() == ["a", "b", "c", "d"]
    assert (job.metadata.min_event_timestamp, job.metadata.max_event_timestamp) == (START, START + timedelta(days=3))


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-01T00:00:00", "2024-01-05 00:00:00"],
        ["2024-01-01T02:00:00+02:00", "2024-01-05T02:00:00+02:00"],
        [date(2024, 1, 1), date(2024, 1, 5)],
        pd.to_datetime(["2024-01-01", "2024-01-05"]),
        pd.to_datetime(["2024-01-01", "2024-01-05"]).tz_localize("UTC").tz_convert("Asia/Tokyo"),
        pd.array([START, START + timedelta(days=4)], dtype=object),
    ],
    ids=["strings", "strings with a zone", "dates", "naive", "another zone", "objects"],
)
def test_times_of_every_type(store: Any, times: Any) -> None:
    frame = pd.DataFrame({"id": [1, 1], "event_timestamp": times})
    assert joined(store, frame) == [10, 12]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("SELECT id, event_timestamp FROM things", "SQL is not understood"),
        (None, "came as NoneType"),
        (pl.DataFrame({"id": [1]}), "Allowed: the time asked about in event_timestamp"),
        (pl.DataFrame({"id": [1], "event_timestamp": [1.5]}), "Allowed: the time asked about in event_timestamp"),
        (pl.DataFrame({"id": [1], "event_timestamp": ["yesterday"]}), "holds what is no time"),
        (pd.DataFrame({"id": [1, "x"], "event_timestamp": [START, START]}), "values of one type"),
        (asked((1, 0)).with_columns(value=1), "Set full_feature_names=True"),
    ],
)
def test_entity_rows_that_cannot_be_used(store: Any, given: Any, said: str) -> None:
    with pytest.raises(FeatureStoreError, match=said) as failure:
        joined(store, given)
    assert "\n" not in str(failure.value)


def test_no_entity_rows(store: Any) -> None:
    assert joined(store, asked()) == []


def test_the_only_column_of_times_is_the_time(store: Any) -> None:
    assert joined(store, asked((1, 0)).rename({"event_timestamp": "when"})) == [10]


def test_on_demand_views(store: Any, tmp_path: Path) -> None:
    from feast import Field, RequestSource
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Int64

    request = RequestSource(name="request", schema=[Field(name="extra", dtype=Int64)])

    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"sum": inputs["value"] + inputs["extra"]})

    decorate = on_demand_feature_view(
        sources=[store.get_feature_view("view"), request], schema=[Field(name="sum", dtype=Int64)], mode="pandas"
    )
    store.apply([decorate(doubled)])
    given = asked((1, 0), (2, 0), (7, 0)).with_columns(extra=pl.Series([1, 2, 3]))
    given.write_parquet(tmp_path / "asked.parquet")
    for form in (given, given.to_pandas(), str(tmp_path / "asked.parquet")):
        found = store.get_historical_features(entity_df=form, features=["view:value", "doubled:sum"]).to_df()
        assert found["sum"].tolist()[:2] == [11, 22]
        assert found["sum"].isna().tolist() == [False, False, True]
    with pytest.raises(FeatureStoreError, match="lack extra, request data of the on-demand view 'doubled'"):
        store.get_historical_features(entity_df=given.drop("extra"), features=["doubled:sum"])


@pytest.mark.parametrize("name", ["saved.parquet", "saved"])
def test_saved_datasets(store: Any, tmp_path: Path, name: str) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    job = store.get_historical_features(entity_df=asked((1, 0), (7, 0), (2, 1)), features=["view:value"])
    storage = SavedDatasetFileStorage(str(tmp_path / name))
    store.create_saved_dataset(job, "mine", storage)
    assert store.get_saved_dataset("mine").to_df()["value"].fillna(-1).tolist() == [10, -1, 20]
    with pytest.raises(FeatureStoreError, match="allow_overwrite=True"):
        job.persist(storage)
    other = store.get_historical_features(entity_df=asked((2, 0)), features=["view:value"])
    store.create_saved_dataset(other, "mine", storage, allow_overwrite=True)
    assert store.get_saved_dataset("mine").to_df()["value"].tolist() == [20]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_folders_of_any_partitions(tmp_path: Path) -> None:
    """Also where a partition is a join key, and where one is a feature."""
    store = plain_store(tmp_path / "repo")
    for key, word, value in ((1, "a b/ä", 1), (2, "x", 2)):
        folder = tmp_path / f"table/id={key}/word={word.replace(' ', '%20').replace('/', '%2F')}"
        folder.mkdir(parents=True)
        rows((key, value, 0, 0)).drop("id", "word").write_parquet(folder / "f.parquet")
    apply_view(store, str(tmp_path / "table"))
    found = store.get_historical_features(entity_df=asked((2, 0), (1, 0)), features=["view:word", "view:value"]).to_df()
    assert found["word"].tolist() == ["x", "a b/ä"]
    assert found["value"].tolist() == [2, 1]


def test_files_are_read_in_order_and_of_equals_the_last_row_wins(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "repo")
    table = tmp_path / "table/event_date=2024-01-01"
    table.mkdir(parents=True)
    for name, value in (("b", 2), ("a", 1), ("c", 3), ("part-0", 4)):
        rows((1, value, 0, 0)).drop("created").write_parquet(table / f"{name}.parquet")
    rows((1, 9, 0, 0)).write_parquet(table / ".part-1.parquet")  # not yet whole
    apply_view(store, str(tmp_path / "table"), created_timestamp_column="")
    assert joined(store, asked((1, 0))) == [4]
    store.materialize(START, START + timedelta(days=1))
    assert store.get_online_features(["view:value"], [{"id": 1}]).to_dict()["value"] == [4]


@pytest.mark.slow
def test_it_works_where_nothing_else_of_the_library_is_used(store: Any, tmp_path: Path) -> None:
    """In a process of its own, with Feast's own run-time type checks."""
    program = f"""
import sys
from feast import FeatureStore, RepoConfig
import polars as pl
config = {store.config.model_dump(include={"project", "provider", "entity_key_serialization_version"})!r}
store = FeatureStore(config=RepoConfig(
    repo_path={str(tmp_path / "repo")!r},
    registry={{"registry_type": "sql", "path": "sqlite:///{tmp_path}/repo/registry.db"}},
    online_store={{"type": "sqlite", "path": {str(tmp_path / "online.db")!r}}},
    offline_store={{"type": "fti.retrieve.asof.AsofOfflineStore"}}, **config))
job = store.get_historical_features(entity_df={str(tmp_path / "asked.parquet")!r}, features=["view:value"])
print(job.to_arrow()["value"].to_pylist(), [name for name in sys.modules if name.startswith("kfp")])
"""
    asked((1, 0), (2, 0)).write_parquet(tmp_path / "asked.parquet")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["[10, 20] []"], done.stderr[-2000:]
