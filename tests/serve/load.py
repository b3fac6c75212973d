"""Load from several threads over kept-alive connections."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from time import perf_counter


@dataclass
class Load:
    """What came back: how often each (status, revision), and the seconds each took."""

    answers: Counter[tuple[int, str | None]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))]


def post_many(
    gateway: str,
    path: str,
    body: bytes,
    requests: int,
    threads: int = 4,
    at: dict[int, Callable[[], None]] | None = None,
) -> Load:
    """Posts one body many times; `at` maps a number of answers to what is done once that many have come."""
    load, lock, left = Load(), threading.Lock(), iter(range(requests))
    host = gateway.removeprefix("http://")

    def work() -> None:
        connection = HTTPConnection(host, timeout=30)
        for _ in iter(lambda: next(left, None), None):
            started = perf_counter()
            try:
                connection.request("POST", path, body, {"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
                answer = (response.status, response.headers.get("x-fti-revision"))
            except (OSError, HTTPException):
                connection.close()
                answer = (0, None)
            with lock:
                load.answers[answer] += 1
                load.seconds.append(perf_counter() - started)
                act = (at or {}).get(len(load.seconds))
            if act:
                act()
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return load
