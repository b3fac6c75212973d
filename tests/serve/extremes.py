"""Requests with a value that only some ways through a predictor survive, at any place: each must be refused."""

import json
import random
from collections.abc import Iterator
from typing import Any

from tests.serve.bad_requests import JSON, V1, V2, Wrong, right_binary, right_v1, right_v2

_MARK = "<here>"
_IGNORED = "sequence_id"  # whatever number it is, nobody reads it


def extreme_request(chance: random.Random) -> Wrong:
    """Any of them."""
    make = chance.choice([huge, nested])
    value = make(chance)
    path, message = chance.choice([_v1, _v1_by_keys, _v2, _v2_with_all])(chance)
    if "inputs" in message and chance.random() < 0.1:
        for tensor in message["inputs"]:  # one that does not suit the others is refused early
            tensor["shape"] = [_MARK]
    else:
        held, at = chance.choice([each for each in _places(message) if make is nested or each[1] != _IGNORED])
        held[at] = _MARK
    how = f"{make.__name__} {path.rpartition('/')[2]}"
    return Wrong(how, json.dumps(message).replace(f'"{_MARK}"', value).encode(), path)


def extreme_head(chance: random.Random) -> Wrong:
    """The same in the JSON before binary data."""
    body, headers = right_binary(chance.choice([1, 3]))
    length = int(headers["inference-header-content-length"])
    message = json.loads(body[:length])
    held, at = chance.choice(list(_places(message)))
    held[at] = _MARK
    make = chance.choice([huge, nested])
    head = json.dumps(message).replace(f'"{_MARK}"', make(chance)).encode()
    headers["inference-header-content-length"] = str(len(head))
    return Wrong(f"{make.__name__} head", head + body[length:], V2, headers=headers)


def huge(chance: random.Random) -> str:
    """A whole number that no float holds: beyond 2**1024, of up to more digits than Python reads."""
    digits = chance.choice([310, 311, 400, 1000, 4299, 4300, 4301, 5000])
    return f"{chance.choice(['', '-'])}{chance.randrange(1, 10)}{'0' * (digits - 1)}"


def nested(chance: random.Random) -> str:
    """Lists or objects in one another, about as deep as parsers and Python's stack go."""
    depth = chance.choice([900, 950, 990, 1000, 1010, 1022, 1023, 1024, 1025, 1500, 2000])
    begin, end = chance.choice([("[", "]"), ('{"a":', "}")])
    return begin * depth + chance.choice(["1", "null", '"x"', "[]"]) + end * depth


def many_tensors(count: int) -> Wrong:
    """So many of them that one of two of a name must not be looked for in all, each time."""
    names = [*(f"c{number}" for number in range(count)), f"c{count - 1}"]
    inputs = [{"name": name, "datatype": "FP32", "shape": [1], "data": [1]} for name in names]
    return Wrong("many", json.dumps({"inputs": inputs}).encode(), V2, headers={"content-type": JSON}, names=names[-1])


def _v1(chance: random.Random) -> tuple[str, Any]:
    return V1, right_v1(chance.choice([1, 3]))


def _v1_by_keys(chance: random.Random) -> tuple[str, Any]:
    return chance.choice([V1, "/v1/models/late:features"]), right_v1(chance.choice([1, 3]), keyed=True)


def _v2(chance: random.Random) -> tuple[str, Any]:
    return V2, right_v2(chance.choice([1, 3]))


def _v2_with_all(chance: random.Random) -> tuple[str, Any]:
    message = right_v2(chance.choice([1, 3])) | {"id": "7", "model_name": "late"}
    for tensor in message["inputs"]:
        tensor["parameters"] = {}
    message["parameters"] = {"binary_data_output": False, _IGNORED: 1}
    message["outputs"] = [{"name": "probability", "parameters": {"binary_data": False}}]
    return V2, message


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value: what holds it, and where in it."""
    if isinstance(value, (list, dict)):
        for at, each in enumerate(value) if isinstance(value, list) else list(value.items()):
            yield value, at
            yield from _places(each)
