"""What a prediction costs: this library's predictor and others, with one model, side by side in one run.

Run: `python benchmarks/serving.py [--requests N] [--rounds N] [--only NAME ...] [--scratch FOLDER] [--json]`.

All servers run at the same time and take turns, so that a busy machine is as bad for one as for another; of each
figure the best round counts. CPU is that of the server's processes; the load comes from this process over kept-alive
connections. The model is a logistic regression of iris (4 numbers, 3 classes), and once more of 40 numbers. Everything
answers labels and probabilities, but for stock KServe and MLServer, which answer labels alone. The no-op reads a
request and answers as many bytes as the predictor. Servers whose pins clash with this environment's get environments of
their own under the scratch folder, made once; what cannot be had is said and left out.

Then: the predictor asked by entity keys, against reading Redis and running the graph and nothing else; and the
predictor asked for three times what it can answer.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(Path(__file__).parent / "contenders")]

import online  # noqa: E402
from iris import NAMES, fitted  # noqa: E402

from fti.common.model_package import Signature, load_package, write_package  # noqa: E402
from fti.common.settings import Settings  # noqa: E402
from fti.common.tables import Feature  # noqa: E402
from fti.train.export import to_onnx  # noqa: E402
from tests.object_store import free_ports  # noqa: E402
from tests.serve.http_load import closed, http_request, opened  # noqa: E402
from tests.servers import redis_server  # noqa: E402

BATCHES = (1, 32)
CONNECTIONS = (1, 8, 64)
CPU_AT = 8  # connections, as in the measurements that the aims come from
ENVIRONMENTS = {
    "mlserver": ["mlserver==1.7.1", "mlserver-sklearn==1.7.1"],
    "litserve": ["litserve==0.2.19", "scikit-learn"],
}


@dataclass
class Contender:
    """A server, and how it is asked.

    Attributes:
        name: Its name.
        server: Servers of one name are one process.
        argv: Its command; `{port}` and `{grpc_port}` stand for ports.
        ready: A path that answers once it is ready.
        ask: Rows [N, n] -> a request.
    """

    name: str
    server: str
    argv: list[str]
    ready: str
    ask: Callable[[np.ndarray], bytes]


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int

    def pids(self) -> list[int]:
        """The process and all that came of it."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found

    def cpu(self) -> float:
        """CPU seconds: the processes' own clocks, in nanoseconds (clock_getcpuclockid(3))."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids())

    def peak(self) -> float:
        """MiB, the sum of all processes' VmHWM."""
        lines = (line for pid in self.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=2000, help="for each figure and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="these contenders alone, beside the no-op and the predictor")
    parser.add_argument("--scratch", default=str(Path(tempfile.gettempdir()) / "kfp-fti-serving"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found, absent = contenders(folder, Path(arguments.scratch), arguments.only)
        figures = compared(found, arguments.requests, arguments.rounds)
        keyed = by_entity_keys(folder / "redis", arguments.rounds)
        shed = overloaded(folder)
    cpu = {each["contender"]: {str(b): each[f"cpu_us_{b}"] for b in BATCHES} for each in figures}
    ratios = {
        f"vs_{other}": {
            name: {
                b: round(cpu[name][b] / cpu[f"{against}{' wide' if 'wide' in name else ''}"][b], 3) for b in cpu[name]
            }
            for name in cpu
            if f"{against}{' wide' if 'wide' in name else ''}" in cpu
        }
        for other, against in (("noop", "no-op"), ("stock_kserve", "stock KServe"))
    }
    result = {
        "cpu_us_per_request": cpu,
        **ratios,
        "servers": figures,
        "keyed": keyed,
        "overload": shed,
        "absent": absent,
    }
    print(json.dumps(result) if arguments.json else report(result))


def contenders(folder: Path, scratch: Path, only: Sequence[str] | None) -> tuple[list[Contender], dict[str, str]]:
    """Those that can be had, and why the others cannot."""
    here, python = Path(__file__).parent / "contenders", sys.executable
    narrow, wide = write_iris(folder / "iris"), write_wide(folder / "wide")
    subprocess.run([python, here / "iris.py", folder / "iris.joblib"], check=True)
    predictor = [python, "-m", "fti.serve.predictor", "--host=127.0.0.1"]
    predictor += ["--http_port={port}", "--grpc_port={grpc_port}", "--max_queue=1000"]
    small, large = answer_sizes(folder / "iris")
    noop = [python, str(here / "noop.py"), "-", "{port}", str(small), str(large)]
    found = [Contender("no-op", "noop", noop, "/", v1("iris", NAMES))]
    for names, suffix, model in ((NAMES, "", "iris"), (wide, " wide", "wide")):
        argv = [*predictor, f"--package={folder / model}", f"--name={model}"]
        ready = f"/v2/models/{model}/ready"
        if suffix:
            found.append(Contender("no-op wide", "noop", noop, "/", v1(model, names)))
        found += [
            Contender(f"fti V1{suffix}", model, argv, ready, v1(model, names)),
            Contender(f"fti V2 JSON{suffix}", model, argv, ready, v2(model, names)),
            Contender(f"fti V2 binary{suffix}", model, argv, ready, v2_binary(model, names)),
        ]
    assert narrow == NAMES
    script = [python, str(here / "kserve_sklearn.py"), str(folder / "iris.joblib"), "{port}"]
    fastapi = [python, str(here / "fastapi_app.py"), str(folder / "iris.joblib"), "{port}"]
    others = [
        Contender("stock KServe", "kserve", script, "/v2/models/iris/ready", lists("/v1/models/iris:predict")),
        Contender("FastAPI", "fastapi", fastapi, "/docs", v1("iris", NAMES, "/predict")),
    ]
    absent: dict[str, str] = {}
    for name, make in (("mlserver", mlserver), ("litserve", litserve)):
        if only is None or name in {each.lower() for each in only}:
            try:
                others.append(make(environment(scratch / name, ENVIRONMENTS[name]), here, folder))
            except (subprocess.CalledProcessError, OSError) as error:
                said = getattr(error, "stderr", None) or str(error)
                absent[name] = str(said).strip().splitlines()[-1][:200]
    wanted = None if only is None else {each.lower() for each in only}
    return found + [each for each in others if wanted is None or each.name.lower() in wanted], absent


def mlserver(python: str, here: Path, folder: Path) -> Contender:
    home, (port,) = folder / "mlserver", free_ports(1)
    home.mkdir()
    subprocess.run([python, here / "iris.py", home / "model.joblib"], check=True, capture_output=True, text=True)
    settings = {"parallel_workers": 0, "http_port": port, "grpc_port": free_ports(1)[0], "host": "127.0.0.1"}
    settings |= {"metrics_port": free_ports(1)[0], "debug": False}
    (home / "settings.json").write_text(json.dumps(settings))
    model = {"name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./model.joblib"}}
    (home / "model-settings.json").write_text(json.dumps(model))
    argv = [str(Path(python).parent / "mlserver"), "start", str(home), f"port={port}"]

    def ask(rows: np.ndarray) -> bytes:
        tensor = {"name": "predict", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        return http_request("/v2/models/iris/infer", json.dumps({"inputs": [tensor]}).encode())

    return Contender("MLServer", "mlserver", argv, "/v2/models/iris/ready", ask)


def litserve(python: str, here: Path, folder: Path) -> Contender:
    model = folder / "litserve.joblib"
    subprocess.run([python, here / "iris.py", model], check=True, capture_output=True, text=True)
    argv = [python, str(here / "litserve_app.py"), str(model), "{port}"]
    return Contender("LitServe", "litserve", argv, "/health", lists("/predict"))


def environment(folder: Path, requirements: Sequence[str]) -> str:
    """The Python of a virtual environment with these packages, made where it is not there."""
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv is None:
            raise OSError("uv is not installed, which makes the environment")
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)]
        subprocess.run(make, check=True, capture_output=True, text=True)
        install = [uv, "pip", "install", "-q", "--python", str(python), *requirements]
        subprocess.run(install, check=True, capture_output=True, text=True)
        done.touch()
    return str(python)


def write_iris(path: Path) -> tuple[str, ...]:
    model, data = fitted()
    return write(path, model, data[::50], NAMES)


def write_wide(path: Path) -> tuple[str, ...]:
    from sklearn.linear_model import LogisticRegression

    data = np.random.default_rng(0).normal(size=(1000, 40))
    model = LogisticRegression().fit(data, (data.sum(axis=1) > 0).astype(np.int64))
    names = tuple(f"feature_view__{n}" for n in range(40))
    return write(path, model, data[:3], names)


def write(path: Path, model: Any, rows: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
    """A package of a fitted classifier; returns the names of its inputs."""
    inputs = tuple(Feature(name, "float32") for name in names)
    task: Any = "binary" if len(model.classes_) == 2 else "multiclass"
    classes, threshold = tuple(model.classes_.tolist()), 0.5 if task == "binary" else None
    signature = Signature(name="bench", task=task, inputs=inputs, classes=classes, threshold=threshold, label="y")
    examples = {
        "inputs": [dict(zip(names, map(float, row), strict=True)) for row in rows],
        "outputs": model.predict_proba(rows).tolist(),
    }
    write_package(
        path,
        signature=signature,
        onnx=to_onnx(model, signature),
        native={},
        examples=examples,
        provenance={},
        card="# Bench\n",
    )
    return names


def v1(model: str, names: Sequence[str], path: str = "") -> Callable[[np.ndarray], bytes]:
    def ask(rows: np.ndarray) -> bytes:
        instances = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
        return http_request(path or f"/v1/models/{model}:predict", json.dumps({"instances": instances}).encode())

    return ask


def lists(path: str) -> Callable[[np.ndarray], bytes]:
    return lambda rows: http_request(path, json.dumps({"instances": rows.tolist()}).encode())


def v2(model: str, names: Sequence[str]) -> Callable[[np.ndarray], bytes]:
    def ask(rows: np.ndarray) -> bytes:
        shape = {"shape": [len(rows)], "datatype": "FP32"}
        inputs = [{"name": name, **shape, "data": column.tolist()} for name, column in zip(names, rows.T, strict=True)]
        return http_request(f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}).encode())

    return ask


def v2_binary(model: str, names: Sequence[str]) -> Callable[[np.ndarray], bytes]:
    def ask(rows: np.ndarray) -> bytes:
        shape = {"shape": [len(rows)], "datatype": "FP32", "parameters": {"binary_data_size": 4 * len(rows)}}
        message = {"inputs": [{"name": name, **shape} for name in names], "parameters": {"binary_data_output": True}}
        head = json.dumps(message).encode()
        body, path = head + rows.T.astype("<f4").tobytes(), f"/v2/models/{model}/infer"
        return http_request(path, body, "application/octet-stream", inference_header_content_length=str(len(head)))

    return ask


def answer_sizes(package: Path) -> list[int]:
    """The bytes that the predictor answers over V1, for each size of batch."""
    from fti.serve.answers import encode_v1
    from fti.serve.model import PackagedModel
    from fti.serve.protocol import decode_v1

    model = PackagedModel("sizes", "-", load_package(package), None)

    async def size(rows: np.ndarray) -> int:
        request = decode_v1(v1("", NAMES)(rows).partition(b"\r\n\r\n")[2], model.schema)
        answer = await model.answer(request)
        return len(encode_v1(model.signature, answer.scores, answer.labels))

    return [asyncio.run(size(sample(4, batch))) for batch in BATCHES]


def sample(width: int, rows: int) -> np.ndarray:
    return np.random.default_rng(1).normal(3, 1, size=(rows, width)).astype(np.float32).round(2)


@contextmanager
def serving(contender: Contender, environ: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Runs a server until the block ends."""
    given = [argument for argument in contender.argv if argument.startswith("port=")]
    port, grpc_port = free_ports(2)
    argv = [each.replace("{port}", str(port)).replace("{grpc_port}", str(grpc_port)) for each in contender.argv]
    if given:
        argv.remove(given[0])
        port = int(given[0].partition("=")[2])
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **(environ or {})})
        server = Server(process, port)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}{contender.ready}").close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise SystemExit(f"{contender.name} does not start:\n{log.read().decode()[-2000:]}") from None
                    time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            process.wait()


def compared(found: Sequence[Contender], requests: int, rounds: int) -> list[dict[str, Any]]:
    """Each contender's figures: the best of all rounds."""
    best: dict[str, dict[str, Any]] = {each.name: {"contender": each.name} for each in found}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for each in found:
            if each.server not in servers:
                servers[each.server] = stack.enter_context(serving(each))
        for turn in range(rounds):
            for each in found:
                take_turn(each, servers[each.server], best[each.name], requests, warm=turn > 0)
        for each in found:
            best[each.name]["peak_mib"] = round(servers[each.server].peak())
    return list(best.values())


def take_turn(contender: Contender, server: Server, best: dict[str, Any], requests: int, *, warm: bool) -> None:
    width = 40 if "wide" in contender.name else 4
    for batch in BATCHES:
        request = [contender.ask(sample(width, batch))]
        closed(server.port, request, 50 if warm else 500, CPU_AT)
        before = server.cpu()
        load = closed(server.port, request, requests, CPU_AT)
        used = 1e6 * (server.cpu() - before) / requests
        assert set(load.statuses) == {200}, (contender.name, load.statuses)
        keep(best, f"cpu_us_{batch}", round(used, 1))
        if batch == 1 and "wide" not in contender.name:
            for connections in CONNECTIONS:
                load = closed(server.port, request, requests // 2, connections)
                assert set(load.statuses) == {200}, (contender.name, load.statuses)
                p50, p99 = load.quantiles(0.5, 0.99)
                keep(best, f"p50_ms_{connections}", round(1e3 * p50, 2))
                keep(best, f"p99_ms_{connections}", round(1e3 * p99, 2))


def keep(best: dict[str, Any], name: str, value: float) -> None:
    best[name] = min(value, best.get(name, value))


def by_entity_keys(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Looking 35 features in 8 views up and predicting with them, against Redis and the graph alone. In one process."""
    from fti.serve.features import FeatureLookup
    from fti.serve.model import PackagedModel

    with redis_server() as redis:
        address = f'{{type: redis, connection_string: "127.0.0.1:{redis.port}"}}'
        store = online.open_filled(folder, address)
        package = online.write_sum(folder, store)
        settings = Settings.from_env({"FTI_HOME": str(folder / "home"), "FTI_NOW": online.NOW.isoformat()})
        lookup = FeatureLookup(str(folder / "repo"), package.signature, settings)
        model = PackagedModel("bench", "r1", package, lookup)
        bare = online.bare_redis(store, online.make_plan(store, store.get_feature_service("eight")))
        return asyncio.run(_by_entity_keys(model, bare, store, package.path / "model.onnx", rounds))


async def _by_entity_keys(model: Any, bare: Any, store: Any, graph_file: Path, rounds: int) -> list[dict[str, Any]]:
    import onnxruntime

    from fti.serve.protocol import decode_v1

    graph = onnxruntime.InferenceSession(graph_file, providers=["CPUExecutionProvider"])
    found = []
    for rows in online.ROWS:
        asked = online.requests("eight", rows, 20)
        bodies = [json.dumps({"instances": each}).encode() for each in online.instances(store, "entity keys", rows)]
        requests = [decode_v1(body, model.schema) for body in bodies]
        matrix = np.ones((rows, len(model.signature.inputs)), np.float32)

        async def raw(at: int, asked: Any = asked, matrix: Any = matrix) -> None:
            bare(asked[at % 20])
            graph.run(["value"], {"numeric": matrix})

        async def ours(at: int, requests: Any = requests) -> None:
            await model.answer(requests[at % 20])

        best: dict[str, dict[str, float]] = {"raw": {}, "fti": {}}
        for _ in range(rounds):
            for name, ask in (("raw", raw), ("fti", ours)):
                seconds, cpu = [], time.process_time()
                for at in range(500 if rows < 50 else 100):
                    started = time.perf_counter()
                    await ask(at)
                    seconds.append(time.perf_counter() - started)
                keep(best[name], "cpu_us", 1e6 * (time.process_time() - cpu) / len(seconds))
                keep(best[name], "p50_ms", 1e3 * float(np.median(seconds)))
        for name, each in best.items():
            ratios = {f"{key}_to_raw": round(value / best["raw"][key], 2) for key, value in each.items()}
            found.append({"rows": rows, "contender": name, **{k: round(v, 3) for k, v in each.items()}, **ratios})
    return found


def overloaded(folder: Path) -> list[dict[str, Any]]:
    """The predictor at capacity (as many callers as its queue has places), and asked for three times as much."""
    from tests.serve.test_overload import write_slow

    write_slow(folder / "slow")
    found = []
    for model, queue, names in (("iris", 128, NAMES), ("slow", 32, ("x",))):
        argv = [sys.executable, "-m", "fti.serve.predictor", f"--package={folder / model}", f"--name={model}"]
        argv += ["--host=127.0.0.1", "--http_port={port}", "--grpc_port={grpc_port}", f"--max_queue={queue}"]
        contender = Contender(model, model, argv, f"/v2/models/{model}/ready", v1(model, names))
        with serving(contender) as server:
            request = [contender.ask(sample(len(names), 1))]
            closed(server.port, request, 200, 8)
            full = closed(server.port, request, 10_000 if model == "iris" else 1000, queue)
            rate = full.statuses[200] / full.wall
            over = opened(server.port, request, 3 * rate, 3)
            for name, load in (("at capacity", full), ("asked for 3 times that", over)):
                p50, p99 = load.quantiles(0.5, 0.99)
                row = {"model": model, "load": name, "asked_per_s": round(sum(load.statuses.values()) / load.wall)}
                row |= {"answered_per_s": round(load.statuses[200] / load.wall), "refused": load.statuses[429]}
                row |= {"failed": sum(load.statuses.values()) - load.statuses[200] - load.statuses[429]}
                found.append({**row, "p50_ms": round(1e3 * p50, 2), "p99_ms": round(1e3 * p99, 2)})
    return found


def report(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [
        {
            **{key: value for key, value in each.items() if not key.startswith("p")},
            "to no-op": " / ".join(str(v) for v in result["vs_noop"].get(each["contender"], {}).values()),
            "to stock KServe": " / ".join(
                str(v) for v in result["vs_stock_kserve"].get(each["contender"], {}).values()
            ),
            **{
                f"p50 / p99 ms at {n}": f"{each[f'p50_ms_{n}']} / {each[f'p99_ms_{n}']}"
                if f"p50_ms_{n}" in each
                else ""
                for n in CONNECTIONS
            },
            "peak MiB": each["peak_mib"],
        }
        for each in result["servers"]
    ]
    parts = [table(rows), table(result["keyed"]), table(result["overload"])]
    parts += [f"{name} could not be had: {why}" for name, why in result["absent"].items()]
    return "\n\n".join(parts)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
