"""A stable model and canaries of every kind, behind a real gateway and under load."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.serve.conftest import one_service
from tests.serve.load import post_many

__all__ = ["one_service"]

V1 = "/v1/models/late:predict"


@contextmanager
def under_load(gateway: str, body: bytes) -> Iterator[Counter[tuple[int, str | None]]]:
    """Asks on four connections for as long as the block lasts, and counts the answers."""
    answers: Counter[tuple[int, str | None]] = Counter()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            answers.update(post_many(gateway, V1, body, 100).answers)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()
