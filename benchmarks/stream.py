"""What a push costs, with the nine transforms of the flights, against a batch run of the same features.

Run: `python benchmarks/stream.py [--json] [--seconds 30]`. A year of real flights is featurized once in a temporary
home; then flights of the last day are pushed, each time with an arrival a minute later, so that every push changes
features. Each size of push runs in a process of its own, on a copy of that home. CPU and memory are the kernel's.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fti.common.settings import Settings
from fti.local_run import run_pipeline
from fti.pipelines import pipeline_named, reference

NOW = datetime(2014, 1, 1, 5, tzinfo=UTC)  # the end of the data
SIZES = (1, 10, 100)


def main() -> None:
    """Runs all sizes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=30, help="how long each size is pushed")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.seconds)))
        return
    figures = run(arguments.seconds)
    print(json.dumps(figures) if arguments.json else table(figures))


def run(seconds: float) -> dict[str, Any]:
    """The batch run, then a process for each size."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        done = run_pipeline(pipeline_named("features"), {}, Settings.from_env({**os.environ, "FTI_HOME": str(home)}))
        batch = [step for step in done.steps if step.name.startswith(("featurize", "materialize"))]
        shutil.copytree(home, Path(folder, "fresh"))
        sizes = []
        for size in SIZES:
            shutil.rmtree(home)
            shutil.copytree(Path(folder, "fresh"), home)
            command = [sys.executable, __file__, "--measure", str(size), "--seconds", str(seconds)]
            environ = {**os.environ, "FTI_HOME": str(home)}
            sizes.append(json.loads(subprocess.run(command, env=environ, capture_output=True, check=True).stdout))
    return {
        "pushes": sizes,
        "batch_seconds": sum(step.seconds or 0.0 for step in batch),
        "batch_cpu_seconds": sum(step.cpu_seconds or 0.0 for step in batch),
    }


def measure(size: int, seconds: float) -> dict[str, Any]:
    """Pushes of one size."""
    from fti.stream.opening import open_stream

    opening = time.perf_counter()
    opened = open_stream(
        reference.FEATURE_REPO,
        reference.TABLES,
        Settings.from_env(),
        null_values=reference.NULL_VALUES,
        clock=lambda: NOW,
        flush_every=timedelta(minutes=1),
    )
    with opened as stream:
        opening = time.perf_counter() - opening
        flights = landed(stream)
        taken, rows, later = list[float](), 0, 0
        stream.push("flights", changed(flights, 0, size, 1), NOW)
        cpu, end = time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < end:
            later += 1
            events = changed(flights, later * size, size, 1 + later % 60)
            start = time.perf_counter()
            # A second later each time: the offline store is written once a minute of the clock.
            pushed = stream.push("flights", events, NOW + timedelta(seconds=later))
            taken.append(time.perf_counter() - start)
            rows += sum(pushed.rows.values())
        cpu = time.process_time() - cpu
    taken.sort()
    return {
        "events_per_push": size,
        "p50_ms": 1000 * taken[len(taken) // 2],
        "p99_ms": 1000 * taken[int(len(taken) * 0.99)],
        "events_per_second": size * len(taken) / sum(taken),
        "cpu_ms_per_push": 1000 * cpu / len(taken),
        "feature_rows_per_push": rows / len(taken),
        "opening_seconds": opening,
        "peak_mb": peak_mb(),
    }


def landed(stream: Any) -> list[dict[str, Any]]:
    """Flights of the last day that have landed, as they stand in the stream's own file."""
    query = "FROM store.source.flights WHERE time_hour > ? AND arr_delay IS NOT NULL ORDER BY ALL"
    return stream._sources.connection.execute(query, [NOW - timedelta(days=1)]).pl().to_dicts()


def changed(flights: list[dict[str, Any]], start: int, size: int, minutes: int) -> list[dict[str, Any]]:
    """Some flights, arriving later."""
    chosen = [flights[(start + offset) % len(flights)] for offset in range(size)]
    return [{**flight, "arr_delay": flight["arr_delay"] + minutes} for flight in chosen]


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = [
        f"| {each['events_per_push']} | {each['p50_ms']:.0f} | {each['p99_ms']:.0f} | {each['events_per_second']:.0f} "
        f"| {each['cpu_ms_per_push']:.0f} | {each['feature_rows_per_push']:.0f} | {each['opening_seconds']:.1f} "
        f"| {each['peak_mb']:.0f} | {figures['batch_cpu_seconds'] * 1000 / each['cpu_ms_per_push']:.0f} |"
        for each in figures["pushes"]
    ]
    return "\n".join(
        [
            "| events a push | p50 ms | p99 ms | events/s | CPU ms | feature rows | opening s | peak MB "
            "| pushes for the CPU of a batch run |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            f"\nBatch run (featurize and materialize): {figures['batch_seconds']:.1f} s, "
            f"{figures['batch_cpu_seconds']:.1f} CPU s.",
        ]
    )


if __name__ == "__main__":
    main()
