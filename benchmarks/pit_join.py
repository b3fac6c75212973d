"""Point-in-time joins: our offline store through Feast, Feast's DuckDB store, raw Polars and raw DuckDB, side by side.

Run: `python benchmarks/pit_join.py [--scale 0.01] [--json]`. Needs 6 GB of disk and 5 GB of memory at full scale.
Every contender runs in a process of its own; CPU is that of the join, from tables on disk to an Arrow table in the
order of the entity rows, and the peak is the kernel's account (VmHWM) of the whole process. Equal checksums are equal
results, whatever their order; `order` says whether that of the entity rows was kept. In the last case a process is
killed once it holds 2 GB, as in a container, for a table that has more. Feast's DuckDB store needs
`pip install ibis-framework[duckdb]`; it is left out at 20M, where it takes over 14 GB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KEYS, YEAR = 100_000, 365 * 86_400_000_000
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1e6)
FEATURES = [f"f{number}" for number in range(5)]
LIMIT = 2048  # MB
CASES: dict[str, tuple[int, list[str], int | None]] = {
    "5M x 1M": (5_000_000, ["polars", "fti", "fti, pandas", "duckdb", "feast duckdb, pandas"], None),
    "20M x 1M": (20_000_000, ["polars", "fti", "duckdb"], None),
    "60M x 1M in 2 GB": (60_000_000, ["polars", "fti"], LIMIT),
}
STORE = """
project: bench
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/{name}.db"}}
online_store: {{type: sqlite, path: "{folder}/online.db"}}
offline_store: {{type: {type}}}
entity_key_serialization_version: 3
"""


def main() -> None:
    """Makes the tables, runs every contender on every case, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, to try it out")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each run")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender[0], Path(options.contender[1]))
        return
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        entities(folder / "entities.parquet", int(1_000_000 * options.scale))
        for case, (rows, contenders, limit) in CASES.items():
            features(folder / "features.parquet", int(rows * options.scale))
            for name in contenders:
                runs.append({"case": case, "contender": name} | run(name, folder, limit))
                if options.json:
                    print(json.dumps(runs[-1]), flush=True)
    if not options.json:
        print(table(runs))


def features(path: Path, rows: int) -> None:
    """A table in no order of time, whose values are whole numbers, so that sums are exact."""
    random = np.random.default_rng(1)
    names = ["id", "event_timestamp", *FEATURES]
    types = [pa.int64(), pa.timestamp("us", tz="UTC"), *[pa.float64()] * len(FEATURES)]
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, rows, 1_000_000):
            count = min(1_000_000, rows - start)
            times = pa.array(START + random.integers(0, YEAR, count)).cast(types[1])
            values = [pa.array(random.integers(0, 1_000_000, count).astype("f8")) for _ in FEATURES]
            writer.write_table(pa.table([pa.array(random.integers(0, KEYS, count)), times, *values], schema=schema))


def entities(path: Path, rows: int) -> None:
    """Keys and times to ask about."""
    random = np.random.default_rng(2)
    times = pa.array(START + random.integers(0, YEAR, rows)).cast(pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"id": random.integers(0, KEYS, rows), "event_timestamp": times}), path)


def run(name: str, folder: Path, limit: int | None) -> dict[str, Any]:
    """One contender in a process of its own, which is killed when it holds more than the limit."""
    command = [sys.executable, __file__, "--contender", name, str(folder)]
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        while process.poll() is None:
            if limit and peak_mb(process.pid) > limit:
                process.kill()
                return {"failed": f"killed at {limit} MB", "code": process.wait()}
            time.sleep(0.01)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            return {"failed": (err.read().strip().splitlines() or ["killed"])[-1][:120], "code": process.returncode}
        return dict(json.loads(out.read().splitlines()[-1]))


def peak_mb(process: int | str) -> int:
    """The most that a process has held, by the kernel's account; 0 once it has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def contend(name: str, folder: Path) -> None:
    """What the child process does: joins, and prints its account."""
    join, given = CONTENDERS[name](folder)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    found = join(given)
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - started
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"wall_seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "peak_mb": peak_mb("self")}
    kept = found.column("id").to_pylist() == pq.read_table(folder / "entities.parquet").column("id").to_pylist()
    print(json.dumps(figures | {"order": "kept" if kept else "lost", "checksum": checksum(found)}))


def checksum(found: pa.Table) -> int:
    """A sum that depends on every value and on the entity row that it belongs to."""
    found = found.sort_by([("id", "ascending"), ("event_timestamp", "ascending")])
    weights = np.arange(found.num_rows) % 997 + 1
    columns = [found.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in FEATURES]
    return int(sum((np.nan_to_num(column, nan=-1) * weights).sum() * (n + 1) for n, column in enumerate(columns)))


def polars(folder: Path) -> Any:
    """What one writes by hand."""
    import polars as pl

    def join(path: Path) -> pa.Table:
        rows = pl.read_parquet(path).with_row_index("row").sort("event_timestamp")
        known = pl.scan_parquet(folder / "features.parquet").sort("event_timestamp").collect()
        found = rows.join_asof(known, on="event_timestamp", by="id", check_sortedness=False)
        return found.sort("row").drop("row").to_arrow()

    return join, folder / "entities.parquet"


def duckdb(folder: Path) -> Any:
    """DuckDB's own as-of join."""
    import duckdb as duck

    def join(path: Path) -> pa.Table:
        connection = duck.connect()
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(
            f"""
            SELECT rows.* EXCLUDE row, {", ".join("known." + name for name in FEATURES)}
            FROM (SELECT *, row_number() OVER () AS row FROM '{path}') AS rows
            ASOF LEFT JOIN '{folder}/features.parquet' AS known
            ON rows.id = known.id AND rows.event_timestamp >= known.event_timestamp
            ORDER BY row
            """
        ).to_arrow_table()

    return join, folder / "entities.parquet"


def feast(folder: Path, kind: str, *, as_pandas: bool) -> Any:
    """A Feast repository on one of its offline stores."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64
    from feast.value_type import ValueType
    from yaml import safe_load

    name = kind.rsplit(".", maxsplit=1)[-1]
    store = FeatureStore(config=RepoConfig(**safe_load(STORE.format(folder=folder, type=kind, name=name))))
    entity = Entity(name="thing", join_keys=["id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "features.parquet"), timestamp_field="event_timestamp")
    schema = [Field(name=feature, dtype=Float64) for feature in FEATURES]
    store.apply([entity, FeatureView(name="view", entities=[entity], schema=schema, source=source)])
    path = folder / "entities.parquet"
    refs = [f"view:{feature}" for feature in FEATURES]
    given = pd.read_parquet(path) if as_pandas else str(path)
    return (lambda rows: store.get_historical_features(entity_df=rows, features=refs).to_arrow()), given


OURS = "fti.retrieve.asof.AsofOfflineStore"
CONTENDERS = {
    "polars": polars,
    "duckdb": duckdb,
    "fti": lambda folder: feast(folder, OURS, as_pandas=False),
    "fti, pandas": lambda folder: feast(folder, OURS, as_pandas=True),
    "feast duckdb, pandas": lambda folder: feast(folder, "duckdb", as_pandas=True),
}


def table(runs: list[dict[str, Any]]) -> str:
    """The figures as Markdown; ratios are of CPU, to raw Polars in the same case."""
    lines = [
        f"{os.cpu_count()} CPUs",
        "",
        "| case | contender | wall s | CPU s | ratio | peak MB | order | checksum |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for each in runs:
        start = f"| {each['case']} | {each['contender']} |"
        if "failed" in each:
            lines.append(f"{start} failed: {each['failed']} | | | | | |")
            continue
        raw = next(run for run in runs if run["case"] == each["case"] and run["contender"] == "polars")
        ratio = f"{each['cpu_seconds'] / max(raw['cpu_seconds'], 0.01):.2f}" if "cpu_seconds" in raw else ""
        figures = f"{each['wall_seconds']:.1f} | {each['cpu_seconds']:.1f} | {ratio} | {each['peak_mb']}"
        lines.append(f"{start} {figures} | {each['order']} | {each['checksum']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
