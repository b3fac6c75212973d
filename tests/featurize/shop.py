"""A small feature repository that has nothing to do with flights: will a customer buy again?"""

from pathlib import Path

import polars as pl

STORE = """
project: shop
provider: local
registry: {registry_type: sql, path: "sqlite:///${FTI_HOME}/registry.db"}
online_store: {type: sqlite, path: "${FTI_HOME}/online.db"}
offline_store: {type: fti.retrieve.asof.AsofOfflineStore}
entity_key_serialization_version: 3
materialization: {pull_latest_features: true}
"""
DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float32, Int64
from feast.value_type import ValueType
customer = Entity(name="customer", value_type=ValueType.INT64)
spending = FeatureView(
    name="spending", entities=[customer], ttl=timedelta(days=2),
    schema=[Field(name="customer", dtype=Int64), Field(name="total", dtype=Float32), Field(name="orders", dtype=Int64)],
    source=FileSource(path=os.environ["FTI_OFFLINE_URI"] + "/spending", timestamp_field="event_timestamp"),
)
shop_v1 = FeatureService(name="shop_v1", features=[spending])
"""
SPENDING = """
SELECT customer, bought AS event_timestamp, sum(amount) OVER past AS total, count(*) OVER past AS orders
FROM orders
WINDOW past AS (PARTITION BY customer ORDER BY bought)
"""
ASKED = """
SELECT customer, bought + INTERVAL 1 HOUR AS event_timestamp, channel, amount > 50 AS again,
    if(amount IS NULL, 'returned', NULL) AS no_label_reason
FROM orders
"""


def write_shop(folder: Path) -> tuple[Path, Path]:
    """The repository, and its one table, `orders`."""
    repo = folder / "shop"
    (repo / "sql").mkdir(parents=True)
    (repo / "feature_store.yaml").write_text(STORE)
    (repo / "definitions.py").write_text(DEFINITIONS)
    (repo / "sql" / "spending.sql").write_text(SPENDING)
    (repo / "sql" / "asked.sql").write_text(ASKED)
    orders = pl.DataFrame(
        {
            "customer": [day % 3 for day in range(30)],
            "bought": [f"2024-01-{1 + day:02}T12:00:00" for day in range(30)],
            "amount": [None if day == 4 else float(day * 37 % 100) for day in range(30)],
            "channel": ["web", "shop"] * 15,
        }
    ).with_columns(pl.col("bought").str.to_datetime())
    orders.write_parquet(folder / "orders.parquet")
    return repo, folder / "orders.parquet"
