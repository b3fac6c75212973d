"""Feature tables written by hand, and what Feast reads of them online."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from fti.common.feature_store import open_store
from fti.common.settings import Settings
from fti.featurize.logic import featurize
from tests.featurize.shop import write_shop

FIRST = datetime(2024, 3, 1, tzinfo=UTC)
FEATURES = ["spending:total", "spending:orders"]


def write_repo(folder: Path, settings: Settings, online: str = "") -> str:
    """The shop's repository, registered, with another online store if one is given."""
    repo, orders = write_shop(folder)
    if online:
        profile = repo / "feature_store.yaml"
        sqlite = '{type: sqlite, path: "${FTI_HOME}/online.db"}'
        profile.write_text(profile.read_text().replace(sqlite, online))
    featurize({"orders": orders}, str(repo), folder / "features.json", settings)
    return str(repo)


def write_spending(settings: Settings, rows: pl.DataFrame) -> None:
    """Makes these rows the table `spending`: customer, day (of March 2024), total and orders."""
    table = Path(settings.offline_uri) / "spending"
    shutil.rmtree(table)
    times = pl.lit(FIRST) + pl.duration(days="day", hours=12)
    rows = rows.select(
        pl.col("customer").cast(pl.Int64),
        times.dt.cast_time_unit("us").alias("event_timestamp"),
        pl.col("total").cast(pl.Float64),
        pl.col("orders").cast(pl.Int64),
    )
    for (day,), part in rows.group_by(pl.col("event_timestamp").dt.date(), maintain_order=True):
        folder = table / f"event_date={day}"
        folder.mkdir(parents=True)
        part.write_parquet(folder / "part-0.parquet")


def noon(day: int) -> datetime:
    """The event time of the rows of a day."""
    return FIRST + timedelta(days=day, hours=12)


def stored(repo: str, settings: Settings, customers: list[int]) -> dict[int, tuple[int, datetime]]:
    """What Feast's own reader finds: customer -> orders and event time."""
    store: Any = open_store(repo, settings)
    found: dict[int, tuple[int, datetime]] = {}
    for start in range(0, len(customers), 10_000):
        some = customers[start : start + 10_000]
        response = store.get_online_features(features=FEATURES, entity_rows={"customer": some})
        orders = response.to_dict()["orders"]
        stamps = response.proto.results[-1].event_timestamps
        rows = zip(some, orders, stamps, strict=True)
        found |= {customer: (count, stamp.ToDatetime(UTC)) for customer, count, stamp in rows if count is not None}
    return found


def latest(rows: pl.DataFrame) -> dict[int, tuple[int, datetime]]:
    """What the table says of each customer, told in another way than by our offline store."""
    last: dict[int, tuple[int, int]] = {}
    for customer, day, orders in rows.select("customer", "day", "orders").iter_rows():
        last[customer] = max(last.get(customer, (-1, 0)), (day, orders))
    return {customer: (orders, noon(day)) for customer, (day, orders) in last.items()}
