"""The law of streaming, on real flights: features of a day that was streamed are those of the batch path."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from feast import FeatureStore

from fti.common.duck import connect
from fti.common.feature_store import open_store
from fti.common.settings import Settings
from fti.featurize.logic import featurize
from fti.materialize.logic import materialize
from fti.stream.events import Judge, typed
from fti.stream.logic import Stream
from fti.stream.opening import open_stream
from fti.validate.engine import Engine
from fti.validate.parsing import read_contract
from tests.feature_repo.test_leaks import VIEWS
from tests.stream.replay import REPO, Day, make_day

START = datetime(2013, 6, 10, 4, tzinfo=UTC)  # midnight in New York
END = START + timedelta(days=1)
ALL = START + timedelta(days=30)
NOON, RESTART = START + timedelta(hours=12), START + timedelta(hours=11)
DAYS = "time_hour BETWEEN TIMESTAMPTZ '2013-05-04 12:00:00+00' AND TIMESTAMPTZ '2013-06-12 04:00:00+00'"
MOMENTS = [START + timedelta(hours=hours) for hours in (2, 9.5, 14, 24)]

pytestmark = pytest.mark.slow


@dataclass
class Replayed:
    batch: Settings
    streamed: Settings
    online: dict[datetime, dict[str, pl.DataFrame]]  # moment -> view -> values of all keys
    again: list[Any]  # what came of pushing the same a second time


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    return make_day(tmp_path_factory.mktemp("raw"), DAYS)


@pytest.fixture(scope="module")
def replayed(day: Day, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    folder = tmp_path_factory.mktemp("replay")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FTI_OFFLINE_URI", raising=False)
        batch, streamed = (Settings.from_env({"FTI_HOME": str(folder / name)}) for name in ("batch", "streamed"))
        featurize(valid(day.tables(ALL, folder / "all")), str(REPO), folder / "batch.json", batch)
        tables = day.tables(START, folder / "known")
        featurize(valid(tables), str(REPO), folder / "known.json", streamed)
        materialize(str(REPO), START.isoformat(), streamed)
        result = Replayed(batch, streamed, {}, [])
        at = START
        for until in (RESTART, END):
            every = timedelta(hours=2)
            with open_stream(str(REPO), tables, streamed, clock=lambda now=at: now, flush_every=every) as stream:
                replay(stream, day, at, until, result)
            at = until
        yield result


def valid(tables: list[dict[str, str]]) -> dict[str, str]:
    """What the pipeline gives to featurize: the rows that keep their contract."""
    for entry in tables:
        with connect() as connection:
            engine = Engine(connection, entry["source"], read_contract(entry["contract"], Settings.from_env()))
            engine.write_valid(Path(f"{entry['source']}.valid"))
    return {entry["table"]: f"{entry['source']}.valid" for entry in tables}


def replay(stream: Stream, day: Day, at: datetime, until: datetime, result: Replayed) -> None:
    """Every record in the order in which it became known: by the half hour, for a while by the minute."""
    half = timedelta(minutes=30)
    while at < until:
        by_minute = timedelta(0) <= at - NOON < timedelta(minutes=6)
        then = at + timedelta(minutes=1) if by_minute else START + ((at - START) // half + 1) * half
        events = {table: day.between(table, at, then) for table in ("flights", "weather")}
        for table, sent in events.items():
            if sent:
                pushed = stream.push(table, sent, then)
                assert (pushed.accepted, pushed.rejected, pushed.watermark) == (len(sent), (), then)
        stream.tick(then)
        at = then
        if at in MOMENTS:
            result.again += [stream.push(table, sent, at).rows for table, sent in events.items()]
            result.again += [stream.tick(at).rows]
            result.online[at] = online(result)


def online(result: Replayed) -> dict[str, pl.DataFrame]:
    """What Feast's own reader finds in the online store, for every key that there is."""
    store = open_store(str(REPO), result.streamed)
    return {
        view: read(store, view, rows.select(VIEWS[view][0]).unique()) for view, rows in tables(result.batch).items()
    }


def read(store: FeatureStore, view: str, keys: pl.DataFrame) -> pl.DataFrame:
    names = [field.name for field in store.get_feature_view(view).features]
    found = store.get_online_features(
        [f"{view}:{name}" for name in names], {key: keys[key].to_list() for key in keys.columns}
    )
    return pl.DataFrame(found.to_dict(), schema_overrides=dict.fromkeys(names, pl.Float64), strict=False)


def tables(settings: Settings) -> dict[str, pl.DataFrame]:
    """Feature tables as the offline store reads them: of equal key and time the last row."""
    found = {}
    for view, (keys, _) in VIEWS.items():
        rows = pl.read_parquet(f"{settings.offline_uri}/{view}/**/*.parquet", hive_partitioning=False)
        found[view] = rows.unique([*keys, "event_timestamp"], keep="last").sort("event_timestamp", *keys)
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_every_row_of_the_day_is_that_of_the_batch(replayed: Replayed, view: str) -> None:
    until = pl.col("event_timestamp") <= END
    batch, streamed = (tables(settings)[view].filter(until) for settings in (replayed.batch, replayed.streamed))
    assert streamed.equals(batch)
    assert view == "plane" or batch.filter(pl.col("event_timestamp") > START).height > 70


def test_training_rows_of_the_day_are_those_of_the_batch(replayed: Replayed) -> None:
    path = f"{replayed.batch.offline_uri}/late_arrival/event_date=2013-06-10/*.parquet"
    asked = pl.read_parquet(path, hive_partitioning=False).select(
        "carrier", "origin", "dest", "tailnum", "event_timestamp"
    )
    batch, streamed = (
        open_store(str(REPO), settings)
        .get_historical_features(
            asked.to_pandas(),
            open_store(str(REPO), settings).get_feature_service("late_arrival_v1"),
            full_feature_names=True,
        )
        .to_arrow()
        for settings in (replayed.batch, replayed.streamed)
    )
    assert len(batch) > 800
    assert streamed.equals(batch)


@pytest.mark.parametrize("view", VIEWS)
def test_the_online_store_holds_what_the_batch_says_of_the_moment(replayed: Replayed, view: str) -> None:
    keys, rows = VIEWS[view][0], tables(replayed.batch)[view]
    names = [name for name in rows.columns if name not in (*keys, "event_timestamp")]
    for moment in MOMENTS:
        known = rows.filter(pl.col("event_timestamp") <= moment).unique(keys, keep="last", maintain_order=True)
        expected = rows.select(keys).unique().join(known, on=keys, how="left").sort(keys)
        found = replayed.online[moment][view].sort(keys)
        assert found.select(keys).equals(expected.select(keys))
        assert found.select(names).equals(expected.select(pl.col(names).cast(pl.Float64))), moment


def test_pushing_the_same_again_changes_nothing(replayed: Replayed) -> None:
    assert replayed.again == [{}] * 3 * len(MOMENTS)


def test_the_event_of_the_documentation_keeps_its_contract() -> None:
    text = (REPO.parent / "docs" / "streaming.md").read_text()
    events = json.loads(text[text.index('{"events": [{\n') : text.index("}]}'")] + "}]}")["events"]
    contract = read_contract(f"{REPO}/contracts/flights.yaml", Settings.from_env())
    with connect() as connection:
        _, rejected = Judge(connection, contract, "time_hour").split(typed(contract, events), START)
    assert (len(events), rejected) == (1, ())
