"""Load over gRPC from several threads, each with a channel of its own."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

from tests.serve import tiny

_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
_DATATYPES = {"distance": "FP32", "month": "INT64", "weekend": "BOOL", "origin_delays__mean_delay": "FP32"}


def request(**changes: Any) -> pb.ModelInferRequest:
    """One row for the model `late`."""
    message = pb.ModelInferRequest(**{"model_name": "late", **changes})
    for name, datatype in _DATATYPES.items():
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[1])
        getattr(tensor.contents, _CONTENTS[datatype]).append(tiny.ROW[name])
    carrier = message.inputs.add(name="carrier", datatype="BYTES", shape=[1])
    carrier.contents.bytes_contents.append(tiny.ROW["carrier"].encode())
    return message


def infer_many(
    address: str,
    requests: int,
    metadata: Callable[[int], tuple[tuple[str, str], ...]] = lambda _: (("x-fti-service", "late"),),
    threads: int = 4,
    at: dict[int, Callable[[], None]] | None = None,
) -> tuple[Counter[tuple[str, str]], dict[int, str]]:
    """Asks `late` many times; `at` maps a number of answers to what is done once that many have come.

    Returns:
        How often each (status, revision) came, and the revision by the request's number.
    """
    answers, by_number = Counter[tuple[str, str]](), dict[int, str]()
    lock, left, message = threading.Lock(), iter(range(requests)), request()

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
