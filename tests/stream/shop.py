"""A small shop whose orders are streamed: each is known by its number, and may be corrected."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from fti.common.settings import Settings
from fti.common.storage import local_copy
from fti.featurize.logic import build_tables, featurize
from fti.materialize.logic import materialize
from fti.stream.logic import Stream
from fti.stream.opening import open_stream
from tests.featurize.shop import STORE

MIDNIGHT = datetime(2024, 1, 10, tzinfo=UTC)
CONTRACTS = {
    "orders": """
columns:
  number: {type: int64, unique: true}
  customer: {type: int64, min: 0}
  bought: {type: timestamp}
  amount: {type: float64, nullable: true, min: 0, max: 1000}
checks:
  - {name: no_bulk, sql: amount < 900 OR customer = 0, message: only customer 0 buys in bulk}
""",
    "customers": """
columns:
  customer: {type: int64, unique: true}
  level: {type: string, allowed: [basic, gold]}
""",
}
SQL = {
    "_paid": "SELECT * FROM orders WHERE amount IS NOT NULL",
    "_priced": "SELECT *, (amount * 100)::BIGINT AS cents FROM orders",
    "spending": """
SELECT customer, bought AS event_timestamp, sum(amount) OVER past AS total, count(*) OVER past AS orders
FROM _paid WINDOW past AS (PARTITION BY customer ORDER BY bought)""",
    "recent": """
WITH changes AS (
    SELECT customer, bought AS event_timestamp, 1 AS orders, cents FROM _priced WHERE cents IS NOT NULL
    UNION ALL
    SELECT customer, bought + INTERVAL 2 DAY, -1, -cents FROM _priced WHERE cents IS NOT NULL),
instants AS (SELECT customer, event_timestamp, sum(orders) AS orders, sum(cents) AS cents FROM changes GROUP BY ALL)
SELECT customer, event_timestamp, (sum(orders) OVER past)::BIGINT AS orders_2d,
    (sum(cents) OVER past)::BIGINT AS cents_2d
FROM instants WINDOW past AS (PARTITION BY customer ORDER BY event_timestamp)""",
    "turnover": """
SELECT bought AS event_timestamp, sum(amount) OVER (ORDER BY bought) AS turnover FROM _paid""",
    "loyalty": "SELECT customer, TIMESTAMPTZ '2024-01-01' AS event_timestamp, level FROM customers",
}
STREAM = """
late: 30d
tables:
  orders: {time: bought}
helpers: {_priced: orders}
reach: {spending: forever, recent: 2d, turnover: forever}
"""
DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
customer = Entity(name="customer", value_type=ValueType.INT64)
def view(name, entities, **features):
    source = FileSource(path=os.environ["FTI_OFFLINE_URI"] + "/" + name, timestamp_field="event_timestamp")
    keys = [Field(name="customer", dtype=Int64)] if entities else []
    fields = [Field(name=name, dtype=dtype) for name, dtype in features.items()]
    return FeatureView(name=name, entities=entities, ttl=timedelta(days=2), schema=[*keys, *fields], source=source)
spending = view("spending", [customer], total=Float64, orders=Int64)
recent = view("recent", [customer], orders_2d=Int64, cents_2d=Int64)
loyalty = view("loyalty", [customer], level=String)
turnover = view("turnover", [], turnover=Float64)
shop_v1 = FeatureService(name="shop_v1", features=[spending, recent, loyalty, turnover])
"""
KEYS = {"spending": ["customer"], "recent": ["customer"], "turnover": [], "loyalty": ["customer"]}


def order(number: int, customer: int, hour: float, amount: float | None = 10.0) -> dict[str, object]:
    """An order, some hours after midnight."""
    bought = MIDNIGHT + timedelta(hours=hour)
    return {"number": number, "customer": customer, "bought": bought.isoformat(), "amount": amount}


@dataclass
class Shop:
    """A repository, its sources, and a home where featurize has run."""

    folder: Path
    settings: Settings

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    @property
    def tables(self) -> list[dict[str, str]]:
        return [
            {"table": table, "source": str(self.source(table)), "contract": str(self.repo / f"{table}.yaml")}
            for table in CONTRACTS
        ]

    def source(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"

    def featurize(self) -> None:
        featurize({t: self.source(t) for t in CONTRACTS}, str(self.repo), self.folder / "f.json", self.settings)

    def open(
        self, at: datetime = MIDNIGHT, flush_every: timedelta = timedelta(0), *, reseed: bool = False
    ) -> AbstractContextManager[Stream]:
        clock: Callable[[], datetime] = lambda: at  # noqa: E731
        return open_stream(
            str(self.repo), self.tables, self.settings, clock=clock, flush_every=flush_every, reseed=reseed
        )

    def write(self, orders: list[dict[str, object]]) -> None:
        rows = pl.DataFrame(orders, schema_overrides={"amount": pl.Float64})
        rows.with_columns(pl.col("bought").str.to_datetime(time_zone="UTC")).write_parquet(self.source("orders"))

    def streamed(self, until: datetime) -> dict[str, pl.DataFrame]:
        """The feature tables as the offline store reads them."""
        found = {}
        for name, keys in KEYS.items():
            with local_copy(f"{self.settings.offline_uri}/{name}", self.settings) as folder:
                found[name] = rows(folder, keys, until)
        return found

    def batch(self, orders: list[dict[str, object]], until: datetime) -> dict[str, pl.DataFrame]:
        """The feature tables as the batch path makes them of some orders."""
        kept = self.source("orders").read_bytes()
        self.write(orders)
        scratch = self.folder / "batch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        built = build_tables({t: self.source(t) for t in CONTRACTS}, self.repo / "sql", scratch)
        self.source("orders").write_bytes(kept)
        return {name: rows(built[name][0], keys, until) for name, keys in KEYS.items()}


def rows(folder: Path, keys: list[str], until: datetime) -> pl.DataFrame:
    found = pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=False)
    last = found.unique([*keys, "event_timestamp"], keep="last", maintain_order=True)
    return last.filter(pl.col("event_timestamp") <= until).sort("event_timestamp", *keys)


def make_shop(folder: Path, orders: list[dict[str, object]], environ: Mapping[str, str] | None = None) -> Shop:
    """Writes the repository and the sources, and runs featurize and materialize."""
    shop = Shop(folder, Settings.from_env({**(environ or {}), "FTI_HOME": str(folder / "home")}))
    (shop.repo / "sql").mkdir(parents=True)
    (shop.repo / "feature_store.yaml").write_text(STORE)
    (shop.repo / "definitions.py").write_text(DEFINITIONS)
    (shop.repo / "stream.yaml").write_text(STREAM)
    for name, sql in SQL.items():
        (shop.repo / "sql" / f"{name}.sql").write_text(sql)
    for name, contract in CONTRACTS.items():
        (shop.repo / f"{name}.yaml").write_text(contract)
    shop.write(orders)
    customers = pl.DataFrame({"customer": [0, 1], "level": ["gold", "basic"]})
    customers.write_parquet(shop.source("customers"))
    shop.featurize()
    materialize(str(shop.repo), MIDNIGHT.isoformat(), shop.settings)
    return shop
