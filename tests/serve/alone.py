"""A predictor process with an environment of its own and a log that can be read; and a front in this process."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fti.common.model_package import ModelPackage
from tests.object_store import free_ports


@dataclass(frozen=True)
class Alone:
    """A running predictor of `late`: its package, process, ports and log."""

    package: ModelPackage
    process: "subprocess.Popen[bytes]"
    port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def post(self, path: str, **arguments: Any) -> httpx.Response:
        return httpx.post(self.url + path, **arguments)

    def lines(self) -> list[dict[str, Any]]:
        """Its log; fails where a line is no JSON object."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.log.read_text().splitlines()]
        assert all(isinstance(line, dict) for line in lines)
        return lines

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in httpx.get(f"{self.url}/metrics").text.splitlines()
            if line.startswith(f"{name}{{") and all(each in line for each in wanted)
        )

    def end(self) -> int:
        """SIGTERM, and its status."""
        self.process.terminate()
        return self.process.wait(30)


@contextmanager
def predictor(
    folder: Path, package: ModelPackage, *arguments: str, environ: Mapping[str, str] | None = None
) -> Iterator[Alone]:
    """Runs a predictor on loopback until the block ends, with arguments and an environment of its own."""
    port, grpc_port = free_ports(2)
    log = folder / "predictor.log"
    command = [sys.executable, "-m", "fti.serve.predictor", f"--package={package.path}", "--name=late"]
    command += ["--host=127.0.0.1", f"--http_port={port}", f"--grpc_port={grpc_port}", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "FTI_", "AWS_"))}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env={**inherited, "FTI_HOME": str(folder / "home"), **(environ or {})},
            stdout=stream,
            stderr=stream,
        )
    alone = Alone(package, process, port, grpc_port, log)
    try:
        until(lambda: ready(alone), 120)
        yield alone
    finally:
        process.kill()
        process.wait()


def ready(alone: Alone) -> bool:
    assert alone.process.poll() is None, alone.log.read_text()
    try:
        return httpx.get(f"{alone.url}/v2/models/late/ready").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def ask(
    front: Any, requests: Sequence[tuple[str, Any]], headers: Mapping[str, str] | None = None
) -> list[httpx.Response]:
    """Posts to a front in this process: (path, JSON value or bytes) each."""

    async def every() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://model") as client:
            typed = {"content-type": "application/json", **(headers or {})}
            return [await client.post(path, content=_encoded(body), headers=typed) for path, body in requests]

    return asyncio.run(every())


def _encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
