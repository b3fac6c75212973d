"""Time, CPU and peak memory of each step of the loop on a year of flights, and KFP's own cost per step.

Run: `python benchmarks/steps.py [--json]`. Measures a cold home in a temporary folder. CPU and memory are the
kernel's own account of each step's process (wait4), so other work on the machine does not count.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fti.common.settings import Settings
from fti.local_run import run_pipeline
from fti.pipelines import pipeline_named
from fti.step import step
from kfp import dsl
from kfp.local import subprocess_task_handler


@dataclass
class Cost:
    """What one process took: seconds, CPU seconds, MB of peak resident memory."""

    step: str
    wall: float
    cpu: float
    peak_mb: float


def measured(costs: list[Cost]) -> Any:
    """A stand-in for KFP's way to run a step's process, that also reads its account."""

    def run(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        started = time.monotonic()
        process = subprocess.Popen(
            full_command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env_vars or {})}
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        costs.append(Cost(_step_of(full_command), time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
        return process.returncode

    return run


def _step_of(command: list[str]) -> str:
    name = command[command.index("--function_to_execute") + 1]
    inputs = json.loads(command[command.index("--executor_input") + 1]).get("inputs", {}).get("parameterValues", {})
    detail = inputs.get("table") or inputs.get("algorithm") or ""
    return f"{name} {detail}".strip() + (" (baseline)" if inputs.get("features") == ["request"] else "")


@step
def nothing() -> str:
    """Does nothing: what remains is KFP's own cost."""
    return "done"


@dsl.pipeline(name="fti-nothing")
def nothing_ten_times() -> None:
    """Ten steps that do nothing."""
    for _ in range(10):
        nothing()


def main() -> None:
    """Runs the loop and ten empty steps, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json

    costs: list[Cost] = []
    subprocess_task_handler.run_local_subprocess = measured(costs)
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_env({**os.environ, "FTI_HOME": home})
        before = resource.getrusage(resource.RUSAGE_SELF)
        loop = run_pipeline(pipeline_named("loop"), {}, settings)
        after = resource.getrusage(resource.RUSAGE_SELF)
        steps = list(costs)
        costs.clear()
        empty = run_pipeline(nothing_ten_times, {}, settings)

    figures = {
        "steps": [asdict(cost) for cost in steps],
        "loop_wall_seconds": loop.seconds,
        "loop_cpu_seconds": sum(cost.cpu for cost in steps),
        "orchestrator_cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "empty_step_wall_seconds": empty.seconds / 10,
        "empty_step_cpu_seconds": sum(cost.cpu for cost in costs) / 10,
        "empty_step_peak_mb": max(cost.peak_mb for cost in costs),
    }
    print(json.dumps(figures) if as_json else table(figures))


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [f"| {c['step']} | {c['wall']:.1f} | {c['cpu']:.1f} | {c['peak_mb']:.0f} |" for c in figures["steps"]]
    return "\n".join(
        [
            "| step | wall s | CPU s | peak MB |",
            "|---|---:|---:|---:|",
            *rows,
            f"| **the loop** | {figures['loop_wall_seconds']:.1f} | {figures['loop_cpu_seconds']:.1f} | |",
            f"| KFP's runner, for the whole loop | | {figures['orchestrator_cpu_seconds']:.2f} | |",
            f"| a step that does nothing | {figures['empty_step_wall_seconds']:.2f} | {figures['empty_step_cpu_seconds']:.2f} "
            f"| {figures['empty_step_peak_mb']:.0f} |",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
