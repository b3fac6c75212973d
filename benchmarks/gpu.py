"""Scoring on the CPU and on a GPU, by batch size: ONNX Runtime and torch, where each finds one.

Run: `python benchmarks/gpu.py [--seconds S] [--width W] [--json]`. The model is a perceptron of three hidden layers of
width W over 64 numbers, as an ONNX graph and as a program of torch's operators: what a GPU is for. Each contender
scores in a process of its own, from numpy arrays to numpy arrays as a predictor does, so that copies to the GPU and
back count. CPU contenders use one thread, as predictors do. `cpu_us_per_batch` is the processor time of the process.
Without a GPU the table says so, and has the CPU alone.
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

BATCHES = (1, 8, 64, 512, 4096)
FEATURES, LAYERS = 64, 3
CONTENDERS = ("onnx-cpu", "onnx-cuda", "torch-cpu", "torch-cuda")


def main() -> None:
    """Measures all contenders and prints a table."""
    arguments = _arguments()
    if arguments.contender:
        print(json.dumps(_measured(arguments.contender, arguments.width, arguments.seconds)))
        return
    found = [_child(name, arguments) for name in CONTENDERS]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    _show(found)


def _child(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--contender", name]
    command += ["--width", str(arguments.width), "--seconds", str(arguments.seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"contender": name, "error": done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _measured(name: str, width: int, seconds: float) -> dict[str, Any]:
    from fti.common.errors import ConfigError
    from fti.common.onnx_backend import OnnxBackend
    from fti.common.torch_backend import TorchBackend

    runtime, _, device = name.partition("-")
    weights = _weights(width)
    chosen: Any = {"threads": 1, "device": device}
    try:
        if runtime == "onnx":
            backend: Any = OnnxBackend(_graph(weights), "value", **chosen)
        else:
            backend = TorchBackend(*_program(weights), **chosen)
    except ConfigError as error:
        return {"contender": name, "error": str(error)}
    rows = np.random.default_rng(0).normal(size=(max(BATCHES), FEATURES)).astype(np.float32)
    expected = _by_hand(weights, rows[:64])
    np.testing.assert_allclose(backend.run({"numeric": rows[:64]}), expected, rtol=1e-3, atol=1e-4)
    times = {size: _microseconds(backend, rows[:size], seconds) for size in BATCHES}
    return {
        "contender": name,
        "us_per_batch": {size: wall for size, (wall, _) in times.items()},
        "cpu_us_per_batch": {size: cpu for size, (_, cpu) in times.items()},
        "peak_mb": _peak_mb(),
    }


def _microseconds(backend: Any, rows: np.ndarray, seconds: float) -> tuple[float, float]:
    """The median time of a batch, after a few that warm up, and the mean processor time."""
    for _ in range(3):
        backend.run({"numeric": rows})
    taken = []
    cpu = time.process_time()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 3:
        start = time.perf_counter()
        backend.run({"numeric": rows})
        taken.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(taken)
    return round(1e6 * float(np.median(taken)), 1), round(1e6 * cpu, 1)


def _weights(width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    widths = [FEATURES, *[width] * LAYERS, 1]
    return [(rng.normal(size=pair) / np.sqrt(pair[0])).astype(np.float32) for pair in pairwise(widths)]


def _by_hand(weights: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    for weight in weights[:-1]:
        rows = np.maximum(rows @ weight, 0)
    return rows @ weights[-1]


def _graph(weights: list[np.ndarray]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes, value = [], "numeric"
    for place in range(len(weights)):
        last = place == len(weights) - 1
        nodes.append(helper.make_node("MatMul", [value, f"w{place}"], ["value" if last else f"m{place}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"m{place}"], [f"h{place}"]))
            value = f"h{place}"
    inputs = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [None, FEATURES])]
    outputs = [helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])]
    constants = [numpy_helper.from_array(weight, f"w{place}") for place, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "perceptron", inputs, outputs, constants)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


def _program(weights: list[np.ndarray]) -> tuple[bytes, bytes]:
    import torch
    from safetensors.torch import save

    steps: list[dict[str, object]] = []
    value = "numeric"
    for place in range(len(weights)):
        steps.append({"out": f"m{place}", "op": "aten.mm.default", "args": [{"ref": value}, {"ref": f"w{place}"}]})
        value = f"m{place}"
        if place < len(weights) - 1:
            steps.append({"out": f"h{place}", "op": "aten.relu.default", "args": [{"ref": value}]})
            value = f"h{place}"
    described = {"numeric": FEATURES, "categories": [], "steps": steps, "output": value}
    tensors = {f"w{place}": torch.from_numpy(weight) for place, weight in enumerate(weights)}
    return json.dumps(described).encode(), save(tensors)


def _peak_mb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _show(found: list[dict[str, Any]]) -> None:
    measured = {each["contender"]: each for each in found if "error" not in each}
    print(f"{'µs per batch of':>18}" + "".join(f"{size:>10}" for size in BATCHES) + f"{'peak MB':>10}")
    for name, each in measured.items():
        row = "".join(f"{each['us_per_batch'][str(size)]:>10}" for size in BATCHES)
        print(f"{name:>18}{row}{each['peak_mb']:>10}")
    for runtime in ("onnx", "torch"):
        pair = [measured.get(f"{runtime}-{device}") for device in ("cpu", "cuda")]
        if pair[0] and pair[1]:
            ratios = [pair[0]["us_per_batch"][str(size)] / pair[1]["us_per_batch"][str(size)] for size in BATCHES]
            print(f"{runtime + ': GPU faster':>18}" + "".join(f"{ratio:>9.2f}x" for ratio in ratios))
    for each in found:
        if "error" in each:
            print(f"{each['contender']}: not measured. {each['error']}")
    if not any(name.endswith("cuda") for name in measured):
        print("There is no GPU here that ONNX Runtime or torch can use: nothing above tells of one.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="For each batch size of each contender.")
    parser.add_argument("--width", type=int, default=1024, help="Of the hidden layers.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
