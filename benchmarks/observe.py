"""What it costs to be seen: CPU and latency of a request with and without metrics, logs, traces, inference log.

Run: `python benchmarks/observe.py [--requests N] [--json]`. Each contender is a process with the predictor's front,
asked through ASGI without a network, so that nothing but the predictor's own work is measured; all take turns, round by
round. The model adds 35 numbers up. `blind` sees nothing at all. CPU is that of the whole process, its background
threads too; latency is that of one request after the other, as fast as they are answered: the background threads
compete with each of them for the interpreter. p1 is the latency of requests that nothing disturbed. A collector that
answers everything runs in a process of its own.

Processes differ among themselves by more than a few microseconds. What costs so little is measured in one process:
fronts that differ in what they see take turns every 300 requests of one row.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CONTENDERS = ("blind", "KServe's histogram", "metrics", "+ access log", "+ traces", "+ inference log", "+ all")
ROWS = (1, 32)
IN_ONE_PROCESS = ("blind", "KServe's histogram", "metrics", "+ inference log")
FEATURES = 35
ROUNDS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--requests", type=int, default=24_000, help="requests of one row; fewer of larger ones")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        write_package(Path(folder) / "package")
        port, collector = context.Value("i", 0), None
        collector = context.Process(target=collect, args=(port,), daemon=True)
        collector.start()
        while not port.value:
            time.sleep(0.05)
        pipes: dict[str, Connection] = {}
        for name in CONTENDERS:
            pipes[name], theirs = context.Pipe()
            context.Process(target=contend, args=(name, folder, port.value, theirs), daemon=True).start()
        figures = [row for rows in ROWS for row in measured(pipes, rows, arguments.requests)]
        for pipe in pipes.values():
            pipe.send(None)
            pipe.recv()
        one = in_one_process(Path(folder))
    print(
        json.dumps({"one_process": one, "processes": figures})
        if arguments.json
        else f"{small(one)}\n\n{table(figures)}"
    )


def in_one_process(folder: Path) -> list[dict[str, Any]]:
    """Latency of fronts of one process, turn by turn."""
    with ExitStack() as stack:
        fronts = {name: stack.enter_context(open_front(name, folder)) for name in IN_ONE_PROCESS}
        gc.collect()
        gc.freeze()
        seconds: dict[str, list[Any]] = {name: [] for name in fronts}
        for _ in range(60):
            for name, front in fronts.items():
                seconds[name].append(asyncio.run(turn(front, 1, 300))["seconds"])
    found = []
    for name, turns in seconds.items():
        p1, p50 = 1e6 * np.quantile(np.concatenate(turns[3:]), [0.01, 0.5])
        found.append({"contender": name, "p1_us": p1, "p50_us": p50})
    return found


def small(figures: list[dict[str, Any]]) -> str:
    """The figures of one process as Markdown."""
    rows = [f"| {each['contender']} | {each['p1_us']:.1f} | {each['p50_us']:.1f} |" for each in figures]
    return "\n".join(["| contender | p1 µs | p50 µs |", "|---|---:|---:|", *rows])


def measured(pipes: dict[str, Connection], rows: int, count: int) -> list[dict[str, Any]]:
    """The figures of all contenders for requests of so many rows."""
    each = max(100, count // ROUNDS // max(1, rows // 4))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in pipes}
    for turn in range(ROUNDS + 1):
        for name, pipe in pipes.items():
            pipe.send((rows, each))
            result = pipe.recv()
            if turn:  # the first round warms up
                found[name].append(result)
    blind = [result["cpu_us"] for result in found["blind"]]
    figures = []
    for name, results in found.items():
        seconds = np.concatenate([result["seconds"] for result in results])
        p1, p50, p99 = 1e6 * np.quantile(seconds, [0.01, 0.5, 0.99])
        cpu = [result["cpu_us"] for result in results]
        # Round against round: what else the machine does meanwhile then matters least.
        added = statistics.median(one - other for one, other in zip(cpu, blind, strict=True))
        figures.append(
            {
                "rows": rows,
                "contender": name,
                "cpu_us_per_request": statistics.median(cpu),
                "added_cpu_us": added,
                "p1_us": p1,
                "p50_us": p50,
                "p99_us": p99,
                "peak_mb": results[-1]["peak_mb"],
            }
        )
    return figures


def contend(name: str, folder: str, collector: int, pipe: Connection) -> None:
    """Answers requests whenever it is told to."""
    import logging
    import os

    from fti.serve.observe.logs import configure

    if name in {"+ traces", "+ all"}:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector}"
    sys.stderr = (Path(folder) / f"{name}.log").open("w")
    configure(model="bench")
    logging.getLogger("kserve").setLevel(logging.WARNING)
    with open_front(name, Path(folder)) as front:
        gc.collect()
        gc.freeze()  # as the predictor does
        used = time.process_time()
        while asked := pipe.recv():
            found = asyncio.run(turn(front, *asked))
            # Since the last turn: what the threads do in between belongs to its requests.
            before, used = used, time.process_time()
            pipe.send({**found, "cpu_us": 1e6 * (used - before) / asked[1]})
    pipe.send(None)


@contextmanager
def open_front(name: str, folder: Path) -> Any:
    from fti.common.model_package import load_package
    from fti.common.settings import Settings
    from fti.serve.front import Front
    from fti.serve.model import PackagedModel
    from fti.serve.observe.inference_log import Limits
    from fti.serve.observe.observer import observing

    model = PackagedModel("bench", "r1", load_package(folder / "package"), None)
    uri = str(folder / "log") if name in {"+ inference log", "+ all"} else ""
    settings = replace(Settings.from_env({"FTI_HOME": str(folder / "home")}), inference_log_uri=uri)
    with observing(model, settings, name in {"+ access log", "+ all"}, Limits(seconds=5)) as observer:
        blind = {"blind": Blind(), "KServe's histogram": KServes()}
        yield Front(nobody, model, observer=blind.get(name, observer))


class Blind:
    """An observer and an observed that see nothing."""

    request_id, code, reason, cause = "0" * 32, 0, "", ""
    tracing, asked = None, False

    def http(self, *_: Any) -> "Blind":
        return self

    def predicted(self, *_: Any) -> None:
        pass

    def __enter__(self) -> "Blind":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class KServes(Blind):
    """Counts what KServe itself counts, and nothing else."""

    def __init__(self) -> None:
        from kserve.metrics import PREDICT_HIST_TIME, get_labels

        self._seconds, self._started = PREDICT_HIST_TIME.labels(**get_labels("bench")), 0.0

    def __enter__(self) -> "KServes":
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds.observe(time.perf_counter() - self._started)


async def nobody(*_: Any) -> None:
    pass


async def turn(front: Any, rows: int, count: int) -> dict[str, Any]:
    """Answers so many requests, one after the other, each in a task of its own, as uvicorn does."""
    body = json.dumps({"instances": [{f"f{n}": n / 7 for n in range(FEATURES)}] * rows}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"x-request-id", b"0" * 36), (b"host", b"bench"), (b"user-agent", b"benchmark")]
    scope = {"type": "http", "method": "POST", "path": "/v1/models/bench:predict", "headers": headers}
    loop, seconds = asyncio.get_running_loop(), np.empty(count)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200, message

    for place in range(count):
        started = time.perf_counter()
        await loop.create_task(front(dict(scope), receive, send))
        seconds[place] = time.perf_counter() - started
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "peak_mb": int(peak.split()[1]) / 1024}


def write_package(path: Path) -> None:
    """A model that adds its inputs up."""
    from onnx import TensorProto, helper

    from fti.common.model_package import Signature, write_package
    from fti.common.tables import Feature

    names = [f"f{n}" for n in range(FEATURES)]
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["numeric"], ["value"], keepdims=1, axes=[1])],
        "sum",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    write_package(
        path,
        signature=Signature("bench", "regression", tuple(Feature(name, "float32") for name in names), label="y"),
        onnx=model.SerializeToString(),
        native={},
        examples={"inputs": [dict.fromkeys(names, 1.0)], "outputs": [float(FEATURES)]},
        provenance={},
        card="# Sum\n",
    )


def collect(port: Any) -> None:
    """A collector that takes whatever comes."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    port.value = server.server_port
    threading.Thread(target=server.serve_forever).start()


def table(figures: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    head = [
        "| rows | contender | CPU µs | added µs | p1 µs | p50 µs | p99 µs | peak MB |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows = [
        f"| {each['rows']} | {each['contender']} | {each['cpu_us_per_request']:.1f} | {each['added_cpu_us']:.1f} "
        f"| {each['p1_us']:.1f} | {each['p50_us']:.1f} | {each['p99_us']:.0f} | {each['peak_mb']:.0f} |"
        for each in figures
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    main()
