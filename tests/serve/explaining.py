"""Predictors that explain."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from fti.common.model_package import ModelPackage
from tests.serve import alone

EXPLAIN, PREDICT = "/v1/models/late:explain", "/v1/models/late:predict"
PATIENT = ("--explain_budget_ms=60000", "--deadline_ms=60000")  # where the time is not what is tested


@dataclass(frozen=True)
class Served:
    """A running predictor of `late`."""

    process: subprocess.Popen[bytes]
    url: str

    def predict(self, rows: list[dict[str, Any]]) -> httpx.Response:
        return httpx.post(self.url + PREDICT, json={"instances": rows}, timeout=30)

    def explain(self, rows: list[dict[str, Any]], **headers: str) -> httpx.Response:
        """The answer, once the process that explains has started."""
        deadline = time.monotonic() + 180
        while True:
            found = httpx.post(self.url + EXPLAIN, json={"instances": rows}, headers=headers, timeout=60)
            if "still starting" not in found.text:
                return found
            assert time.monotonic() < deadline, found.text

    def worker(self) -> psutil.Process | None:
        """The process that explains."""
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if "fti.serve.explain.worker" in child.cmdline()), None)


@contextmanager
def predictor(folder: Path, package: ModelPackage, *arguments: str) -> Iterator[Served]:
    """Runs the predictor of a package until the block ends."""
    with alone.predictor(folder, package, *arguments) as running:
        yield Served(running.process, running.url)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
