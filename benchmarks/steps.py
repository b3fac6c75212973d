"""Time, CPU and peak memory of each step of the loop on a year of flights, and KFP's own cost per step.

Run: `python benchmarks/steps.py [--json]`. Measures a cold home in a temporary folder. CPU and memory are the
kernel's own account of each step's process (wait4), so other work on the machine does not count.
"""

import argparse
import json
import os
import resource
import tempfile
from dataclasses import asdict
from typing import Any

from kfp import dsl

from fti.common.settings import Settings
from fti.local_run import run_pipeline
from fti.pipelines import pipeline_named
from fti.step import step


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

    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_env({**os.environ, "FTI_HOME": home})
        before = resource.getrusage(resource.RUSAGE_SELF)
        loop = run_pipeline(pipeline_named("loop"), {}, settings)
        after = resource.getrusage(resource.RUSAGE_SELF)
        empty = run_pipeline(nothing_ten_times, {}, settings)

    figures = {
        "steps": [asdict(step) for step in loop.steps],
        "loop_wall_seconds": loop.seconds,
        "loop_cpu_seconds": sum(step.cpu_seconds for step in loop.steps),
        "orchestrator_cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "empty_step_wall_seconds": empty.seconds / 10,
        "empty_step_cpu_seconds": sum(step.cpu_seconds for step in empty.steps) / 10,
        "empty_step_peak_mb": max(step.peak_mb for step in empty.steps),
    }
    print(json.dumps(figures) if as_json else table(figures))


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [
        f"| {step['name']} | {step['seconds']:.1f} | {step['cpu_seconds']:.1f} | {step['peak_mb']:.0f} |"
        for step in figures["steps"]
    ]
    return "\n".join(
        [
            "| step | wall s | CPU s | peak MB |",
            "|---|---:|---:|---:|",
            *rows,
            f"| **the loop** | {figures['loop_wall_seconds']:.1f} | {figures['loop_cpu_seconds']:.1f} | |",
            f"| KFP's runner, for the whole loop | | {figures['orchestrator_cpu_seconds']:.2f} | |",
            f"| a step that does nothing | {figures['empty_step_wall_seconds']:.2f} "
            f"| {figures['empty_step_cpu_seconds']:.2f} | {figures['empty_step_peak_mb']:.0f} |",
        ]
    )


if __name__ == "__main__":
    main()
