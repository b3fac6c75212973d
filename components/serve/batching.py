"""Scoring together what was asked at the same time.

A graph takes little longer for a few rows than for one, so requests that wait at the same time are scored at once. The
batch is whatever came while the last one was scored; nobody waits for a batch to fill, unless told to. So a request
that comes alone is scored at the next turn of the event loop, and no request waits for longer than the batch that is
being scored when it comes, and those of the requests before it, plus the delay that was asked for. A model that takes
less time than the putting together of a batch has no batches.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, Self, TypeVar, cast

from fti.common.inputs import Inputs
from fti.serve.admission import DeadlineError

MAX_BATCH_ROWS = 256  # beyond it the time grows with the rows: there is nothing to be saved any more
_AT_ONCE = 0.00002  # seconds: what takes less is scored as it comes, for a batch takes about as much to put together
_IN_LOOP = 0.0005  # seconds: what takes longer is scored in a thread, so that the event loop goes on meanwhile


class Batch(Protocol):
    """What scoring gives for the rows of a batch."""

    def part(self, start: int, stop: int) -> Self:
        """What it gives for some of the rows."""


Scored = TypeVar("Scored", bound=Batch)


class Cost(NamedTuple):
    """What a batch takes: `fixed + rows * each` seconds."""

    fixed: float
    each: float

    def of(self, rows: int) -> float:
        """The seconds of a batch of so many rows."""
        return self.fixed + rows * self.each


def measured(score: Callable[[int], object]) -> Cost:
    """The cost of a model: the shortest of a few runs with one row and, where that is quick, with `MAX_BATCH_ROWS`.

    Args:
        score: Scores so many rows.
    """

    def seconds(rows: int) -> float:
        started = time.perf_counter()
        score(rows)
        return time.perf_counter() - started

    one = min(seconds(1) for _ in range(20))
    if one > _IN_LOOP:
        return Cost(one, 0.0)
    many = min(seconds(MAX_BATCH_ROWS) for _ in range(3))
    return Cost(one, max(0.0, (many - one) / MAX_BATCH_ROWS))


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Scored]):
    inputs: Inputs
    rows: int
    deadline: float
    scored: "asyncio.Future[Scored]"


class Batcher(Generic[Scored]):
    """Scores what is asked at the same time together.

    Args:
        score: Scores a batch; safe to call from several threads.
        cost: What a batch takes.
        delay: Seconds that the first request of a batch waits for others.
        count: Told the rows of each batch.
    """

    def __init__(
        self, score: Callable[[Inputs], Scored], cost: Cost, delay: float, count: Callable[[int], None]
    ) -> None:
        self._score, self._cost, self._delay, self._count = score, cost, delay, count
        self._waiting: deque[_Waiting[Scored]] = deque()
        self._busy, self._gathering = False, cast("asyncio.TimerHandle | None", None)
        # What is large is scored apart: it gains nothing, and the others would wait for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._thread_of_large = ThreadPoolExecutor(1, thread_name_prefix="score-large")

    def quick(self, rows: int) -> bool:
        """Whether so many rows are best scored as they come, now: that takes less time than to put a batch together."""
        return not (self._delay or self._busy) and rows <= MAX_BATCH_ROWS and self._cost.of(rows) < _AT_ONCE

    def score_now(self, inputs: Inputs, rows: int, deadline: float) -> Scored:
        """Scores some rows alone, as `score` does, in no turn of the event loop.

        Raises:
            DeadlineError: The deadline has passed. The rows are not scored.
        """
        if deadline <= time.monotonic():
            raise DeadlineError
        self._count(rows)
        return self._score(inputs)

    async def score(self, inputs: Inputs, rows: int, deadline: float) -> Scored:
        """Scores some rows, alone or with others.

        Args:
            inputs: The rows.
            rows: How many.
            deadline: By the event loop's clock.

        Raises:
            DeadlineError: The deadline passed before scoring began. The rows are not scored.
        """
        if self.quick(rows):
            return self.score_now(inputs, rows, deadline)
        loop = asyncio.get_running_loop()
        if rows > MAX_BATCH_ROWS:
            self._count(rows)
            return await loop.run_in_executor(self._thread_of_large, self._score, inputs)
        waiting = _Waiting(inputs, rows, deadline, loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            self._gather(loop)
        elif self._gathering and self._full():
            self._gathering.cancel()
            self._gathering = None
            loop.call_soon(self._next, loop)
        scored: Scored = await waiting.scored
        return scored

    def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._delay and not self._full():
            self._gathering = loop.call_later(self._delay, self._next, loop)
        else:
            loop.call_soon(self._next, loop)

    def _full(self) -> bool:
        return sum(each.rows for each in self._waiting) >= MAX_BATCH_ROWS

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._gathering = None
        batch = self._take(loop.time())
        if not batch:
            self._busy = False
            return
        rows = sum(each.rows for each in batch)
        self._count(rows)
        if self._cost.of(rows) > _IN_LOOP:
            running = loop.run_in_executor(self._thread, self._score_all, batch)
            running.add_done_callback(lambda done: self._answer(batch, done.result(), loop))
        else:
            self._answer(batch, self._score_all(batch), loop)

    def _take(self, now: float) -> "list[_Waiting[Scored]]":
        """The next batch, without those that nobody waits for any more."""
        batch: list[_Waiting[Scored]] = []
        rows = 0
        while self._waiting and rows + self._waiting[0].rows <= MAX_BATCH_ROWS:
            each = self._waiting.popleft()
            if each.scored.done():  # its task was cancelled
                continue
            if each.deadline <= now:
                each.scored.set_exception(DeadlineError())
                continue
            batch.append(each)
            rows += each.rows
        return batch

    def _score_all(self, batch: "list[_Waiting[Scored]]") -> "list[Scored | Exception]":
        """One result for each request of a batch."""
        if len(batch) == 1:
            return [self._tried(batch[0].inputs)]
        together = self._tried(Inputs.joined([each.inputs for each in batch]))
        if isinstance(together, Exception):  # whose fault it is shows when each is alone
            return [self._tried(each.inputs) for each in batch]
        parts: list[Scored | Exception] = []
        start = 0
        for each in batch:
            parts.append(together.part(start, start + each.rows))
            start += each.rows
        return parts

    def _tried(self, inputs: Inputs) -> "Scored | Exception":
        try:
            return self._score(inputs)
        except Exception as error:  # of whatever the runtime raises: it goes to the request it belongs to
            return error

    def _answer(
        self, batch: "list[_Waiting[Scored]]", results: "list[Scored | Exception]", loop: asyncio.AbstractEventLoop
    ) -> None:
        for each, result in zip(batch, results, strict=True):
            if each.scored.done():
                continue
            if isinstance(result, Exception):
                each.scored.set_exception(result)
            else:
                each.scored.set_result(result)
        if self._waiting:
            loop.call_soon(self._next, loop)  # these have waited already
        else:
            self._busy = False
