"""Load over gRPC: from several threads, each with a channel of its own, or from one event loop, as `http_load`."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from tests.serve import tiny
from tests.serve.http_load import Load

_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
_DATATYPES = {"distance": "FP32", "month": "INT64", "weekend": "BOOL", "origin_delays__mean_delay": "FP32"}


def request(row: Mapping[str, Any] = tiny.ROW, **changes: Any) -> pb.ModelInferRequest:
    """One row for the model `late`."""
    message = pb.ModelInferRequest(**{"model_name": "late", **changes})
    for name, datatype in _DATATYPES.items():
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[1])
        getattr(tensor.contents, _CONTENTS[datatype]).append(row[name])
    carrier = message.inputs.add(name="carrier", datatype="BYTES", shape=[1])
    carrier.contents.bytes_contents.append(row["carrier"].encode())
    return message


def infer_many(
    address: str,
    requests: int,
    metadata: Callable[[int], tuple[tuple[str, str], ...]] = lambda _: (("x-fti-service", "late"),),
    threads: int = 4,
    at: dict[int, Callable[[], None]] | None = None,
    message: pb.ModelInferRequest | None = None,
) -> tuple[Counter[tuple[str, str]], dict[int, str]]:
    """Asks `late` many times; `at` maps a number of answers to what is done once that many have come.

    Returns:
        How often each (status, revision) came, and the revision by the request's number.
    """
    answers, by_number = Counter[tuple[str, str]](), dict[int, str]()
    lock, left, message = threading.Lock(), iter(range(requests)), message or request()

    def work() -> None:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
            for number in iter(lambda: next(left, None), None):
                try:
                    response, call = stub.ModelInfer.with_call(message, metadata=metadata(number), timeout=30)
                    answer = ("OK", dict(call.trailing_metadata())["x-fti-revision"])
                    assert response.model_version == answer[1]
                except grpc.RpcError as error:
                    answer = (f"{error.code()}: {error.details()}", "")
                with lock:
                    answers[answer] += 1
                    by_number[number] = answer[1]
                    act = (at or {}).get(answers.total())
                if act:
                    act()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return answers, by_number


_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_HTTP = {grpc.StatusCode.RESOURCE_EXHAUSTED: 429}


def closed(address: str, message: bytes, count: int, connections: int) -> Load:
    """Sends `count` calls from so many callers, each of which waits for its answers. Status 200, 429, or gRPC's own."""

    async def main() -> Load:
        load, left = Load(), iter(range(count))
        async with _Calls(address, message, load) as calls:

            async def work() -> None:
                for number in left:
                    await calls.call(number)

            started = perf_counter()
            await asyncio.gather(*(work() for _ in range(connections)))
            load.wall = perf_counter() - started
        return load

    return asyncio.run(main())


def opened(address: str, message: bytes, rate: float, seconds: float) -> Load:
    """Sends calls at random times, `rate` a second on average (Poisson), whether or not earlier ones are answered."""

    async def main() -> Load:
        load, chance, tasks = Load(), random.Random(0), list[asyncio.Task[None]]()
        async with _Calls(address, message, load) as calls:
            started = due = perf_counter()
            while due < started + seconds:
                if (wait := due - perf_counter()) > 0:
                    await asyncio.sleep(wait)
                tasks.append(asyncio.create_task(calls.call(len(tasks))))
                due += chance.expovariate(rate)
            await asyncio.gather(*tasks)
            load.wall = perf_counter() - started
        return load

    return asyncio.run(main())


class _Calls:
    """Calls over eight connections."""

    def __init__(self, address: str, message: bytes, load: Load) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(8)]
        self._calls = [channel.unary_unary(_METHOD) for channel in self._channels]
        self._message, self._load = message, load

    async def __aenter__(self) -> "_Calls":
        return self

    async def __aexit__(self, *_error: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def call(self, number: int) -> None:
        sent = perf_counter()
        try:
            await self._calls[number % 8](self._message, metadata=(("x-fti-service", "late"),), timeout=30)
            status = 200
        except grpc.aio.AioRpcError as error:
            status = _HTTP.get(error.code(), error.code().value[0])
            told = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
            assert status != 429 or told == "1000", error
        self._load.count(status, perf_counter() - sent)
