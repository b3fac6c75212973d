"""Requests that are wrong, each in one known way, made from right ones; over HTTP."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.serve import tiny
from tests.serve.keyed import REQUEST

JSON = "application/json"
V1, V2 = "/v1/models/late:predict", "/v2/models/late/infer"
DATATYPES = {
    "distance": "FP32",
    "month": "INT64",
    "weekend": "BOOL",
    "carrier": "BYTES",
    "origin_delays__mean_delay": "FP64",
}
RAW = {"distance": b"\0 zD", "month": b"\7" + bytes(7), "weekend": b"\0", "carrier": b"\2\0\0\0UA"}
_JUNK = [None, True, -1, 0, 1e300, 1 << 70, "", "x", "\ud800", [], [[]], {}, {"a": 1}, [None], "NaN", 3.5]


@dataclass(frozen=True)
class Wrong:
    """A request that must be refused.

    Attributes:
        how: In which way it is wrong.
        body: Its body.
        path: Where it goes.
        method: How.
        headers: With which headers.
        names: What the refusal has to name; empty where there is nothing to name.
    """

    how: str
    body: bytes
    path: str = V1
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})
    names: str = ""


def right_v1(rows: int = 1, keyed: bool = False) -> dict[str, Any]:
    """A request that is right."""
    row = {**REQUEST, "origin": "JFK", "gate": 7} if keyed else dict(tiny.ROW)
    return {"instances": [dict(row) for _ in range(rows)]}


def right_v2(rows: int = 1) -> dict[str, Any]:
    """The same in V2."""
    inputs = [
        {"name": name, "datatype": kind, "shape": [rows], "data": [tiny.ROW[name]] * rows}
        for name, kind in DATATYPES.items()
    ]
    return {"inputs": inputs}


def right_binary(rows: int = 1) -> tuple[bytes, dict[str, str]]:
    """The same with binary tensors: body and headers."""
    message, blob = right_v2(rows), b""
    for tensor in message["inputs"]:
        if raw := RAW.get(tensor["name"]):
            del tensor["data"]
            tensor["parameters"] = {"binary_data_size": len(raw) * rows}
            blob += raw * rows
    head = json.dumps(message).encode()
    return head + blob, {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}


def wrong_request(chance: random.Random) -> Wrong:
    """Any of them."""
    return chance.choice(_MAKERS)(chance)


def _text(value: object) -> bytes:
    return json.dumps(value).encode()


def _column(chance: random.Random) -> Wrong:
    """A value of a wrong type or out of range."""
    bad: dict[str, list[Any]] = {
        "distance": ["1", True, [1], {}, 1e300, -1e39, 1 << 200],
        "month": ["7", 7.5, True, [7], 1 << 63, -(1 << 64)],
        "weekend": ["false", 0, 1, [True], 0.5],
        "carrier": [1, True, ["UA"], {"a": 1}, 1.5],
        "origin_delays__mean_delay": ["x", False, [[1]], 1e39],
    }
    name, rows = chance.choice(list(bad)), chance.choice([1, 2, 7])
    value, row = chance.choice(bad[name]), chance.randrange(rows)
    if chance.random() < 0.5:
        message = right_v1(rows)
        message["instances"][row][name] = value
        return Wrong("value", _text(message), names=name)
    message = right_v2(rows)
    tensor = next(each for each in message["inputs"] if each["name"] == name)
    tensor["data"][row] = value
    return Wrong("value", _text(message), V2, names=name)


def _columns(chance: random.Random) -> Wrong:
    """A column too few or too many."""
    rows, name = chance.choice([1, 3]), chance.choice(list(tiny.ROW))
    keyed = chance.random() < 0.4
    message = right_v1(rows, keyed)
    row = message["instances"][chance.randrange(rows)]
    if chance.random() < 0.5:
        name = chance.choice(list(row))
        del row[name]
        # A keyed row without a key, or a whole one without a feature, names what is missing.
        return Wrong("missing column", _text(message), names="missing" if rows == 1 else "instances[")
    unknown = chance.choice(["x", "Distance", "distance ", "origin_delays:mean_delay", "\u0000", "_", "é" * 99])
    row[unknown] = 1
    return Wrong("unknown column", _text(message), names="unknown")


def _shape(chance: random.Random) -> Wrong:
    """A shape that does not fit."""
    message, rows = right_v2(3), 3
    tensor = chance.choice(message["inputs"])
    shapes: list[Any] = [[], [0], [-1], [2], [4], [1, 3], [3, 2], [3, 1, 1], [1 << 62], "3", [3.0], [True], None, [[3]]]
    tensor["shape"] = chance.choice(shapes)
    return Wrong(f"shape {rows}", _text(message), V2, names="inputs" if len(message["inputs"]) < 1 else "")


def _datatype(chance: random.Random) -> Wrong:
    """A datatype that is unknown or does not suit."""
    message = right_v2()
    tensor = chance.choice(message["inputs"])
    suits = {"distance": {"FP32", "FP64"}, "origin_delays__mean_delay": {"FP32", "FP64"}}
    every = {"BOOL", "INT8", "INT64", "FP16", "FP32", "FP64", "BYTES", "UINT8", "fp32", "", "X" * 99}
    fitting = suits.get(tensor["name"], {DATATYPES[tensor["name"]], "FP32", "FP64", "INT8"})
    if tensor["name"] == "carrier":
        fitting = {"BYTES"}
    tensor["datatype"] = chance.choice([*(every - fitting), 7, None, []])
    return Wrong("datatype", _text(message), V2)


def _tensor(chance: random.Random) -> Wrong:
    """A tensor that lacks a part, comes twice, or has a part that nobody knows."""
    message = right_v2()
    tensor = chance.choice(message["inputs"])
    how = chance.choice(["without", "twice", "unknown", "no tensor", "nested"])
    if how == "without":
        del tensor[chance.choice(["name", "datatype", "shape", "data"])]
    elif how == "twice":
        message["inputs"].append(dict(tensor))
    elif how == "unknown":
        tensor["dtype"] = "FP32"
    elif how == "no tensor":
        message["inputs"][chance.randrange(5)] = chance.choice([None, 1, "x", []])
    else:
        tensor["data"] = [[[tensor["data"][0]]]]
    return Wrong(f"tensor {how}", _text(message), V2)


def _message(chance: random.Random) -> Wrong:
    """The whole of it is of another type, or has a field that nobody knows."""
    path, right = chance.choice([(V1, right_v1()), (V2, right_v2())])
    key = "instances" if path == V1 else "inputs"
    how = chance.choice(["other", "key", "unknown", "empty"])
    if how == "other":
        return Wrong("message", _text(chance.choice([None, 1, "x", [], [right], True, {}])), path)
    if how == "key":
        right[key] = chance.choice([value for value in _JUNK if value != "\ud800"])
        return Wrong("message", _text(right), path, names=key)
    if how == "unknown":
        right[chance.choice(["signature", "instance", "Inputs", ""])] = right[key]
        return Wrong("message", _text(right), path, names="unknown field")
    return Wrong("message", b"", path)


def _no_json(chance: random.Random) -> Wrong:
    """No JSON, or nothing but its beginning."""
    path, right = chance.choice([(V1, _text(right_v1(2))), (V2, _text(right_v2(2)))])
    cut = right[: chance.randrange(1, len(right))]
    bodies = [
        cut,
        right + b"}",
        right.replace(b'"', b"'"),
        right.replace(b"1000.5", b"NaN"),
        right.replace(b"1000.5", b"Infinity"),
        right.replace(b"1000.5", b"1e999"),
        right.replace(b"UA", b"\xff\xfe"),
        right.replace(b"UA", b"\\ud800"),
        b"\xef\xbb\xbf" + right,
        b"[" * 100_000,
        b'{"instances":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"instances":' + b'[{"a":' * 50_000,
        bytes(chance.randrange(256) for _ in range(chance.randrange(1, 200))),
    ]
    return Wrong("no JSON", chance.choice(bodies), path)


def _binary(chance: random.Random) -> Wrong:
    """Binary data that do not fit."""
    body, headers = right_binary(chance.choice([1, 4]))
    length = int(headers["inference-header-content-length"])
    message = json.loads(body[:length])
    how = chance.choice(["short", "long", "length", "size", "text", "bool", "type"])
    if how == "short":
        body = body[: -chance.randrange(1, 8)]
    elif how == "long":
        body += bytes(chance.randrange(1, 9))
    elif how == "length":
        lengths = ["0", "-1", "x", "1", str(length - 1), str(length + 1), str(len(body) + 1), "9" * 30, ""]
        headers["inference-header-content-length"] = chance.choice(lengths)
    elif how == "size":
        tensor = chance.choice([each for each in message["inputs"] if "parameters" in each])
        size = tensor["parameters"]["binary_data_size"]
        tensor["parameters"]["binary_data_size"] = chance.choice(
            [size + 1, size - 1, -1, 1 << 60, "4", None, 4.0, True]
        )
        return _headed("binary size", message, body[length:], headers)
    elif how == "text":
        body = body[:-4] + b"\xff\xff\xff\xff" if chance.random() < 0.5 else body[:-2] + b"\xff\xfe"
    elif how == "bool":
        return _headed("binary bool", message, body[length:].replace(b"\0\2\0\0\0", b"\2\2\0\0\0", 1), headers)
    else:
        headers["content-type"] = chance.choice(["text/plain", JSON, "application/x-protobuf"])
    return Wrong(f"binary {how}", body, V2, headers=headers)


def _headed(how: str, message: object, blob: bytes, headers: dict[str, str]) -> Wrong:
    head = _text(message)
    return Wrong(how, head + blob, V2, headers={**headers, "inference-header-content-length": str(len(head))})


def _outputs(chance: random.Random) -> Wrong:
    """Outputs that the model has not."""
    outputs = [[{"name": "x"}], [{"name": "prediction"}] * 2, [{}], "prediction", [1], [{"name": 1}], {"name": "x"}]
    return Wrong("outputs", _text(right_v2() | {"outputs": chance.choice(outputs)}), V2, names="outputs")


def _head(chance: random.Random) -> Wrong:
    """A path, method, type or encoding that nobody takes."""
    body = _text(right_v1())
    types = ["text/plain", "application/json; charset=utf-16", "", "x" * 5000]
    encoding = {"content-type": JSON, "content-encoding": chance.choice(["gzip", "br", "x"])}
    paths = [
        "/v1/models/later:predict",
        "/v1/models/late:guess",
        "/v2/models/late/infers",
        "/v1/models/%2e/late:predict",
    ]
    wrongs = [
        Wrong("path", body, chance.choice(paths)),
        Wrong("path", body, "/v1/models/late/versions/1:predict"),
        Wrong("path", body, f"/{'x' * chance.randrange(1, 2000)}"),
        Wrong("method", body, method=chance.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "GET"])),
        Wrong("content-type", body, headers={"content-type": chance.choice(types)}),
        Wrong("content-encoding", body, headers=encoding),
        Wrong("load", b"{}", "/v2/repository/models/late/unload"),
    ]
    return chance.choice(wrongs)


def _keys(chance: random.Random) -> Wrong:
    """Entity keys of a wrong type."""
    message = right_v1(2, keyed=True)
    name = chance.choice(["origin", "gate"])
    bad: dict[str, list[Any]] = {"origin": [None, 1, True, ["JFK"], {}], "gate": [None, "7", 7.5, True, 1 << 64, [7]]}
    message["instances"][chance.randrange(2)][name] = chance.choice(bad[name])
    path = chance.choice([V1, "/v1/models/late:features"])
    return Wrong("key", _text(message), path, names=name)


def _twice(chance: random.Random) -> Wrong:
    """Rows of different forms in one request."""
    instances = right_v1()["instances"] + right_v1(keyed=True)["instances"]
    chance.shuffle(instances)
    return Wrong("mixed rows", _text({"instances": instances}), names="instances[1]")


_MAKERS: list[Callable[[random.Random], Wrong]] = [
    _column,
    _columns,
    _shape,
    _datatype,
    _tensor,
    _message,
    _no_json,
    _binary,
    _outputs,
    _head,
    _keys,
    _twice,
]
