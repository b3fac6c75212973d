"""What a predictor takes on: so many requests at a time, of such a size, each until its deadline.

One event loop answers all, so whatever is taken on waits for what was taken on before. With the queue bounded, so is
that wait: a server asked for more than it can answer refuses some at once (429), which costs little, and answers the
others as fast as ever. Nagle's "On Packet Switches with Infinite Storage" (RFC 970) says why no queue may be endless.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from fti.serve.columns import BadRequestError
from fti.serve.protocol import MAX_BODY

_TICK = 0.01  # seconds

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """The bounds of a predictor.

    Attributes:
        max_body_bytes: Of one request.
        max_rows: Of one request.
        max_queue: Requests taken on at a time, over HTTP and gRPC together.
        deadline_ms: Within which a request is answered, unless its caller sets a shorter one.
        max_batch_delay_ms: How long a request may wait for others to be scored with it.
    """

    max_body_bytes: int = MAX_BODY
    max_rows: int = 10_000
    max_queue: int = 128
    deadline_ms: int = 5_000
    max_batch_delay_ms: float = 0.0


class OverloadedError(BadRequestError):
    """A request that came when the queue was full."""

    retry_after = 1  # seconds

    def __init__(self, max_queue: int) -> None:
        super().__init__(f"the server is busy with {max_queue} requests. Ask again in {self.retry_after} s", status=429)


class DeadlineError(BadRequestError):
    """A request that was not answered in time."""

    def __init__(self) -> None:
        super().__init__("the request could not be answered before its deadline", status=504)


class Admission:
    """Takes requests on, whatever protocol they come by: `with admission:` is a place in the queue.

    Args:
        limits: The bounds.

    Attributes:
        waiting: The places taken.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.waiting = limits, 0
        self._deadlines: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._watching: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Callable[[float], Awaitable[Answer]], seconds: float | None = None) -> Answer:
        """Does the work of one request until its deadline, if it may find a place. To be run by a task of its own.

        Args:
            work: Reads, decodes and answers the request; given its deadline, by the event loop's clock. It takes a
                place once it has all that it needs from the caller, so that slow callers take none.
            seconds: For how long the caller will wait; None where it does not say.

        Raises:
            OverloadedError: The queue is full (429).
            DeadlineError: The deadline has passed (504), by at most `_TICK`; the work was cancelled.
        """
        self._check()
        loop, task, own = asyncio.get_running_loop(), asyncio.current_task(), self.limits.deadline_ms / 1000
        assert task is not None  # noqa: S101  # this is a coroutine
        deadline = self._deadlines[task] = loop.time() + (own if seconds is None else min(own, seconds))
        if self._watching is not loop:
            self._watch(loop)
        try:
            return await work(deadline)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise DeadlineError from None
        finally:
            del self._deadlines[task]
            self._late.discard(task)

    def __enter__(self) -> None:
        self._check()
        self.waiting += 1

    def __exit__(self, *_error: object) -> None:
        self.waiting -= 1

    def _check(self) -> None:
        if self.waiting >= self.limits.max_queue:
            raise OverloadedError(self.limits.max_queue)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancels what is late. One timer for all: one for each would take a tenth of a request's CPU time."""
        now = loop.time()
        for task, deadline in self._deadlines.items():
            if deadline <= now and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watching = loop if self._deadlines else None
        if self._watching:
            loop.call_later(_TICK, self._watch, loop)
