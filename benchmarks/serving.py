"""What a prediction costs: this library's predictor and others, with one model, side by side in one run.

Run: `python benchmarks/serving.py [--requests N] [--rounds N] [--only NAME ...] [--scratch FOLDER] [--json]`.

All servers run at the same time and take turns, so that a busy machine is as bad for one as for another; of each
figure the best round counts. CPU is that of the server's processes; the load comes from this process over kept-alive
connections. The model is a logistic regression of iris (4 numbers, 3 classes), and once more of 40 numbers. Everything
answers labels and probabilities, but for stock KServe and MLServer, which answer labels alone. The no-op reads a
request and answers as many bytes as the predictor. Servers whose pins clash with this environment's get environments of
their own under the scratch folder, made once; what cannot be had is said and left out.

`benchmarks/overload.py` asks the predictor for more than it can answer; `benchmarks/keyed.py` asks it by entity keys.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(Path(__file__).parent / "contenders")]

from asked import answer_sizes, lists, sample, v1, v2, v2_binary, write_iris, write_wide  # noqa: E402
from iris import NAMES  # noqa: E402

from tests.object_store import free_ports  # noqa: E402
from tests.serve.http_load import closed, http_request  # noqa: E402

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
    grpc_port: int

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
    small, large = answer_sizes(folder / "iris", BATCHES)
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
        own = {**os.environ, **(environ or {})}
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=own, start_new_session=True)
        server = Server(process, port, grpc_port)
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
            with suppress(ProcessLookupError):  # what it started and left
                os.killpg(process.pid, signal.SIGKILL)


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
    parts = [table(rows)]
    parts += [f"{name} could not be had: {why}" for name, why in result["absent"].items()]
    return "\n\n".join(parts)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
