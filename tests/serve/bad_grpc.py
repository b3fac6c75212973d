"""Messages over gRPC that are wrong, each in one known way, made from right ones; and right ones."""

import math
import random
import struct
from typing import Any

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests.serve.bad_requests import RAW, right_v2

_FIELDS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents", "FP64": "fp64_contents"}
_FLOATS = {"FP32": "<f", "FP64": "<d"}
_DELAY = "origin_delays__mean_delay"


def right_message(chance: random.Random) -> bytes:
    """A message that is right: with its tensors in any order, their values typed or raw."""
    request = _request()
    inputs = [*request.inputs]
    chance.shuffle(inputs)
    del request.inputs[:]
    request.inputs.extend(inputs)
    if chance.random() < 0.5:
        _make_raw(request)
    return bytes(request.SerializeToString())


def wrong_message(chance: random.Random) -> tuple[bytes, str]:
    """A message that must be refused, and what the refusal has to name; empty where there is nothing to name."""
    kind = chance.randrange(4)
    if kind == 0:
        return _no_message(chance), ""
    request = _request()
    return _with_infinity(request, chance) if kind == 1 else _changed(request, chance)


def missing_number(chance: random.Random) -> bytes:
    """A message that is right: one of its numbers is NaN, which says that it is missing."""
    request = _request()
    _put(request, chance, math.nan)
    return bytes(request.SerializeToString())


def _request() -> Any:
    request = pb.ModelInferRequest(model_name="late")
    for tensor in right_v2()["inputs"]:
        added = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=[1])
        values = [text.encode() for text in tensor["data"]] if tensor["datatype"] == "BYTES" else tensor["data"]
        getattr(added.contents, _FIELDS.get(tensor["datatype"], "bytes_contents")).extend(values)
    return request


def _make_raw(request: Any) -> None:
    raw = {**RAW, _DELAY: struct.pack("<d", 12.0)}
    for tensor in request.inputs:
        tensor.ClearField("contents")
        request.raw_input_contents.append(raw[tensor.name])


def _put(request: Any, chance: random.Random, value: float) -> str:
    """Puts a float in the place of any number."""
    tensor = chance.choice([each for each in request.inputs if each.datatype != "BYTES"])
    tensor.datatype = chance.choice([*_FLOATS])
    tensor.ClearField("contents")
    getattr(tensor.contents, _FIELDS[tensor.datatype]).append(value)
    if chance.random() < 0.5:
        _make_raw(request)
        place = [each.name for each in request.inputs].index(tensor.name)
        request.raw_input_contents[place] = struct.pack(_FLOATS[tensor.datatype], value)
    return str(tensor.name)


def _with_infinity(request: Any, chance: random.Random) -> tuple[bytes, str]:
    name = _put(request, chance, chance.choice([math.inf, -math.inf]))
    return request.SerializeToString(), name


def _no_message(chance: random.Random) -> bytes:
    """Bytes that are no message, or nothing but its beginning."""
    right = _request().SerializeToString()
    noise = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 200)))
    depth = chance.choice([90, 110, 2000])
    deep = b"\x7b" * depth + b"\x7c" * depth  # groups in groups, of a field that nobody knows
    choices = [b"\xff\xff\xff\xff", noise, right[: chance.randrange(len(right))], right + b"\xff", deep]
    return bytes(chance.choice(choices))


def _changed(request: Any, chance: random.Random) -> tuple[bytes, str]:
    tensor = chance.choice(request.inputs)
    name, how = tensor.name, chance.randrange(10)
    if how == 0:
        request.model_name = chance.choice(["", "later", "x" * 999])
        return request.SerializeToString(), ""
    if how == 1:
        tensor.name = chance.choice(["x", "", "é"])
        return request.SerializeToString(), "unknown"
    if how == 2:
        del request.inputs[:]
        return request.SerializeToString(), "inputs"
    if how == 3:
        tensor.shape[:] = chance.choice([[0], [-1], [2], [1, 2], [1 << 62]])
    elif how == 4:
        tensor.datatype = chance.choice(["FP16", "", "X"])
    elif how == 5:
        tensor.ClearField("contents")
    elif how == 6:
        request.inputs.add().CopyFrom(tensor)
    elif how == 7:
        request.raw_input_contents.append(b"x")
        return request.SerializeToString(), ""
    elif how == 8:
        request.outputs.add(name="nothing")
        return request.SerializeToString(), "outputs"
    else:
        tensor.contents.uint_contents.append(1)
    return request.SerializeToString(), "" if how == 3 else name
