"""What a prediction by entity keys costs: 35 features of 8 views looked up in Redis, then a graph run on them.

Run: `python benchmarks/keyed.py [--rounds N] [--json]`. Starts a Redis of its own, on this machine.

Each contender is a process of its own; they take turns, and of each figure the best round counts. No side has HTTP or
JSON, which would be the same for all and hide what differs: each begins with the values of the entity keys.

- `raw`: makes the distinct keys, sends one HMGET for each in one pipeline of redis-py, blocking, and decodes nothing;
  then runs the graph on a matrix that it has ready. No correct server can do less.
- `hand-written`: as `raw`, and decodes the values with protobuf, leaves out what is past its TTL, and fills the matrix:
  the least that gives a right answer.
- `fti`: `PackagedModel.answer` as the predictor calls it, on its event loop: admission, lookup, decoding, TTLs and
  policies, metrics, the graph, labels, the check for finite answers.
- `fti, 8 at once`: the same with eight requests in flight, as a predictor has them under load. Its latency is of one of
  eight.

`lookup` is each contender's share before the graph. CPU is the contender's own; Redis has its own.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import online  # noqa: E402

from fti.common.feature_store import open_store  # noqa: E402
from fti.common.model_package import load_package  # noqa: E402
from fti.common.settings import Settings  # noqa: E402
from tests.servers import redis_server  # noqa: E402

CONTENDERS = ("raw", "hand-written", "fti", "fti, 8 at once")
SHARES = ("lookup", "whole")
AT_ONCE, WIDTH = 8, 35
Ask = Callable[[int], Awaitable[object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, redis_server() as redis:
        folder = Path(name)
        store = online.open_filled(folder, f'{{type: redis, connection_string: "127.0.0.1:{redis.port}"}}')
        online.write_sum(folder, store)
        figures = compared(folder, arguments.rounds)
    print(json.dumps({"keyed": figures}) if arguments.json else table(figures))


def compared(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """The figures of each contender, which take turns."""
    best: dict[tuple[int, str, str], dict[str, float]] = {}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(worker(name, folder)) for name in CONTENDERS}
        for _ in range(rounds):
            for rows in online.ROWS:
                for share in SHARES:
                    for name, pipe in workers.items():
                        pipe.send((share, rows, 400 if rows < 50 else 80))
                        kept = best.setdefault((rows, share, name), {})
                        for key, value in pipe.recv().items():
                            kept[key] = min(value, kept.get(key, value))
    return [
        {
            "rows": rows,
            "share": share,
            "contender": name,
            **{key: round(value, 3) for key, value in figures.items()},
            **{
                f"{key}_to_{other}": round(figures[key] / best[rows, share, other][key], 2)
                for key in ("cpu_us", "p50_ms")
                for other in ("raw", "hand-written")
            },
        }
        for (rows, share, name), figures in best.items()
    ]


@contextmanager
def worker(name: str, folder: Path) -> Any:
    """A contender's process: takes (share, rows, count), and answers with its figures."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(name, folder, theirs))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def work(name: str, folder: Path, pipe: Connection) -> None:
    import uvloop

    settings = Settings.from_env({"FTI_HOME": str(folder / "home"), "FTI_NOW": online.NOW.isoformat()})
    make = {"raw": raw, "hand-written": by_hand}.get(name, ours)
    at_once = AT_ONCE if "at once" in name else 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        asks = make(folder, settings)
        while True:
            try:
                share, rows, count = pipe.recv()
            except EOFError:
                return
            runner.run(measured(asks(share, rows), 20, at_once))
            pipe.send(runner.run(measured(asks(share, rows), count, at_once)))


async def measured(ask: Ask, count: int, at_once: int) -> dict[str, float]:
    seconds: list[float] = []

    async def timed(at: int) -> None:
        started = time.perf_counter()
        await ask(at)
        seconds.append(time.perf_counter() - started)

    cpu = time.process_time()
    for first in range(0, count, at_once):
        if at_once == 1:
            await timed(first)
        else:
            await asyncio.gather(*map(timed, range(first, first + at_once)))
    return {
        "cpu_us": 1e6 * (time.process_time() - cpu) / count,
        "p50_ms": 1e3 * float(np.median(seconds)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def ours(folder: Path, settings: Settings) -> Callable[[str, int], Ask]:
    from fti.serve.features import FeatureLookup
    from fti.serve.model import PackagedModel
    from fti.serve.protocol import decode_v1

    package = load_package(folder / "package")
    model = PackagedModel("bench", "r1", package, FeatureLookup(str(folder / "repo"), package.signature, settings))
    store = open_store(str(folder / "repo"), settings)

    def asks(share: str, rows: int) -> Ask:
        bodies = (json.dumps({"instances": each}).encode() for each in online.instances(store, "entity keys", rows))
        requests = [decode_v1(body, model.schema) for body in bodies]
        do: Any = model.complete if share == "lookup" else model.answer
        return lambda at: do(requests[at % len(requests)])

    return asks


def raw(folder: Path, _settings: Settings) -> Callable[[str, int], Ask]:
    store, plan, run = parts(folder)
    bare = online.bare_redis(store, plan)

    def asks(share: str, rows: int) -> Ask:
        asked, matrix = online.requests("eight", rows, 20), np.ones((rows, WIDTH), np.float32)

        async def ask(at: int) -> None:
            bare(asked[at % len(asked)])
            if share == "whole":
                run(matrix)

        return ask

    return asks


def by_hand(folder: Path, _settings: Settings) -> Callable[[str, int], Ask]:
    store, plan, run = parts(folder)
    bare = online.bare_redis(store, plan)

    def asks(share: str, rows: int) -> Ask:
        asked = online.requests("eight", rows, 20)

        async def ask(at: int) -> None:
            each = asked[at % len(asked)]
            matrix = decoded(plan, each, bare(each))
            if share == "whole":
                run(matrix)

        return ask

    return asks


def parts(folder: Path) -> tuple[Any, Any, Callable[[np.ndarray], Any]]:
    """The store, what is read, and the graph."""
    import onnxruntime

    store = open_store(str(folder / "repo"), Settings.from_env({"FTI_HOME": str(folder / "home")}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = onnxruntime.InferenceSession(folder / "package/model.onnx", options, providers=["CPUExecutionProvider"])
    plan = online.make_plan(store, store.get_feature_service("eight"))
    return store, plan, lambda matrix: graph.run(["value"], {"numeric": matrix})


def decoded(plan: Any, asked: dict[str, list[str]], replies: list[list[bytes]]) -> np.ndarray:
    """The matrix of a request, from the hashes of its distinct keys, key by key of the plan."""
    from feast.protos.feast.types.Value_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    now = int(online.NOW.timestamp())
    hashes, places = iter(replies), []
    found: list[list[list[float]]] = [[] for _ in plan.views]
    for at, key in enumerate(plan.keys):
        rows = list(zip(*(asked[str(column)] for column in key.columns), strict=True))
        distinct = {values: place for place, values in enumerate(dict.fromkeys(rows))}
        places.append([distinct[values] for values in rows])
        for _ in distinct:
            fields = iter(next(hashes))
            for view_at, view in enumerate(plan.views):
                if view.key != at:
                    continue
                messages = [Value.FromString(next(fields)) for _ in view.features]
                stamp = Timestamp.FromString(next(fields))
                fresh = now - stamp.seconds <= view.policy.ttl.total_seconds()
                found[view_at].append([getattr(each, each.WhichOneof("val")) if fresh else np.nan for each in messages])
    matrix = np.empty((len(rows), WIDTH), np.float32)
    start = 0
    for view, values in zip(plan.views, found, strict=True):
        stop = start + len(view.features)
        matrix[:, start:stop] = [values[place] for place in places[view.key]]
        start = stop
    return matrix


def table(figures: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    names = list(figures[0])
    lines = [names, ["---"] * len(names), *([str(each[name]) for name in names] for each in figures)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
