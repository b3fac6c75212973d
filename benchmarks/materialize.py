"""Writing the latest features online: ours, Feast's, and what the stores take at most.

Run: `python benchmarks/materialize.py [--entities 200000] [--json]`. Every contender writes the same 5 features of the
same entities into an empty store, in a process of its own; imports and whatever is prepared do not count. `raw` is
given keys and values already encoded, and sends them through redis-py's pipeline (HSET) or sqlite3's executemany. A
checksum of all that is stored afterwards has to be the same for all. CPU is the process's own, and Redis's beside it.
"""

import argparse
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from redis import Redis

from fti.common.feature_store import open_store
from fti.common.settings import Settings

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.servers import redis_server

DAY = datetime(2024, 3, 1, tzinfo=UTC)
CONTENDERS = {
    "raw": "raw",
    "write": "ours, rows in memory",
    "materialize": "ours, materialize",
    "feast-write": "Feast, write_to_online_store",
    "feast-materialize": "Feast, materialize",
}
STORES = ("redis", "sqlite")
BATCH = 10_000
PROFILE = """
project: bench
provider: local
registry: {{registry_type: sql, path: "sqlite:///${{FTI_HOME}}/registry.db"}}
online_store: {online}
offline_store: {{type: fti.retrieve.asof.AsofOfflineStore}}
entity_key_serialization_version: 3
materialization: {{pull_latest_features: true, online_write_batch_size: 10000}}
"""


def main() -> None:
    """Measures every contender on every store, or one of them for `main` in another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=200_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contender:
        print(json.dumps(measured(asked.contender[0], Path(asked.contender[1]), asked.entities)))
        return
    figures = [measure(name, store, asked.entities) for store in STORES for name in CONTENDERS]
    for store in STORES:
        assert len({each["checksum"] for each in figures if each["store"] == store}) == 1, f"{store}: results differ"
    print(json.dumps(figures) if asked.json else table(figures))


def measure(name: str, store: str, entities: int) -> dict[str, Any]:
    """Runs one contender in a process of its own, on a store of its own."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        online = '{type: sqlite, path: "${FTI_HOME}/online.db"}'
        if store == "redis":
            server = stack.enter_context(redis_server())
            online = f'{{type: redis, connection_string: "127.0.0.1:{server.port}"}}'
        (home / "feature_store.yaml").write_text(PROFILE.format(online=online))
        environ = {**os.environ, "FTI_HOME": str(home), "FTI_OFFLINE_URI": str(home / "offline")}
        command = [sys.executable, __file__, "--entities", str(entities), "--contender", name, str(home)]
        run = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE)
        figures = json.loads(run.stdout.splitlines()[-1])
        server_cpu = 0.0
        if store == "redis":
            spent = server.client().info("cpu")
            server_cpu = spent["used_cpu_user"] + spent["used_cpu_sys"]
        checksum = redis_checksum(server.client()) if store == "redis" else sqlite_checksum(home / "online.db")
    return {
        "store": store,
        "contender": name,
        "entities": entities,
        "checksum": checksum,
        "server_cpu_seconds": server_cpu,
        **figures,
    }


def measured(name: str, home: Path, entities: int) -> dict[str, Any]:
    """Prepares one contender, and measures it."""
    settings = Settings.from_env()
    rows = write_table(home / "offline" / "spending", entities)
    store = open_store(str(home), settings)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        view = apply(store, home / "offline" / "spending")
        run = prepare(name, store, view, rows, settings)
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    return {"seconds": seconds, "rows_per_second": entities / seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak}


def prepare(name: str, store: Any, view: Any, rows: pl.DataFrame, settings: Settings) -> Callable[[], Any]:
    """What a contender does, once all that does not count has been done."""
    from fti.common.online.writer import open_writer
    from fti.materialize.logic import materialize

    if name == "materialize":
        return lambda: materialize(str(store.config.repo_path), "", settings)
    if name == "feast-materialize":
        return lambda: store.materialize(DAY, DAY + timedelta(days=1))
    if name == "feast-write":
        frame = rows.to_pandas()
        return lambda: store.write_to_online_store("spending", frame)
    if name == "write":
        arrow = rows.to_arrow()
        writer = open_writer(store)
        return lambda: writer.write(view, arrow, DAY + timedelta(days=1))
    return raw(store, view, rows)


def raw(store: Any, view: Any, rows: pl.DataFrame) -> Callable[[], Any]:
    """The store's own client, given bytes."""
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

    from fti.common.online.encoding import stamps
    from fti.common.online.redis_writer import _fields
    from fti.common.online.rows import Rows

    batch = Rows.of(view, rows.to_arrow())
    values = batch.values(view)
    if not isinstance(store.config.online_store, RedisOnlineStoreConfig):
        return raw_sqlite(store, batch.keys, values, (batch.times // 1_000_000).tolist())
    client = RedisOnlineStore()._get_client(store.config.online_store)
    keys = [key + store.project.encode() for key in batch.keys]
    fields = _fields("spending", list(values))
    hashes = [dict(zip(fields, row, strict=True)) for row in zip(stamps(batch.times), *values.values(), strict=True)]

    def run() -> None:
        for start in range(0, len(keys), BATCH):
            with client.pipeline(transaction=False) as pipeline:
                for key, each in zip(keys[start : start + BATCH], hashes[start : start + BATCH], strict=True):
                    pipeline.hset(key, mapping=each)
                pipeline.execute()

    return run


def raw_sqlite(store: Any, keys: list[bytes], values: dict[str, list[bytes]], seconds: list[int]) -> Callable[[], Any]:
    """Keys in order, as whoever knows SQLite would insert them."""
    connection = sqlite3.connect(store.config.online_store.path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    insert = (
        "INSERT INTO bench_spending (entity_key, feature_name, value, event_ts) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (entity_key, feature_name) DO UPDATE SET value = excluded.value, event_ts = excluded.event_ts"
    )
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ready = [(keys[at], name, column[at], seconds[at]) for at in order for name, column in values.items()]

    def run() -> None:
        for start in range(0, len(ready), 5 * BATCH):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, ready[start : start + 5 * BATCH])
            connection.execute("COMMIT")
        connection.close()

    return run


def write_table(folder: Path, entities: int) -> pl.DataFrame:
    """A table of one row for each entity, in no order."""
    dice = np.random.default_rng(1)
    rows = pl.DataFrame(
        {
            "customer": dice.permutation(entities),
            "event_timestamp": np.datetime64(DAY.date(), "us") + 1_000_000 * dice.integers(0, 86_400, entities),
            "total": dice.random(entities, dtype=np.float32),
            "mean": dice.random(entities, dtype=np.float32),
            "share": dice.random(entities, dtype=np.float32),
            "orders": dice.integers(0, 1000, entities),
            "channel": dice.choice(["web", "shop", "telephone"], entities),
        }
    ).with_columns(pl.col("event_timestamp").dt.replace_time_zone("UTC"))
    (folder / f"event_date={DAY.date()}").mkdir(parents=True)
    rows.write_parquet(folder / f"event_date={DAY.date()}" / "part-0.parquet")
    return rows


def apply(store: Any, table: Path) -> Any:
    """The view of the table."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, Int64, String

    types = {"total": Float32, "mean": Float32, "share": Float32, "orders": Int64, "channel": String}
    customer = Entity(name="customer", value_type=ValueType.INT64)
    view = FeatureView(
        name="spending",
        entities=[customer],
        schema=[Field(name=name, dtype=dtype) for name, dtype in {"customer": Int64, **types}.items()],
        source=FileSource(name="spending", path=str(table), timestamp_field="event_timestamp"),
    )
    store.apply([customer, view])
    return store.get_feature_view("spending")


def redis_checksum(client: "Redis") -> str:
    """Of all hashes, whatever their order; without what is remembered for the next run."""
    total = 0
    keys = [key for key in client.scan_iter(count=BATCH) if len(key) > len("customer") + 17]
    for start in range(0, len(keys), BATCH):
        with client.pipeline(transaction=False) as pipeline:
            for key in keys[start : start + BATCH]:
                pipeline.hgetall(key)
            for key, found in zip(keys[start : start + BATCH], pipeline.execute(), strict=True):
                total += int(hashlib.sha256(repr((key, sorted(found.items()))).encode()).hexdigest()[:12], 16)
    return f"{len(keys)} {total:x}"


def sqlite_checksum(path: Path) -> str:
    """Of all rows, without what is remembered for the next run."""
    digest = hashlib.sha256()
    connection = sqlite3.connect(path)
    for row in connection.execute(
        "SELECT entity_key, feature_name, value, event_ts FROM bench_spending WHERE entity_key != x'' ORDER BY 1, 2"
    ):
        digest.update(repr(row).encode())
    connection.close()
    return digest.hexdigest()[:16]


def table(figures: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    raw_rate = {each["store"]: each["rows_per_second"] for each in figures if each["contender"] == "raw"}
    rows = [
        f"| {each['store']} | {CONTENDERS[each['contender']]} | {each['rows_per_second']:,.0f} "
        f"| {each['rows_per_second'] / raw_rate[each['store']]:.2f} | {each['seconds']:.2f} "
        f"| {each['cpu_seconds']:.2f} | {each['server_cpu_seconds']:.2f} | {each['peak_mb']:.0f} |"
        for each in figures
    ]
    head = [
        "| store | | rows/s | of raw | wall s | CPU s | server CPU s | peak MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
