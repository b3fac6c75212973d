"""What plain requests of a model are, as types that no other JSON fits.

Whether a request has the model's columns, and each value its column's type, is checked in compiled code, while the JSON
is read. What does not fit is left to the strict way in `protocol.py`, which says what is wrong with it.
"""

import re
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any, Literal, NamedTuple

import msgspec

TEXT_KEY, WHOLE_KEY = "text key", "whole key"  # the dtypes of entity keys
WHOLE = ("INT8", "INT16", "INT32", "INT64")
# The V2 datatypes that are plain, by dtype. Numbers with holes that come as floats are not.
DATATYPES = {"float32": ("FP32", "FP64"), "int64": WHOLE, "bool": ("BOOL",), "string": ("BYTES",)}
_KINDS = {"float32": float, "int64": int, "bool": bool, "string": str}
_VALUES: dict[str, Any] = {dtype: kind | None for dtype, kind in _KINDS.items()} | {TEXT_KEY: str, WHOLE_KEY: int}
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NO_FIELD = re.compile(r'[\x00-\x1f"\\]')
_values = msgspec.structs.astuple


class Tensors(NamedTuple):
    """A plain V2 request in JSON.

    Attributes:
        names: The columns, as they come; None where there is no such.
        datatypes: Of each.
        shapes: Of each.
        values: Of each, in the types of its dtype; None where missing.
        head: What else it says: `id`, `model_name`, `outputs`, `parameters`, as far as it does.
    """

    names: tuple[str | None, ...]
    datatypes: tuple[str, ...]
    shapes: tuple[list[int], ...]
    values: tuple[list[Any], ...]
    head: dict[str, Any]


class Forms:
    """The plain requests of one model.

    Args:
        features: Its inputs by name, with the dtype of each.
        keyed: The columns of a request by entity keys; empty where nothing is looked up.
    """

    def __init__(self, features: Mapping[str, str], keyed: Mapping[str, str]) -> None:
        # Where a request by entity keys has the same columns as any other, it is the features that are given.
        by_keys = keyed if keyed.keys() != features.keys() else {}
        self._rows, self._keyed_rows = _decoder_of_rows(features), _decoder_of_rows(by_keys)
        self._names = {_tensor(name, dtype): name for name, dtype in features.items()}
        # Of one structure alone msgspec does not ask for the name.
        tensors: Any = reduce(or_, self._names, _tensor("".join(features) + "?", "bool"))
        head = [(name, kind | msgspec.UnsetType, msgspec.UNSET) for name, kind in _HEAD]
        self._tensors: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_struct([("inputs", list[tensors]), *head]))

    def rows(self, body: bytes) -> list[tuple[Any, ...]]:
        """The instances of a V1 request, each its values in the order of the inputs; none where they are not plain."""
        return _read(self._rows, body)

    def keyed_rows(self, body: bytes) -> list[tuple[Any, ...]]:
        """Those of a V1 request by entity keys, in the order of its columns."""
        return _read(self._keyed_rows, body)

    def tensors(self, body: bytes) -> Tensors | None:
        """The tensors of a V2 request in JSON; None where they are not plain."""
        try:
            inputs, *head = _values(self._tensors.decode(body))
            datatypes, shapes, values = zip(*map(_values, inputs))  # noqa: B905  # all of three
        except (*_REFUSED, ValueError):
            return None
        names = tuple(map(self._names.get, map(type, inputs)))
        return Tensors(names, datatypes, shapes, values, {} if head == _SILENT else _said(head))


_HEAD: tuple[tuple[str, Any], ...] = (("id", str), ("model_name", str), ("outputs", list), ("parameters", dict))
_SILENT = [msgspec.UNSET] * len(_HEAD)


def _said(head: list[Any]) -> dict[str, Any]:
    return {name: value for (name, _), value in zip(_HEAD, head, strict=True) if value is not msgspec.UNSET}


def _decoder_of_rows(dtypes: Mapping[str, str]) -> "msgspec.json.Decoder[Any] | None":
    """What reads rows of these columns; None where there are none, or msgspec has no fields of such names."""
    if not dtypes or any(_NO_FIELD.search(name) for name in dtypes):
        return None
    row: Any = _struct([(name, _VALUES[dtype]) for name, dtype in dtypes.items()])
    return msgspec.json.Decoder(_struct([("instances", list[row])]))


def _read(decoder: "msgspec.json.Decoder[Any] | None", body: bytes) -> list[tuple[Any, ...]]:
    if decoder is None:
        return []
    try:
        (instances,) = _values(decoder.decode(body))
    except _REFUSED:
        return []
    return list(map(_values, instances))


def _tensor(name: str, dtype: str) -> type:
    value: Any = _VALUES[dtype]
    fields = [("datatype", Literal[DATATYPES[dtype]]), ("shape", list[int]), ("data", list[value])]
    return _struct(fields, tag_field="name", tag=name)


def _struct(fields: list[Any], **options: Any) -> type:
    """A structure with fields of any names: (name, type) or (name, type, default) each."""
    names = {f"field_{at}": name for at, (name, *_) in enumerate(fields)}
    typed = [(field, *rest) for field, (_, *rest) in zip(names, fields, strict=True)]
    return msgspec.defstruct("Plain", typed, rename=names, forbid_unknown_fields=True, gc=False, **options)
