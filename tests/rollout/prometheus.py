"""Prometheus for tests: the real one where it is installed, and a stand-in that answers the one query that is asked.

The stand-in scrapes real predictors, keeps raw samples and hands them out over HTTP as Prometheus does.
"""

import json
import re
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fti.serve.local.ports import Ports

Targets = Callable[[], list[int]]  # the ports of the predictors now

INSTALLED = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt-get install prometheus)"
)
_MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')


@contextmanager
def stand_in(targets: Targets, seconds: float = 0.2) -> Iterator[str]:
    """Yields the URL of a stand-in that scrapes every so many seconds."""
    samples: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = defaultdict(list)
    lock, ended = threading.Lock(), threading.Event()

    def scrape() -> None:
        while not ended.is_set():
            for port in targets():
                try:
                    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=1).text
                except httpx.HTTPError:
                    continue
                now = time.time()
                with lock:
                    for family in text_string_to_metric_families(text):
                        for sample in family.samples:
                            labels = {**sample.labels, "__name__": sample.name, "instance": f"127.0.0.1:{port}"}
                            samples[tuple(sorted(labels.items()))].append((now, sample.value))
            ended.wait(seconds)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (query,) = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())["query"]
            selector, window = re.fullmatch(r"(\{.*\})\[(\d+)m\]", query).groups()  # type: ignore[union-attr]
            since = time.time() - 60 * int(window)
            with lock:
                result = [
                    {"metric": dict(labels), "values": [[t, str(value)] for t, value in points if t > since]}
                    for labels, points in samples.items()
                    if _matches(dict(labels), selector)
                ]
            answer = {"status": "success", "data": {"resultType": "matrix", "result": result}}
            body = json.dumps(answer).encode()
            self.send_response(200 if self.path == "/api/v1/query" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threads = [threading.Thread(target=work) for work in (scrape, server.serve_forever)]
    for thread in threads:
        thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ended.set()
        server.shutdown()
        for thread in threads:
            thread.join()
        server.server_close()


@contextmanager
def real(targets: Targets, folder: Path) -> Iterator[str]:
    """Yields the URL of a real Prometheus that scrapes every second."""
    scrape = {"job_name": "fti", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets()]}]}
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))
    with Ports() as ports:
        port = ports.reserve()
    arguments = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    process = subprocess.Popen(
        ["prometheus", *arguments, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _matches(labels: Mapping[str, str], selector: str) -> bool:
    return all(
        re.fullmatch(wanted if operator == "=~" else re.escape(wanted), labels.get(name, ""))
        for name, operator, wanted in _MATCHER.findall(selector)
    )
