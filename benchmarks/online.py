"""Reading features for a prediction: this library, Feast and the bare stores, on Redis and SQLite, in one run.

Run: `python benchmarks/online.py [--reads N] [--json]`. Starts a Redis of its own, on this machine. Two feature
services: `one` has one view with five features and a key of its own for each row; `eight` has eight views of 35
features over four keys, as the reference flights have. The contenders take turns, read by read alike, and what they
read is compared before anything is measured. "Bare Redis" is redis-py's pipeline with one HMGET for each distinct
entity key, all views in it, decoding nothing; "bare SQLite" one SELECT for each view, decoding nothing. CPU is this
process's; Redis has its own.
"""

import argparse
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fti.common.feature_store import open_store  # noqa: E402
from fti.common.model_package import ModelPackage, Signature, write_package  # noqa: E402
from fti.common.online.keys import entity_keys  # noqa: E402
from fti.common.online.plan import Plan, make_plan  # noqa: E402
from fti.common.online.reader import open_reader  # noqa: E402
from fti.common.settings import Settings  # noqa: E402
from fti.common.tables import Feature  # noqa: E402
from tests.servers import redis_server  # noqa: E402

ROWS = (1, 10, 100)
ROUNDS = 10
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
CARDINALITY = {"origin": 3, "carrier": 16, "dest": 100, "tailnum": 2000}
# The views of the flights: keys, and how many features.
VIEWS = {
    "origin_departures": (("origin",), 5),
    "carrier_departures": (("carrier", "origin"), 4),
    "destination_departures": (("dest",), 4),
    "destination_arrivals": (("dest",), 3),
    "route_arrivals": (("carrier", "dest"), 3),
    "plane_last_flight": (("tailnum",), 4),
    "plane": (("tailnum",), 3),
    "origin_weather": (("origin",), 9),
    "five": (("tailnum",), 5),
}
SERVICES = {"one": ["five"], "eight": [name for name in VIEWS if name != "five"]}
STORE = """
project: bench
provider: local
registry: {{registry_type: sql, path: "sqlite:///${{FTI_HOME}}/registry.db", cache_ttl_seconds: 3600}}
online_store: {online}
offline_store: {{type: dask}}
entity_key_serialization_version: 3
"""

REDIS = '{type: redis, connection_string: "127.0.0.1:%d"}'
SQLITE = '{type: sqlite, path: "${FTI_HOME}/online.db"}'

Read = Callable[[dict[str, list[str]]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--reads", type=int, default=2000, help="reads of one row; larger ones are fewer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server() as server:
        stores = {
            "Redis": open_filled(
                Path(folder) / "redis", f'{{type: redis, connection_string: "127.0.0.1:{server.port}"}}'
            ),
            "SQLite": open_filled(Path(folder) / "sqlite", '{type: sqlite, path: "${FTI_HOME}/online.db"}'),
        }
        figures = [
            row
            for service in SERVICES
            for rows in ROWS
            for row in measured(contenders(stores, service), service, rows, arguments.reads)
        ]
        http = over_http(Path(folder) / "redis", stores["Redis"], arguments.reads)
    print(
        json.dumps({"reads": figures, "http": http}) if arguments.json else table(figures) + "\n\n" + http_table(http)
    )


def contenders(stores: dict[str, Any], service: str) -> dict[str, Read]:
    """Contender -> what reads some rows."""
    found: dict[str, Read] = {}
    for name, store in stores.items():
        feast_service = store.get_feature_service(service)
        plan = make_plan(store, feast_service)
        bare = bare_redis if name == "Redis" else bare_sqlite
        reader = open_reader(store, service, lambda: NOW)
        found[f"bare {name}"] = bare(store, plan)
        found[f"fti on {name}"] = lambda rows, reader=reader: reader.read(rows).columns
        found[f"Feast on {name}"] = lambda rows, store=store, service=feast_service: store.get_online_features(
            features=service, entity_rows=rows, full_feature_names=True
        ).to_dict()
    sample = requests(service, 50, 1)[0]
    for name in stores:
        ours, feasts = found[f"fti on {name}"](sample), found[f"Feast on {name}"](sample)
        for column, values in ours.items():
            np.testing.assert_array_equal(values, np.array(feasts[column], dtype=np.float32))
    return found


def bare_redis(store: Any, plan: Plan) -> Read:
    """One HMGET for each distinct key, in one pipeline of redis-py."""
    from feast.infra.online_stores.helpers import _mmh3

    client = store._get_provider().online_store._get_client(store.config.online_store)
    fields = [
        [field for view in plan.views if view.key == key for field in hash_fields(view, _mmh3)]
        for key in range(len(plan.keys))
    ]

    def read(rows: dict[str, list[str]]) -> Any:
        with client.pipeline(transaction=False) as pipe:
            for key, names in zip(distinct(plan, rows), fields, strict=True):
                for each in key:
                    pipe.hmget(each + b"bench", names)
            return pipe.execute()

    return read


def hash_fields(view: Any, digest: Callable[[str], bytes]) -> list[bytes]:
    return [*(digest(f"{view.stored_as}:{name}") for name in view.features), f"_ts:{view.stored_as}".encode()]


def bare_sqlite(store: Any, plan: Plan) -> Read:
    """One SELECT for each view."""
    connection = sqlite3.connect(store.config.online_store.path, cached_statements=2000)

    def read(rows: dict[str, list[str]]) -> Any:
        keys = distinct(plan, rows)
        return [
            connection.execute(
                f"SELECT entity_key, feature_name, value, event_ts FROM bench_{view.stored_as} "
                f"WHERE entity_key IN ({','.join('?' * len(keys[view.key]))})",
                keys[view.key],
            ).fetchall()
            for view in plan.views
        ]

    return read


def distinct(plan: Plan, rows: dict[str, list[str]]) -> list[list[bytes]]:
    """The distinct entity keys: a bare client has to make them too."""
    found = []
    for key in plan.keys:
        values = dict.fromkeys(zip(*(rows[str(column)] for column in key.columns), strict=True))
        found.append(entity_keys(key.join_keys, key.dtypes, list(zip(*values, strict=True))))
    return found


def measured(reads: dict[str, Read], service: str, rows: int, count: int) -> list[dict[str, Any]]:
    """Latency and CPU of each contender, which take turns."""
    asked = requests(service, rows, 100)
    count = max(ROUNDS * 5, count // max(1, rows // 5))
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    cpu = dict.fromkeys(reads, 0.0)
    for read in reads.values():
        for each in asked[:20]:
            read(each)
    for _ in range(ROUNDS):
        for name, read in reads.items():
            before = time.process_time()
            for turn in range(count // ROUNDS):
                started = time.perf_counter()
                read(asked[turn % len(asked)])
                seconds[name].append(time.perf_counter() - started)
            cpu[name] += time.process_time() - before
    found = []
    for name, each in seconds.items():
        bare = seconds[f"bare {name.rsplit(maxsplit=1)[-1]}"]
        p50, p99 = np.quantile(each, [0.5, 0.99])
        found.append(
            {
                "service": service,
                "rows": rows,
                "contender": name,
                "p50_ms": 1000 * p50,
                "p99_ms": 1000 * p99,
                "cpu_us": 1e6 * cpu[name] / len(each),
                "p50_to_bare": p50 / np.quantile(bare, 0.5),
            }
        )
    return found


def requests(service: str, rows: int, count: int) -> list[dict[str, list[str]]]:
    """Rows to ask for; of service `one`, each of another entity."""
    chance = random.Random(0)
    if service == "one":
        return [{"tailnum": [f"{n:04}" for n in chance.sample(range(2000), rows)]} for _ in range(count)]
    return [
        {name: [f"{chance.randrange(size):04}" for _ in range(rows)] for name, size in CARDINALITY.items()}
        for _ in range(count)
    ]


def open_filled(folder: Path, online: str) -> Any:
    """A store with a value of every view for every key."""
    import pandas as pd

    (folder / "repo").mkdir(parents=True)
    (folder / "repo" / "feature_store.yaml").write_text(STORE.format(online=online))
    store = open_store(str(folder / "repo"), Settings.from_env({"FTI_HOME": str(folder / "home")}))
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float32, Int64, String

    entities = {name: Entity(name=name, value_type=ValueType.STRING) for name in CARDINALITY}
    views, chance = {}, np.random.default_rng(0)
    for name, (keys, features) in VIEWS.items():
        # A view's last feature is a count, as in the flights.
        types = {f"f{n}": Int64 if n == features - 1 and name != "five" else Float32 for n in range(features)}
        fields = [*(Field(name=key, dtype=String) for key in keys), *(Field(name=n, dtype=t) for n, t in types.items())]
        source = FileSource(name=name, path=str(folder / name), timestamp_field="event_timestamp")
        views[name] = FeatureView(
            name=name, entities=[entities[key] for key in keys], ttl=timedelta(days=1), schema=fields, source=source
        )
    services = [FeatureService(name=n, features=[views[view] for view in members]) for n, members in SERVICES.items()]
    store.apply([*entities.values(), *views.values(), *services])
    for name, (keys, features) in VIEWS.items():
        index = pd.MultiIndex.from_product([[f"{n:04}" for n in range(CARDINALITY[key])] for key in keys], names=keys)
        frame = index.to_frame(index=False)
        for n in range(features):
            frame[f"f{n}"] = chance.integers(0, 500, len(frame)) / (1 if n == features - 1 else 7)
        last = f"f{features - 1}"
        frame[last] = frame[last].astype(float if name == "five" else int)
        frame["event_timestamp"] = NOW - pd.to_timedelta(chance.integers(0, 3600, len(frame)), unit="s")
        store.write_to_online_store(name, frame)
    return store


def over_http(folder: Path, store: Any, count: int) -> list[dict[str, Any]]:
    """A predictor asked by entity keys, and with all features: seconds from request to answer, and its CPU."""
    from http.client import HTTPConnection

    with predictor(folder, store) as (port, pid):
        connection, found = HTTPConnection("127.0.0.1", port), []
        for rows in ROWS:
            for form in ("entity keys", "all features"):
                bodies = [json.dumps({"instances": each}).encode() for each in instances(store, form, rows)]
                seconds, cpu = [], 0.0
                for turn in range(50 + max(100, count // max(1, rows // 5))):
                    if turn == 50:
                        cpu = cpu_of(pid)
                    started = time.perf_counter()
                    connection.request("POST", "/v1/models/bench:predict", bodies[turn % len(bodies)])
                    response = connection.getresponse()
                    answer = response.read()
                    if turn >= 50:
                        seconds.append(time.perf_counter() - started)
                    assert response.status == 200, answer
                p50, p99 = np.quantile(seconds, [0.5, 0.99])
                used = (cpu_of(pid) - cpu) / len(seconds)
                found.append(
                    {"rows": rows, "form": form, "p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "cpu_us": 1e6 * used}
                )
    return found


def instances(store: Any, form: str, rows: int) -> Iterator[list[dict[str, Any]]]:
    names = open_reader(store, "eight", lambda: NOW).kinds
    for each in requests("eight", rows, 20):
        if form == "entity keys":
            yield [dict(zip(each, row, strict=True)) for row in zip(*each.values(), strict=True)]
        else:
            yield [dict.fromkeys(names, 1.5)] * rows


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_sum(folder: Path, store: Any) -> ModelPackage:
    """A model that adds its inputs up, those of the service `eight`."""
    from onnx import TensorProto, helper

    names = open_reader(store, "eight", lambda: NOW).kinds
    inputs = tuple(Feature(name, "float32", name.replace("__", ":")) for name in names)
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["numeric"], ["value"], keepdims=1, axes=[1])],
        "sum",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, len(names)])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    keys = tuple(make_plan(store, store.get_feature_service("eight")).key_types)
    signature = Signature(
        name="bench", task="regression", inputs=inputs, label="y", entity_keys=keys, feature_service="eight"
    )
    return write_package(
        folder / "package",
        signature=signature,
        onnx=model.SerializeToString(),
        native={},
        examples={"inputs": [dict.fromkeys(names, 1.0)], "outputs": [float(len(names))]},
        provenance={},
        card="# Sum\n",
    )


@contextmanager
def predictor(folder: Path, store: Any) -> Iterator[tuple[int, int]]:
    """A predictor process on a model that adds its inputs up; yields its port and process id."""
    import subprocess
    from urllib.request import urlopen

    from tests.object_store import free_ports

    write_sum(folder, store)
    port, grpc_port = free_ports(2)
    command = [sys.executable, "-m", "fti.serve.predictor", f"--package={folder}/package", "--name=bench"]
    command += [f"--feature_repo={folder}/repo", f"--http_port={port}", f"--grpc_port={grpc_port}"]
    command += ["--host=127.0.0.1"]
    environ = {**os.environ, "FTI_HOME": str(folder / "home"), "FTI_NOW": NOW.isoformat()}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/v2/models/bench/ready").close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the predictor does not start"
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def table(figures: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    rows = [
        f"| {each['service']} | {each['rows']} | {each['contender']} | {each['p50_ms']:.3f} | {each['p99_ms']:.3f} "
        f"| {each['cpu_us']:.0f} | {each['p50_to_bare']:.2f} |"
        for each in figures
    ]
    head = [
        "| service | rows | contender | p50 ms | p99 ms | CPU µs | p50 to bare |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *rows])


def http_table(figures: list[dict[str, Any]]) -> str:
    """The predictor's figures as Markdown."""
    rows = [
        f"| {each['rows']} | {each['form']} | {each['p50_ms']:.2f} | {each['p99_ms']:.2f} | {each['cpu_us']:.0f} |"
        for each in figures
    ]
    head = ["| rows | predictor asked with | p50 ms | p99 ms | its CPU µs |", "|---:|---|---:|---:|---:|"]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
