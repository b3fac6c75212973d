"""A predictor asked for three times what it can answer, after as much as it can: what it answers, refuses and takes.

Run: `python benchmarks/overload.py [--json]`. The load comes from this process, at random times (Poisson) where it is
too much, over HTTP (V1) and over gRPC, without a gateway. Over HTTP this process cannot send three times what the
predictor answers of the small model: `asked_per_s` says what it sent. Over gRPC it can, with frames that are made once
(`tests/serve/grpc_frames.py`); a connection holds back what is more than the server lets it send at a time, as those of
gRPC's clients do.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[1]),
    *map(str, (Path(__file__).parent, Path(__file__).parent / "contenders")),
]

from asked import sample, v1, write_iris  # noqa: E402
from iris import NAMES  # noqa: E402
from serving import Contender, serving, table  # noqa: E402

from tests.serve import grpc_frames, grpc_load  # noqa: E402
from tests.serve.http_load import Load, closed, opened  # noqa: E402
from tests.serve.test_overload import write_slow  # noqa: E402

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = overloaded(Path(name))
    print(json.dumps({"overload": found}) if arguments.json else table(found))


def overloaded(folder: Path) -> list[dict[str, Any]]:
    """The predictor at capacity (as many callers as its queue has places), and asked for three times as much."""
    write_iris(folder / "iris")
    write_slow(folder / "medium", steps=3)
    write_slow(folder / "slow")
    found = []
    for model, queue, names in (("iris", 128, NAMES), ("medium", 128, ("x",)), ("slow", 32, ("x",))):
        argv = [sys.executable, "-m", "fti.serve.predictor", f"--package={folder / model}", f"--name={model}"]
        argv += ["--host=127.0.0.1", "--http_port={port}", "--grpc_port={grpc_port}", f"--max_queue={queue}"]
        contender = Contender(model, model, argv, f"/v2/models/{model}/ready", v1(model, names))
        many = 1000 if model == "slow" else 10_000
        with serving(contender) as server:
            request, address = [contender.ask(sample(len(names), 1))], f"127.0.0.1:{server.grpc_port}"
            closed(server.port, request, 200, 8)
            full = closed(server.port, request, many, queue)
            over = opened(server.port, request, 3 * full.statuses[200] / full.wall, 3)
            found += [row(model, "V1", "at capacity", full), row(model, "V1", "3 times that", over)]
            called = call(model, names)
            full = grpc_load.closed(address, called, many, queue)
            over = grpc_frames.opened(server.grpc_port, METHOD, called, 3 * full.statuses[200] / full.wall, 3)
            found += [row(model, "gRPC", "at capacity", full), row(model, "gRPC", "3 times that", over)]
    return found


def call(model: str, names: Sequence[str]) -> bytes:
    """One row over gRPC."""
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    message = pb.ModelInferRequest(model_name=model)
    for name in names:
        message.inputs.add(name=name, datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
    return bytes(message.SerializeToString())


def row(model: str, protocol: str, name: str, load: Load) -> dict[str, Any]:
    """What came of a load."""
    statuses, (p50, p99) = load.statuses, load.quantiles(0.5, 0.99)
    others = statuses[200] + statuses[grpc_frames.REFUSED] + statuses[grpc_frames.HELD_BACK]
    return {
        "model": model,
        "protocol": protocol,
        "load": name,
        "asked_per_s": round(sum(statuses.values()) / load.wall),
        "answered_per_s": round(statuses[200] / load.wall),
        "refused": statuses[grpc_frames.REFUSED],
        "held_back": statuses[grpc_frames.HELD_BACK],
        "failed": sum(statuses.values()) - others,
        "p50_ms": round(1e3 * p50, 2),
        "p99_ms": round(1e3 * p99, 2),
    }


if __name__ == "__main__":
    main()
