"""A day of flights as it became known, record by record, from the reference problem's real tables."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from fti.common.duck import connect, literal
from tests.feature_repo.flights import TABLES, movements, write_tables

REPO = Path(__file__).parents[2] / "feature_repo"
# What a record lacks before its flight has left, or landed.
NOT_LEFT = "NULL AS dep_time, NULL AS dep_delay, NULL AS arr_time, NULL AS arr_delay, NULL AS air_time"
NOT_LANDED = "NULL AS arr_time, NULL AS arr_delay, NULL AS air_time"


@dataclass(frozen=True)
class Day:
    """What was known when.

    Attributes:
        events: Table -> rows with `known_at`, in order.
        folder: Holds each table whole, as Parquet.
    """

    events: dict[str, pl.DataFrame]
    folder: Path

    def until(self, table: str, at: datetime) -> pl.DataFrame:
        """What was known of a table at a time, the last of each row."""
        key = {"flights": ["time_hour", "carrier", "flight", "origin"], "weather": ["origin", "time_hour"]}[table]
        known = self.events[table].filter(pl.col("known_at") <= at).unique(key, keep="last", maintain_order=True)
        return known.drop("known_at")

    def between(self, table: str, start: datetime, end: datetime) -> list[dict[str, object]]:
        """The records that became known after a time, until another."""
        known = self.events[table].filter(pl.col("known_at") > start, pl.col("known_at") <= end)
        return known.drop("known_at").to_dicts()

    def tables(self, at: datetime, folder: Path) -> list[dict[str, str]]:
        """The sources as they stood at a time, for `open_stream` and featurize."""
        folder.mkdir()
        for table in TABLES:
            rows = self.until(table, at) if table in self.events else pl.read_parquet(self.folder / f"{table}.parquet")
            rows.write_parquet(folder / f"{table}.parquet")
        return [
            {"table": table, "source": f"{folder}/{table}.parquet", "contract": f"{REPO}/contracts/{table}.yaml"}
            for table in TABLES
        ]


def make_day(folder: Path, days: str) -> Day:
    """Takes the real tables apart: a flight's schedule is known a day ahead, an observation at the end of its hour.

    Args:
        folder: An empty folder.
        days: A SQL condition on `time_hour`.
    """
    raw = write_tables(folder, days)
    with connect() as connection:
        for name, path in raw.items():
            connection.execute(f"CREATE TABLE {name} AS FROM read_parquet({literal(path)})")
        movements(connection)
        columns = "* EXCLUDE (zone, scheduled_departure_at, departed_at, scheduled_arrival_at, arrived_at)"
        flights = connection.sql(f"""
            SELECT {columns} REPLACE ({NOT_LEFT}), scheduled_departure_at - INTERVAL 1 DAY AS known_at FROM _movements
            UNION ALL BY NAME
            SELECT {columns} REPLACE ({NOT_LANDED}), departed_at AS known_at FROM _movements
            WHERE departed_at IS NOT NULL
            UNION ALL BY NAME
            SELECT {columns}, arrived_at AS known_at FROM _movements WHERE arrived_at IS NOT NULL
        """).pl()
        weather = connection.sql("SELECT *, time_hour + INTERVAL 1 HOUR AS known_at FROM weather").pl()
    order = ["known_at", "time_hour", "carrier", "flight", "origin"]
    return Day({"flights": flights.sort(order), "weather": weather.sort("known_at", "origin")}, folder)
