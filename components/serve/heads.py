"""What a V2 request says beside its values: its head.

With binary data, the head is the JSON before them. A caller mostly says the same each time, and only its data change.
To read the same words again takes longer than all else in decoding, so the last few of these heads are remembered.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from fti.serve.columns import BadRequestError

# What clients made for Triton may send with any request: it orders and bounds the work of servers that keep state or a
# queue of priorities, and changes no answer of this one.
HARMLESS = frozenset({"sequence_id", "sequence_start", "sequence_end", "priority", "timeout"})

_FIELDS = {"id", "model_name", "inputs", "outputs", "parameters"}
_FIELDS_OF_TENSOR = ("name", "datatype", "shape", "parameters")
_TENSOR = itemgetter(*_FIELDS_OF_TENSOR)
_SIZE = itemgetter("binary_data_size")
# So many heads, each no longer than so many bytes, are remembered: some MiB at most, whoever sends them.
_REMEMBERED, _LONGEST = 64, 8192


class Binary(NamedTuple):
    """The tensors of a request with binary data, in the usual form.

    Attributes:
        names: The columns.
        datatypes: Of each.
        rows: N, at least 1.
        places: Where the bytes of each are.
        size: All bytes.
    """

    names: tuple[str, ...]
    datatypes: tuple[str, ...]
    rows: int
    places: tuple[slice, ...]
    size: int


class Head(NamedTuple):
    """What a request says.

    Attributes:
        id: The caller's own name for it.
        outputs: The outputs asked for, and whether as binary data; empty means all.
        binary: Whether outputs that say nothing else come as binary data.
        inputs: Its tensors, not yet checked.
        plain: The same, where their data are all binary and they have the usual form.
    """

    id: str
    outputs: dict[str, bool]
    binary: bool
    inputs: Any = None
    plain: Binary | None = None


def read_head(content: bytes, outputs: frozenset[str], model: str, binary: bool) -> Head:
    """Reads the JSON of a request.

    Args:
        content: The JSON.
        outputs: The names of the outputs that the model gives.
        model: The model's name, which the head may repeat, as KServe's client does.
        binary: Whether binary data follow.

    Raises:
        BadRequestError: It is malformed, or does not suit the model.
    """
    return (_remembered if binary and len(content) <= _LONGEST else _read)(content, outputs, model, binary)


def _read(content: bytes, outputs: frozenset[str], model: str, binary: bool) -> Head:
    message = parsed(content)
    only(message, _FIELDS, "the request")
    inputs = message.get("inputs")
    return head_of(message, outputs, model)._replace(inputs=inputs, plain=_plain(inputs) if binary else None)


_remembered = lru_cache(_REMEMBERED)(_read)


def head_of(message: Mapping[str, Any], outputs: frozenset[str], model: str) -> Head:
    """What a request says beside its tensors.

    Args:
        message: The request, parsed.
        outputs: The names of the outputs that the model gives.
        model: The model's name.

    Raises:
        BadRequestError: It does not suit the model.
    """
    identity = message.get("id", "")
    if message.get("model_name", model) != model:
        raise BadRequestError(f"model_name: allowed is {model or 'none'}, as in the path")
    if not isinstance(identity, str):
        raise BadRequestError(f"id: a {kind(identity)}. Allowed: text")
    as_binary = "parameters" in message and _flag(
        _without_harmless(message["parameters"]), "binary_data_output", "parameters"
    )
    return Head(identity, _outputs(message.get("outputs", []), outputs, as_binary), as_binary)


def _plain(inputs: Any) -> Binary | None:
    try:
        names, datatypes, shapes, said = zip(*map(_TENSOR, inputs), strict=True)
        rows = shapes[0][0]
        if set(map(len, inputs)) != {len(_FIELDS_OF_TENSOR)} or not of_rows(rows, shapes):
            return None
        sizes = list(map(_SIZE, said))
        if set(map(len, said)) != {1} or set(map(type, sizes)) != {int} or min(sizes) < 0:
            return None
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    ends = list(accumulate(sizes))
    places = tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
    return Binary(names, datatypes, rows, places, ends[-1])


def of_rows(rows: object, shapes: Sequence[Any]) -> bool:
    """Whether all shapes are [N] or [N, 1], as JSON has them: there, `true` and 1.0 are equal to 1."""
    return type(rows) is int and set(map(type, chain.from_iterable(shapes))) == {int} and alike(rows, shapes)


def alike(rows: int, shapes: Sequence[list[int]]) -> bool:
    """Whether all shapes are [N] or [N, 1], with N > 0, as far as INT64 goes."""
    alone = shapes.count([rows])
    return 0 < rows < 2**63 and (alone == len(shapes) or alone + shapes.count([rows, 1]) == len(shapes))


def _outputs(raw: object, known: "frozenset[str]", binary: bool) -> dict[str, bool]:
    if not isinstance(raw, list):
        raise BadRequestError(f"outputs: a {kind(raw)}. Allowed: a list of outputs")
    asked: dict[str, bool] = {}
    for place, output in enumerate(raw):
        where = f"outputs[{place}]"
        if not isinstance(output, dict) or not isinstance(output.get("name"), str):
            raise BadRequestError(f"{where}: has no name. Allowed: {', '.join(sorted(known))}")
        only(output, {"name", "parameters"}, where)
        name = output["name"]
        if name not in known or name in asked:
            raise BadRequestError(f"{where}: {name[:60]!r}. Allowed: each once of {', '.join(sorted(known))}")
        asked[name] = _flag(output.get("parameters", {}), "binary_data", where, binary)
    return asked


def _without_harmless(parameters: object) -> object:
    if not isinstance(parameters, dict):
        return parameters
    for name in parameters.keys() & HARMLESS:
        if type(parameters[name]) not in {int, bool, str}:
            raise BadRequestError(
                f"parameters: {name}: a {kind(parameters[name])}. Allowed: a whole number, boolean or text"
            )
    return {name: value for name, value in parameters.items() if name not in HARMLESS}


def _flag(parameters: object, name: str, where: str, default: bool = False) -> bool:
    if not isinstance(parameters, dict):
        raise BadRequestError(f"{where}: a {kind(parameters)}. Allowed: an object")
    only(parameters, {name}, where)
    flag = parameters.get(name, default)
    if not isinstance(flag, bool):
        raise BadRequestError(f"{where}: {name}: a {kind(flag)}. Allowed: true, false")
    return flag


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BadRequestError: It is anything else.
    """
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadRequestError(f"the body is a JSON {kind(message)}. Allowed: an object")
    return message


def only(message: dict[str, Any], allowed: set[str], where: str) -> None:
    """Refuses an object with other fields.

    Raises:
        BadRequestError: It has one; names it.
    """
    if not message.keys() <= allowed:
        unknown = next(name for name in message if name not in allowed)
        raise BadRequestError(f"{where}: unknown field {unknown[:60]!r}. Allowed: {', '.join(sorted(allowed))}")


def kind(value: object) -> str:
    """What JSON calls a value."""
    kinds = {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
