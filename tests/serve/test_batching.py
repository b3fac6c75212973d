"""Requests scored together: the same answers as apart, nobody kept waiting, nobody harmed by another's row."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fti.common.inputs import Inputs, Layout
from fti.common.model_package import ModelPackage, load_package
from fti.serve.admission import DeadlineError
from fti.serve.batching import MAX_BATCH_ROWS, Batcher, Cost
from fti.serve.columns import BadRequestError
from fti.serve.model import Answer, PackagedModel, Scored
from fti.serve.protocol import Request, decode_v1
from tests.serve import tiny

# Scored as it comes, together in the event loop, or together in a thread.
TINY, QUICK, SLOW = Cost(0.0, 0.0), Cost(0.0001, 0.0), Cost(1.0, 0.0)
NEVER = float("inf")


class Model:
    """Doubles its one input; waits for `go` where it has one, and refuses batches that hold 13."""

    def __init__(self, tmp_path: Path) -> None:
        self.layout = Layout(tiny.write_other(tmp_path / "other", "regression").signature)
        self.batches: list[list[float]] = []
        self.began, self.go = threading.Event(), threading.Event()
        self.go.set()

    def score(self, inputs: Inputs) -> Scored:
        values = inputs["x"]
        self.batches.append(values.tolist())
        self.began.set()
        assert self.go.wait(30)
        if 13 in values:
            raise ValueError("thirteen")
        return Scored(2 * values, values, True)

    def batcher(self, cost: Cost = QUICK, delay: float = 0.0) -> Batcher[Scored]:
        return Batcher(self.score, cost, delay, lambda rows: None)

    def inputs(self, *values: float) -> Inputs:
        return Inputs(self.layout, np.array(values, np.float32).reshape(-1, 1))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path)


def test_what_is_asked_at_the_same_time_is_scored_at_once(model: Model) -> None:
    async def main() -> list[Scored]:
        batcher = model.batcher()
        asked = [(1.0,), (2.0, 3.0), (4.0,)]
        return await asyncio.gather(*(batcher.score(model.inputs(*each), len(each), NEVER) for each in asked))

    assert [each.scores.tolist() for each in asyncio.run(main())] == [[2], [4, 6], [8]]
    assert model.batches == [[1, 2, 3, 4]]


def test_what_takes_less_than_a_batch_to_put_together_is_scored_as_it_comes(model: Model) -> None:
    async def main() -> None:
        loop, batcher = asyncio.get_running_loop(), model.batcher(TINY)
        await asyncio.gather(*(batcher.score(model.inputs(value), 1, NEVER) for value in (1, 2)))
        with pytest.raises(DeadlineError):
            await batcher.score(model.inputs(3), 1, loop.time())

    asyncio.run(main())
    assert model.batches == [[1], [2]]


@pytest.mark.parametrize("cost", [QUICK, SLOW])
def test_the_batch_is_whatever_came_while_the_last_one_ran(model: Model, cost: Cost) -> None:
    """So a request that comes alone waits for nothing, and none waits for more than what came before it."""

    async def main() -> None:
        loop, batcher = asyncio.get_running_loop(), model.batcher(cost)
        await batcher.score(model.inputs(0), 1, NEVER)
        assert model.batches.pop() == [0], "alone, at once: nobody else has to come"
        if cost is SLOW:
            model.go.clear()
            model.began.clear()
        first = loop.create_task(batcher.score(model.inputs(1), 1, NEVER))
        if cost is SLOW:
            await loop.run_in_executor(None, model.began.wait, 30)
        else:
            await first
        others = [loop.create_task(batcher.score(model.inputs(n), 1, NEVER)) for n in (2, 3, 4)]
        await asyncio.sleep(0)
        assert model.batches == [[1]]
        model.go.set()
        await asyncio.gather(first, *others)
        assert model.batches == [[1], [2, 3, 4]]

    asyncio.run(main())


def test_a_lone_request_waits_for_the_delay_that_was_asked_for_and_no_longer(model: Model) -> None:
    async def main() -> float:
        batcher = model.batcher(delay=0.05)
        started = time.perf_counter()
        late = asyncio.get_running_loop().call_later(0.01, lambda: tasks.append(asyncio.create_task(ask(2))))
        tasks = []

        def ask(value: float) -> Any:
            return batcher.score(model.inputs(value), 1, NEVER)

        await ask(1)
        waited = time.perf_counter() - started
        assert late.cancelled() is False
        await tasks[0]
        return waited

    assert 0.045 < asyncio.run(main()) < 1
    assert model.batches == [[1, 2]]


def test_a_full_batch_does_not_wait_for_the_delay(model: Model) -> None:
    async def main() -> None:
        batcher = model.batcher(delay=30)
        await asyncio.wait_for(
            batcher.score(model.inputs(*range(100, 100 + MAX_BATCH_ROWS)), MAX_BATCH_ROWS, NEVER), 10
        )

    asyncio.run(main())


def test_a_request_fills_the_delayed_batch_and_it_goes_at_once(model: Model) -> None:
    async def main() -> None:
        batcher, half = model.batcher(delay=30), MAX_BATCH_ROWS // 2
        asked = (batcher.score(model.inputs(*range(100, 100 + half)), half, NEVER) for _ in range(4))
        await asyncio.wait_for(asyncio.gather(*asked), 10)

    asyncio.run(main())
    assert [len(batch) for batch in model.batches] == [MAX_BATCH_ROWS] * 2


def test_a_batch_has_a_largest_size_and_what_is_larger_goes_alone(model: Model) -> None:
    async def main() -> None:
        batcher, many = model.batcher(), MAX_BATCH_ROWS - 1
        rows = [many, 1, 2, MAX_BATCH_ROWS + 1]
        await asyncio.gather(*(batcher.score(model.inputs(*range(100, 100 + n)), n, NEVER) for n in rows))

    asyncio.run(main())
    assert sorted(map(len, model.batches)) == [2, MAX_BATCH_ROWS, MAX_BATCH_ROWS + 1]


@pytest.mark.parametrize("cost", [QUICK, SLOW])
def test_whom_a_batch_fails_for_is_found_out(model: Model, cost: Cost) -> None:
    async def main() -> list[Any]:
        batcher = model.batcher(cost)
        asked = (batcher.score(model.inputs(value), 1, NEVER) for value in (1, 13, 2))
        return await asyncio.gather(*asked, return_exceptions=True)

    first, refused, last = asyncio.run(main())
    assert (first.scores.tolist(), last.scores.tolist()) == ([2], [4])
    assert isinstance(refused, ValueError)


def test_what_is_past_its_deadline_or_given_up_is_not_scored(model: Model) -> None:
    async def main() -> list[Any]:
        loop, batcher = asyncio.get_running_loop(), model.batcher(SLOW)
        model.go.clear()
        running = loop.create_task(batcher.score(model.inputs(1), 1, NEVER))
        await loop.run_in_executor(None, model.began.wait, 30)
        late = loop.create_task(batcher.score(model.inputs(2), 1, loop.time()))
        given_up = loop.create_task(batcher.score(model.inputs(3), 1, NEVER))
        kept = loop.create_task(batcher.score(model.inputs(4), 1, NEVER))
        await asyncio.sleep(0)
        given_up.cancel()
        model.go.set()
        return await asyncio.gather(running, late, given_up, kept, return_exceptions=True)

    running, late, given_up, kept = asyncio.run(main())
    assert (running.scores.tolist(), kept.scores.tolist()) == ([2], [8])
    assert isinstance(late, DeadlineError) and isinstance(given_up, asyncio.CancelledError)
    assert model.batches == [[1], [4]]


# The whole model, asked by many at once.


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return tiny.write_binary(tmp_path_factory.mktemp("batching") / "package")


@pytest.fixture(scope="module")
def ask(package: ModelPackage) -> "Callable[[list[dict[str, Any]]], list[Any]]":
    """Asks a model for several requests at once; one answer, or error, each."""
    model = PackagedModel("late", "r1", load_package(package.path), None)

    async def main(bodies: list[dict[str, Any]]) -> list[Any]:
        asked = [request(each, model) for each in bodies]
        return await asyncio.gather(*map(model.answer, asked), return_exceptions=True)

    return lambda bodies: asyncio.run(main(bodies))


def request(body: dict[str, Any], model: PackagedModel) -> Request:
    import orjson

    return decode_v1(orjson.dumps(body), model.schema)


rows = st.fixed_dictionaries(
    {
        "distance": st.none() | st.floats(-5000, 5000, width=32),
        "month": st.none() | st.integers(1, 12),
        "weekend": st.none() | st.booleans(),
        "carrier": st.none() | st.sampled_from(["UA", "B6", "other"]),
        "origin_delays__mean_delay": st.none() | st.floats(-60, 600, width=32),
    }
)


@given(st.lists(st.lists(rows, min_size=1, max_size=4), min_size=2, max_size=6))
@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_together_or_alone_the_answers_are_equal(ask: Any, requests: list[list[dict[str, Any]]]) -> None:
    bodies = [{"instances": each} for each in requests]
    together, alone = ask(bodies), [ask([body])[0] for body in bodies]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)
        assert one.labels.tolist() == other.labels.tolist() or (abs(one.scores[:, 1] - 0.5) < 1e-6).any()
        for name in one.completed.columns:
            np.testing.assert_array_equal(one.completed.columns[name], other.completed.columns[name])


def test_a_row_without_a_finite_answer_fails_its_own_request_only(tmp_path: Path) -> None:
    model = PackagedModel("other", "r1", tiny.write_other(tmp_path / "package", "regression"), None)

    async def main() -> list[Any]:
        bodies = ([1.0], [2.0, 3e38], [4.0])
        asked = [request({"instances": [{"x": x} for x in values]}, model) for values in bodies]
        return await asyncio.gather(*map(model.answer, asked), return_exceptions=True)

    first, refused, last = asyncio.run(main())
    assert isinstance(first, Answer) and isinstance(last, Answer)
    assert (first.scores.tolist(), last.scores.tolist()) == ([2], [8])
    assert isinstance(refused, BadRequestError) and str(refused) == "row 1: its values give no finite answer"


def test_many_health_checks_score_once_and_not_in_the_event_loop(tmp_path: Path) -> None:
    model = PackagedModel("late", "r", tiny.write_binary(tmp_path / "package"), None)
    threads: list[int] = []
    score = model.scorer.score

    def slow(columns: Any) -> Any:
        threads.append(threading.get_ident())
        return score(columns)

    model.scorer.score = slow  # type: ignore[method-assign]

    async def checks() -> list[bool]:
        return await asyncio.gather(*(model.healthy() for _ in range(8)))

    assert asyncio.run(checks()) == [True] * 8
    assert len(threads) == 1 and threads[0] != threading.get_ident()
    model.unload()
    assert not asyncio.run(model.healthy())
