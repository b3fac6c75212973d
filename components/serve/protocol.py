"""KServe's V1 and V2 inference protocols: strict decoding of requests.

What is malformed, mis-shaped, mis-typed, unknown or missing raises `BadRequestError`; nothing is guessed or coerced.
See the Open Inference Protocol, with its binary tensor data extension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from fti.common.inputs import Inputs
from fti.serve.columns import DATATYPES, BadRequestError, Schema, fit, from_bytes, from_json

if TYPE_CHECKING:
    import numpy as np

MAX_BODY = 16 * 1024 * 1024  # bytes
REVISION_HEADER = "x-fti-revision"

# What clients made for Triton may send with any request: it orders and bounds the work of servers that keep state or a
# queue of priorities, and changes no answer of this one.
HARMLESS = frozenset({"sequence_id", "sequence_start", "sequence_end", "priority", "timeout"})

_V1_FIELDS = {"instances"}
_V2_FIELDS = {"id", "model_name", "inputs", "outputs", "parameters"}
_PLAIN = ("name", "datatype", "shape", "data")
_JSON, _BINARY = itemgetter(*_PLAIN), itemgetter(*_PLAIN[:3], "parameters")
_SIZE = itemgetter("binary_data_size")
_INPUT_FIELDS = {"name", "shape", "datatype", "data", "parameters"}


@dataclass(slots=True)
class Request:
    """A request, decoded.

    Attributes:
        columns: [N] each: float32 with NaN where missing, object for strings and entity keys.
        rows: N, at least 1.
        id: The caller's own name for it; comes back in the answer.
        outputs: The outputs asked for, and whether as binary data; empty means all.
        binary: Whether outputs that say nothing else come as binary data.
    """

    columns: "Mapping[str, np.ndarray]"
    rows: int
    id: str = ""
    outputs: dict[str, bool] = field(default_factory=dict)
    binary: bool = False


class Tensor(NamedTuple):
    """One input of a V2 request, its values not yet converted.

    Attributes:
        name: The column.
        datatype: The V2 datatype.
        shape: [N] or [N, 1].
        values: JSON values, or raw bytes.
    """

    name: str
    datatype: str
    shape: list[int]
    values: list[Any] | bytes


def decode_v1(body: bytes, schema: Schema) -> Request:
    """Decodes `{"instances": [{column: value, ...}, ...]}`.

    Raises:
        BadRequestError: The body is anything else.
    """
    message = _object(body)
    _only(message, _V1_FIELDS, "the request")
    instances = message.get("instances")
    if not isinstance(instances, list) or not instances:
        raise BadRequestError('instances: missing or empty. Allowed: {"instances": [{"column": value, ...}, ...]}')
    schema.check_rows(len(instances))
    if (inputs := schema.arranger.rows(instances)) is not None:
        return Request(inputs, len(instances))
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise BadRequestError(f"instances[{row}]: a {_kind(instance)}. Allowed: an object of columns")
    form = schema.form(frozenset(instances[0]), "instances[0]")
    for row, instance in enumerate(instances):
        if instance.keys() != form.keys():
            schema.form(frozenset(instance), f"instances[{row}]")
            raise BadRequestError(f"instances[{row}]: other columns than instances[0]. Allowed: the same in every row")
    columns = {}
    for name, dtype in form.items():
        values = [instance[name] for instance in instances]
        columns[name] = fit(name, dtype, DATATYPES[dtype], from_json(name, DATATYPES[dtype], values))
    return Request(columns, len(instances))


def decode_v2(
    body: bytes, schema: Schema, outputs: "frozenset[str]", json_length: int | None = None, model: str = ""
) -> Request:
    """Decodes an inference request of the V2 protocol, in JSON or with binary tensor data.

    Args:
        body: The body.
        schema: What the model takes.
        outputs: The names of the outputs that it gives.
        json_length: The value of `Inference-Header-Content-Length`: where binary data begin.
        model: The model's name, which the body may repeat, as KServe's client does.

    Raises:
        BadRequestError: The request is malformed or does not suit the model.
    """
    if json_length is not None and not 0 < json_length <= len(body):
        raise BadRequestError(f"Inference-Header-Content-Length: {json_length}. Allowed: 1 to {len(body)}")
    message = _object(body[:json_length])
    _only(message, _V2_FIELDS, "the request")
    identity, parameters = message.get("id", ""), _without_harmless(message.get("parameters", {}))
    if message.get("model_name", model) != model:
        raise BadRequestError(f"model_name: allowed is {model or 'none'}, as in the path")
    if not isinstance(identity, str):
        raise BadRequestError(f"id: a {_kind(identity)}. Allowed: text")
    binary = _flag(parameters, "binary_data_output", "parameters")
    inputs, blob = message.get("inputs"), None if json_length is None else body[json_length:]
    asked = _outputs(message.get("outputs", []), outputs, binary)
    columns, rows = _plain(inputs, blob, schema) or columns_of(_tensors(inputs, blob), schema)
    return Request(columns, rows, identity, asked, binary)


def columns_of(tensors: Sequence[Tensor], schema: Schema) -> "tuple[Mapping[str, np.ndarray], int]":
    """Checks and converts the tensors of a V2 request, from whatever transport.

    Returns:
        The columns, and the number of rows.

    Raises:
        BadRequestError: Names, shapes or values do not suit the model.
    """
    names, datatypes, shapes, contents = zip(*tensors, strict=True)
    rows = shapes[0][0] if shapes[0] else 0
    schema.check_rows(rows)
    if _of_rows(rows, shapes):
        inputs = schema.arranger.tensors(names, datatypes, rows, contents)
        if inputs is not None:
            return inputs, rows
    if len(set(names)) != len(names):
        raise BadRequestError(f"inputs: {next(n for n in names if names.count(n) > 1)!r} comes twice")
    form = schema.form(frozenset(names), "inputs")
    columns = {}
    for tensor in tensors:
        name, shape = tensor.name, tensor.shape
        if shape not in ([rows], [rows, 1]) or rows < 1:
            raise BadRequestError(f"{name}: shape {shape}. Allowed: [N] or [N, 1], with one N > 0 for all inputs")
        if isinstance(tensor.values, bytes):
            values = from_bytes(name, tensor.datatype, rows, tensor.values)
        else:
            values = from_json(name, tensor.datatype, _flat(tensor, rows))
        columns[name] = fit(name, form[name], tensor.datatype, values)
    return columns, rows


def _plain(inputs: Any, blob: bytes | None, schema: Schema) -> tuple[Inputs, int] | None:
    """The tensors of a request in the usual form; None where it has another, for `_tensors` to take or refuse."""
    try:
        names, datatypes, shapes, values = zip(*map(_JSON if blob is None else _BINARY, inputs), strict=True)
        rows = shapes[0][0]
        if not _of_rows(rows, shapes) or set(map(len, inputs)) != {len(_PLAIN)}:
            return None
        schema.check_rows(rows)
        found = schema.arranger.tensors(names, datatypes, rows, values if blob is None else _sliced(blob, values))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return None if found is None else (found, rows)


def _of_rows(rows: object, shapes: Sequence[Any]) -> bool:
    """Whether all shapes are [N] or [N, 1], as JSON has them: there, `true` and 1.0 are equal to 1."""
    if type(rows) is not int or rows < 1 or shapes.count([rows]) + shapes.count([rows, 1]) != len(shapes):
        return False
    return set(map(type, chain.from_iterable(shapes))) == {int}


def _sliced(blob: bytes, parameters: Sequence[dict[str, Any]]) -> tuple[bytes, ...]:
    sizes = list(map(_SIZE, parameters))
    if set(map(len, parameters)) != {1} or set(map(type, sizes)) != {int} or min(sizes) < 0 or sum(sizes) != len(blob):
        raise ValueError
    ends = list(accumulate(sizes))
    return tuple(blob[end - size : end] for end, size in zip(ends, sizes, strict=True))


def _tensors(inputs: object, blob: bytes | None) -> list[Tensor]:
    if not isinstance(inputs, list) or not inputs:
        raise BadRequestError("inputs: missing or empty. Allowed: a list of tensors")
    tensors, at = [], 0
    for place, raw in enumerate(inputs):
        where = f"inputs[{place}]"
        if not isinstance(raw, dict):
            raise BadRequestError(f"{where}: a {_kind(raw)}. Allowed: a tensor")
        _only(raw, _INPUT_FIELDS, where)
        name, datatype, shape = raw.get("name"), raw.get("datatype"), raw.get("shape")
        if not isinstance(name, str) or not isinstance(datatype, str):
            raise BadRequestError(f"{where}: no name or no datatype. Allowed: both, as text")
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise BadRequestError(f"{name}: shape is missing or not a list of whole numbers")
        size = _binary_size(raw.get("parameters", {}), name)
        if (size is None) == ("data" not in raw) or (size is not None and blob is None):
            raise BadRequestError(f"{name}: allowed is either data, or binary_data_size with binary data in the body")
        values = raw.get("data", [])
        if size is not None and blob is not None:
            values = blob[at : at + size]
            at += size
            if at > len(blob):
                raise BadRequestError(f"{name}: the body ends before its {size} bytes of binary data")
        tensors.append(Tensor(name, datatype, shape, values))
    if blob is not None and at != len(blob):
        raise BadRequestError(f"the body holds {len(blob) - at} bytes of binary data that belong to no input")
    return tensors


def _flat(tensor: Tensor, rows: int) -> list[Any]:
    values = tensor.values
    if not isinstance(values, list) or len(values) != rows:
        got = f"{len(values)} values" if isinstance(values, list) else f"a {_kind(values)}"
        raise BadRequestError(f"{tensor.name}: data holds {got}. Allowed: a list of {rows}, as its shape says")
    nested = [type(value) is list for value in values]
    if not any(nested):
        return values
    if tensor.shape != [rows, 1] or not all(nested) or any(len(value) != 1 for value in values):
        raise BadRequestError(f"{tensor.name}: data is nested otherwise than its shape {tensor.shape} says")
    return [value[0] for value in values]


def _outputs(raw: object, known: "frozenset[str]", binary: bool) -> dict[str, bool]:
    if not isinstance(raw, list):
        raise BadRequestError(f"outputs: a {_kind(raw)}. Allowed: a list of outputs")
    asked: dict[str, bool] = {}
    for place, output in enumerate(raw):
        where = f"outputs[{place}]"
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise BadRequestError(f"{where}: has no name. Allowed: {', '.join(sorted(known))}")
        _only(output, {"name", "parameters"}, where)
        name = output["name"]
        if name not in known or name in asked:
            raise BadRequestError(f"{where}: {name[:60]!r}. Allowed: each once of {', '.join(sorted(known))}")
        asked[name] = _flag(output.get("parameters", {}), "binary_data", where, binary)
    return asked


def _binary_size(parameters: object, name: str) -> int | None:
    if not isinstance(parameters, dict):
        raise BadRequestError(f"{name}: parameters: a {_kind(parameters)}. Allowed: an object")
    _only(parameters, {"binary_data_size"}, f"{name}: parameters")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise BadRequestError(f"{name}: binary_data_size: {size!r}. Allowed: a whole number of bytes")
    return size


def _without_harmless(parameters: object) -> object:
    if not isinstance(parameters, dict):
        return parameters
    for name in parameters.keys() & HARMLESS:
        if type(parameters[name]) not in {int, bool, str}:
            raise BadRequestError(
                f"parameters: {name}: a {_kind(parameters[name])}. Allowed: a number, boolean or text"
            )
    return {name: value for name, value in parameters.items() if name not in HARMLESS}


def _flag(parameters: object, name: str, where: str, default: bool = False) -> bool:
    if not isinstance(parameters, dict):
        raise BadRequestError(f"{where}: a {_kind(parameters)}. Allowed: an object")
    _only(parameters, {name}, where)
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise BadRequestError(f"{where}: {name}: a {_kind(flag)}. Allowed: true, false")
    return flag


def _object(body: bytes) -> dict[str, Any]:
    import orjson

    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadRequestError(f"the body is a JSON {_kind(message)}. Allowed: an object")
    return message


def _only(message: dict[str, Any], allowed: set[str], where: str) -> None:
    for name in message.keys() - allowed:
        raise BadRequestError(f"{where}: unknown field {name[:60]!r}. Allowed: {', '.join(sorted(allowed))}")


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
