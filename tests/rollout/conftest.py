"""A stable model and canaries of every kind, behind a real gateway and under load."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.serve.conftest import one_service
from tests.serve.grpc_load import infer_many
from tests.serve.load import post_many

__all__ = ["one_service"]

V1 = "/v1/models/late:predict"


@contextmanager
def under_load(gateway: str, body: bytes, call: Any = None) -> Iterator[Counter[tuple[Any, str | None]]]:
    """Asks on four connections, over gRPC on sixteen, for as long as the block lasts, and counts the answers.

    Args:
        gateway: Where.
        body: Posted to V1.
        call: A request over gRPC, asked instead.
    """
    answers: Counter[tuple[Any, str | None]] = Counter()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            if call is None:
                answers.update(post_many(gateway, V1, body, 100).answers)
            else:
                answers.update(infer_many(gateway.removeprefix("http://"), 100, threads=16, message=call)[0])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()
