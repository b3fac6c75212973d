"""KServe's V1 and V2 inference protocols: strict decoding of requests.

What is malformed, mis-shaped, mis-typed, unknown or missing raises `BadRequestError`; nothing is guessed or coerced.
See the Open Inference Protocol, with its binary tensor data extension.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from fti.common.inputs import Inputs
from fti.serve.arrange import keyed_columns
from fti.serve.columns import DATATYPES, BadRequestError, Schema, fit, from_bytes, from_json, shown
from fti.serve.heads import Binary, Head, alike, head_of, kind, of_rows, only, parsed, read_head

if TYPE_CHECKING:
    import numpy as np

MAX_BODY = 16 * 1024 * 1024  # bytes
REVISION_HEADER = "x-fti-revision"
INFER = "inference.GRPCInferenceService/ModelInfer"  # a prediction over gRPC
PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6: gRPC's clients that try again wait for so long

_V1_FIELDS = {"instances"}
_NO_HEAD = Head("", {}, binary=False)
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
        asked: Whether it says nothing of how traffic was split; see `Observed.asked`.
    """

    columns: "Mapping[str, np.ndarray]"
    rows: int
    id: str = ""
    outputs: dict[str, bool] = field(default_factory=dict)
    binary: bool = False
    asked: bool = False


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
    if rows := schema.forms.keyed_rows(body):
        schema.check_rows(len(rows))
        if (columns := keyed_columns(schema.keyed, rows)) is not None:
            return Request(columns, len(rows))
    elif rows := schema.forms.rows(body):
        schema.check_rows(len(rows))
        if (inputs := schema.arranger.rows(rows)) is not None:
            return Request(inputs, len(rows))
    message = parsed(body)
    only(message, _V1_FIELDS, "the request")
    instances = message.get("instances")
    if not isinstance(instances, list) or not instances:
        raise BadRequestError('instances: missing or empty. Allowed: {"instances": [{"column": value, ...}, ...]}')
    schema.check_rows(len(instances))
    for row, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise BadRequestError(f"instances[{row}]: a {kind(instance)}. Allowed: an object of columns")
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
    if json_length is None and (plain := _plain(body, schema, outputs, model)) is not None:
        return plain
    head = read_head(body[:json_length], outputs, model, json_length is not None)
    blob = None if json_length is None else body[json_length:]
    columns, rows = _binary(head.plain, blob, schema) or columns_of(_tensors(head.inputs, blob), schema)
    return Request(columns, rows, head.id, head.outputs, head.binary)


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
    if of_rows(rows, shapes):
        inputs = schema.arranger.tensors(names, datatypes, rows, contents)
        if inputs is not None:
            return inputs, rows
    if len(set(names)) != len(names):
        twice: str = Counter(names).most_common(1)[0][0]
        raise BadRequestError(f"inputs: {twice[:60]!r} comes twice")
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


def _plain(body: bytes, schema: Schema, outputs: "frozenset[str]", model: str) -> Request | None:
    """A plain request in JSON; None where it is not, for the strict way to take or refuse."""
    tensors = schema.forms.tensors(body)
    if tensors is None or not tensors.shapes[0]:
        return None
    rows = tensors.shapes[0][0]
    if not alike(rows, tensors.shapes):
        return None
    head = head_of(tensors.head, outputs, model) if tensors.head else _NO_HEAD
    schema.check_rows(rows)
    inputs = schema.arranger.typed(tensors.names, tensors.datatypes, rows, tensors.values)
    return None if inputs is None else Request(inputs, rows, head.id, head.outputs, head.binary)


def _binary(plain: Binary | None, blob: bytes | None, schema: Schema) -> tuple[Inputs, int] | None:
    """The columns of binary data in the usual form; None where they are not, for `_tensors` to take or refuse."""
    if plain is None or blob is None or plain.size != len(blob):
        return None
    schema.check_rows(plain.rows)
    try:
        values = [blob[place] for place in plain.places]
        found = schema.arranger.tensors(plain.names, plain.datatypes, plain.rows, values)
    except (TypeError, ValueError):
        return None
    return None if found is None else (found, plain.rows)


def _tensors(inputs: object, blob: bytes | None) -> list[Tensor]:
    if not isinstance(inputs, list) or not inputs:
        raise BadRequestError("inputs: missing or empty. Allowed: a list of tensors")
    tensors, at = [], 0
    for place, raw in enumerate(inputs):
        where = f"inputs[{place}]"
        if not isinstance(raw, dict):
            raise BadRequestError(f"{where}: a {kind(raw)}. Allowed: a tensor")
        only(raw, _INPUT_FIELDS, where)
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
        got = f"{len(values)} values" if isinstance(values, list) else f"a {kind(values)}"
        raise BadRequestError(f"{tensor.name}: data holds {got}. Allowed: a list of {rows}, as its shape says")
    nested = [type(value) is list for value in values]
    if not any(nested):
        return values
    if tensor.shape != [rows, 1] or not all(nested) or any(len(value) != 1 for value in values):
        raise BadRequestError(f"{tensor.name}: data is nested otherwise than its shape {tensor.shape} says")
    return [value[0] for value in values]


def _binary_size(parameters: object, name: str) -> int | None:
    if not isinstance(parameters, dict):
        raise BadRequestError(f"{name}: parameters: a {kind(parameters)}. Allowed: an object")
    only(parameters, {"binary_data_size"}, f"{name}: parameters")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise BadRequestError(f"{name}: binary_data_size: {shown(size)}. Allowed: a whole number of bytes")
    return size
