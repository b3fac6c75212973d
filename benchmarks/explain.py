"""What explanations cost in processor time and memory, exact and sampled, of model packages.

Run: `python benchmarks/explain.py PACKAGE... [--rows N] [--json]`. Each package is explained in a process of its own,
which does what the predictor's does, over rows of its own background. `difference` is between exact and sampled
contributions, at most over all rows and features; `error` the largest standard error that sampling states.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = (
    "package",
    "method",
    "start_cpu_s",
    "peak_mb",
    "exact_cpu_ms",
    "sampled_cpu_ms",
    "walks",
    "largest",
    "error",
    "difference",
)


def main() -> None:
    """Measures each package and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_measured(arguments.packages[0], arguments.rows)))
        return
    found = []
    for package in arguments.packages:
        command = [sys.executable, __file__, str(package), "--child", "--rows", str(arguments.rows)]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print("".join(f"{name:>24}" if name == "package" else f"{name:>15}" for name in COLUMNS))
    for each in found:
        print("".join(f"{each[name]!s:>24}" if name == "package" else f"{each[name]!s:>15}" for name in COLUMNS))


def _measured(path: Path, count: int) -> dict[str, Any]:
    start = time.process_time()
    from fti.common.model_package import load_package
    from fti.serve.explain.worker import PackageExplainer, _columns, graph_inputs

    package = load_package(path)
    explainer = PackageExplainer(package)
    started, peak = time.process_time() - start, _peak_mb()
    columns = {name: values[:count] for name, values in package.background().items()}
    inputs = graph_inputs(package.signature, _columns(package.signature.inputs, columns))
    rows = len(next(iter(inputs.values())))

    def milliseconds(before: float) -> float:
        return round(1000 * (time.process_time() - before) / rows, 2)

    before = time.process_time()
    found = explainer.explain(inputs, 3600)
    exact_ms = milliseconds(before) if found.error is None else None
    before = time.process_time()
    sampled = explainer._sampler.explain(inputs, time.perf_counter() + 3600)
    assert sampled.error is not None
    return {
        "package": path.name,
        "method": "sampled" if exact_ms is None else "exact",
        "start_cpu_s": round(started, 2),
        "peak_mb": peak,
        "exact_cpu_ms": exact_ms,
        "sampled_cpu_ms": milliseconds(before),
        "walks": sampled.samples,
        "largest": round(float(np.abs(found.contributions).max()), 4),
        "error": round(float(sampled.error.max()), 4),
        "difference": None
        if exact_ms is None
        else round(float(np.abs(found.contributions - sampled.contributions).max()), 4),
    }


def _peak_mb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


if __name__ == "__main__":
    main()
