"""No feature may depend on what became known after the prediction: shown over the real SQL by changing the future."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from fti.common.duck import connect, literal
from fti.retrieve.join import asof_join
from tests.feature_repo.flights import SQL, TABLES, movements, write_tables

# Keys and time to live of each view, as in views.py (test_definitions.py holds them equal).
VIEWS = {
    "origin_departures": (["origin"], timedelta(hours=4)),
    "carrier_departures": (["carrier", "origin"], timedelta(days=1)),
    "destination_departures": (["dest"], timedelta(days=1)),
    "destination_arrivals": (["dest"], timedelta(days=1)),
    "route_arrivals": (["carrier", "dest"], timedelta(days=31)),
    "plane_last_flight": (["tailnum"], timedelta(days=1)),
    "plane": (["tailnum"], None),
    "origin_weather": (["origin"], timedelta(hours=3)),
}
REQUEST = ["month", "weekday", "departure_minute", "arrival_minute", "scheduled_minutes", "distance"]
KEYS = ["carrier", "origin", "dest", "tailnum"]
# A stormy evening with cancellations, a night, a morning, and the hour that daylight saving repeats.
MOMENTS = [
    datetime(2013, 3, 8, 22, 0, tzinfo=UTC),
    datetime(2013, 3, 9, 6, 30, tzinfo=UTC),
    datetime(2013, 3, 10, 7, 0, tzinfo=UTC),
    datetime(2013, 3, 11, 14, 45, tzinfo=UTC),
]
DAYS = "time_hour BETWEEN TIMESTAMPTZ '2013-03-07 00:00:00+00' AND TIMESTAMPTZ '2013-03-12 12:00:00+00'"

# How flights are changed that leave or land after the moment: REPLACE lists over the raw table.
FUTURE = {
    # As the table looked at that moment: what has not happened shows only its schedule.
    "forgotten": """if(left_later, NULL, dep_time) AS dep_time, if(left_later, NULL, dep_delay) AS dep_delay,
        if(landed_later, NULL, arr_time) AS arr_time, if(landed_later, NULL, arr_delay) AS arr_delay,
        if(landed_later, NULL, air_time) AS air_time""",
    # The same flights, later and worse.
    "worse": """if(left_later, dep_delay + 120, dep_delay) AS dep_delay,
        if(landed_later, arr_delay + 500, arr_delay) AS arr_delay""",
    # Cancelled flights that fly after all, a week later.
    "flown": """if(left_later, 10000, dep_delay) AS dep_delay, if(left_later, 1200, arr_time) AS arr_time,
        if(left_later, 1000, arr_delay) AS arr_delay""",
}
FUTURE_WEATHER = {
    "forgotten": "FROM weather WHERE time_hour + INTERVAL 1 HOUR <= getvariable('moment')",
    "worse": """SELECT * REPLACE (if(time_hour + INTERVAL 1 HOUR > getvariable('moment'), 99, temp) AS temp,
        if(time_hour + INTERVAL 1 HOUR > getvariable('moment'), 0, visib) AS visib) FROM weather""",
    "flown": "FROM weather",
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tables(tmp_path_factory.mktemp("raw"), DAYS)


class World:
    """Features of every flight, computed from raw tables that may be changed first."""

    def __init__(self, raw: dict[str, Path]) -> None:
        self.raw = raw

    def features(self, moment: datetime | None = None, flights: str = "", weather: str = "") -> pl.DataFrame:
        with connect() as connection:
            for name in TABLES:
                connection.execute(f"CREATE TABLE {name} AS FROM read_parquet({literal(self.raw[name])})")
            if moment:
                movements(connection)
                connection.execute(f"SET VARIABLE moment = TIMESTAMPTZ '{moment.isoformat()}'")
                connection.execute(f"CREATE OR REPLACE TABLE flights AS {_changed(flights)}")
                connection.execute(f"CREATE OR REPLACE TABLE weather AS {weather}")
            movements(connection)
            tables = {name: connection.sql((SQL / f"{name}.sql").read_text()).pl() for name in VIEWS}
            rows = connection.sql((SQL / "late_arrival.sql").read_text()).pl()
        rows = rows.sort("event_timestamp", *KEYS, "flight")
        looked_up = [
            asof_join(
                rows,
                tables[view].lazy(),
                at="event_timestamp",
                known_at="event_timestamp",
                keys={key: key for key in keys},
                features={
                    column: f"{view}__{column}"
                    for column in tables[view].columns
                    if column not in (*keys, "event_timestamp")
                },
                ttl=ttl,
            )
            for view, (keys, ttl) in VIEWS.items()
        ]
        return pl.concat([rows.select(*KEYS, "flight", "event_timestamp", *REQUEST), *looked_up], how="horizontal")


def _changed(replace: str) -> str:
    return f"""
        SELECT * EXCLUDE (zone, scheduled_departure_at, departed_at, scheduled_arrival_at, arrived_at,
            left_later, landed_later) REPLACE ({replace})
        FROM (
            SELECT *,
                departed_at IS NULL OR departed_at > getvariable('moment') AS left_later,
                arrived_at IS NULL OR arrived_at > getvariable('moment') AS landed_later
            FROM _movements)"""


@pytest.fixture(scope="module")
def world(raw: dict[str, Path]) -> World:
    return World(raw)


@pytest.fixture(scope="module")
def truth(world: World) -> Iterator[pl.DataFrame]:
    return world.features()


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
@pytest.mark.parametrize("change", FUTURE)
def test_what_becomes_known_later_changes_nothing(
    world: World, truth: pl.DataFrame, change: str, moment: datetime
) -> None:
    changed = world.features(moment, FUTURE[change], FUTURE_WEATHER[change])
    until = pl.col("event_timestamp") <= moment
    assert truth.filter(until).height > 500
    assert changed.filter(until).equals(truth.filter(until))
    assert not changed.filter(~until).equals(truth.filter(~until))


@pytest.mark.slow
@pytest.mark.parametrize("view", [view for view in VIEWS if view != "plane"])  # the registry stood before
def test_what_is_known_earlier_does_change_features(world: World, truth: pl.DataFrame, view: str) -> None:
    moment = MOMENTS[-1]
    changed = world.features(
        moment,
        "if(left_later, dep_delay, dep_delay + 7) AS dep_delay, arr_delay + 7 AS arr_delay",
        "SELECT * REPLACE (temp + 7 AS temp) FROM weather",
    )
    until = pl.col("event_timestamp") <= moment
    columns = [column for column in truth.columns if column.startswith(f"{view}__")]
    assert not changed.filter(until).select(columns).equals(truth.filter(until).select(columns))


def test_windows_slide_exactly(world: World, truth: pl.DataFrame) -> None:
    """The running sums against the definition: departures from JFK within two hours of a prediction."""
    with connect() as connection:
        for name in TABLES:
            connection.execute(f"CREATE TABLE {name} AS FROM read_parquet({literal(world.raw[name])})")
        movements(connection)
        flights = connection.sql("FROM _movements").pl()
    for row in truth.filter(pl.col("origin") == "JFK").sample(60, seed=1).iter_rows(named=True):
        at = row["event_timestamp"]
        window = flights.filter(
            (pl.col("origin") == "JFK")
            & (pl.col("departed_at") > at - timedelta(hours=2))
            & (pl.col("departed_at") <= at)
        )
        assert row["origin_departures__flights_2h"] in (len(window), None if window.is_empty() else len(window))
        if len(window):
            assert row["origin_departures__mean_delay_2h"] == pytest.approx(window["dep_delay"].mean(), rel=1e-5)
