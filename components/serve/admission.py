"""What a predictor takes on: so many requests at a time, of such a size, each until its deadline.

One event loop answers all, so whatever is taken on waits for what was taken on before. With the queue bounded, so is
that wait: a server asked for more than it can answer refuses some at once (429), which costs little, and answers the
others as fast as ever. Nagle's "On Packet Switches with Infinite Storage" (RFC 970) says why no queue may be endless.
"""

import asyncio
import time
from dataclasses import dataclass

from fti.serve.columns import BadRequestError
from fti.serve.protocol import MAX_BODY

_TICK = 0.01  # seconds


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


def most_calls(limits: Limits) -> int:
    """How many calls over gRPC may wait for a predictor: more would keep it busy with refusing.

    Twice the places of its queue, for calls count as live for a moment after they were answered.
    """
    return 2 * limits.max_queue


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
        self._waits: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._watching: asyncio.AbstractEventLoop | None = None

    def deadline(self, seconds: float | None = None) -> float:
        """Until when a request that comes now is to be answered, by the event loop's clock.

        Args:
            seconds: For how long the caller will wait; None where it does not say.

        Raises:
            OverloadedError: The queue is full (429).
        """
        self._check()
        own = self.limits.deadline_ms / 1000
        # The event loop's clock. To ask for the loop itself would cost a call of the system (getpid).
        return time.monotonic() + (own if seconds is None else min(own, seconds))

    def until(self, deadline: float) -> "_Wait":
        """Whatever a request waits for, it waits for in `async with admission.until(deadline):`.

        A request takes no place while it waits for its caller, so that slow callers take none. One that is answered at
        once never waits, and so costs nothing here.

        Raises:
            DeadlineError: The deadline has passed (504), by at most `_TICK`; the wait was cancelled.
        """
        return _Wait(self, deadline)

    def __enter__(self) -> None:
        self._check()
        self.waiting += 1

    def __exit__(self, *_error: object) -> None:
        self.waiting -= 1

    def _check(self) -> None:
        if self.waiting >= self.limits.max_queue:
            raise OverloadedError(self.limits.max_queue)

    def _begin(self, task: "asyncio.Task[object]", deadline: float) -> None:
        self._waits[task] = deadline
        loop = task.get_loop()
        if self._watching is not loop:
            self._watch(loop)

    def _end(self, task: "asyncio.Task[object]") -> bool:
        """Ends a wait; whether it was cancelled for being late."""
        del self._waits[task]
        late = task in self._late
        self._late.discard(task)
        return late

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancels what is late. One timer for all: one for each would take a tenth of a request's CPU time."""
        now = loop.time()
        for task, deadline in self._waits.items():
            if deadline <= now and task not in self._late:
                self._late.add(task)
                task.cancel()
        self._watching = loop if self._waits else None
        if self._watching:
            loop.call_later(_TICK, self._watch, loop)


class _Wait:
    """A wait that ends at a deadline."""

    __slots__ = ("_admission", "_deadline", "_task")

    def __init__(self, admission: Admission, deadline: float) -> None:
        self._admission, self._deadline = admission, deadline
        self._task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> None:
        if asyncio.current_task() is None:
            await asyncio.sleep(0)  # begun without a task, as `at_once.py` does: it is given one here
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101
        self._admission._begin(self._task, self._deadline)

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        task = self._task
        assert task is not None  # noqa: S101
        if self._admission._end(task) and kind is asyncio.CancelledError:
            task.uncancel()
            raise DeadlineError from None
