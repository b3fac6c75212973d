"""Feast's stored values, decoded in bulk from their wire format without protobuf objects.

A value is a `feast.types.Value`: one field of a oneof, so its first bytes say what it is. Numbers take a tag of one
byte, then four or eight bytes (float, double) or a varint (whole numbers, booleans).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError

if TYPE_CHECKING:
    import numpy as np

# Feast's numeric types, and the tags (field number << 3 | wire type) of `feast.types.Value` that hold such a value.
_FLOATS = {"FLOAT": (0x35, "<f4"), "DOUBLE": (0x29, "<f8")}
_WHOLE = {"INT32": 0x18, "INT64": 0x20, "BOOL": 0x38}
NUMBERS = frozenset({*_FLOATS, *_WHOLE})
_STRING = 0x12
_LONGEST_VARINT = 11  # bytes, with the tag
_POWERS = tuple(1 << shift for shift in range(0, 35, 7))
_FEW = 64  # up to so many values, a loop is faster than NumPy
_SAME = {"DOUBLE": "FLOAT", "INT32": "INT64", "PDF_BYTES": "BYTES", "IMAGE_BYTES": "BYTES"}  # equal to a reader
NEVER = -(2**63)  # microseconds; NaT


def numbers(kind: str, values: "Sequence[bytes | None]") -> "np.ndarray":
    """Decodes values of one numeric type.

    Args:
        kind: One of `NUMBERS`.
        values: [N], as stored; None or empty where there is none.

    Returns:
        Float32 [N], NaN where there is none.

    Raises:
        FeatureStoreError: A value is of another type.
    """
    return _floats(kind, values) if kind in _FLOATS else _whole(kind, values)


def objects(kind: str, values: "Sequence[bytes | None]") -> "np.ndarray":
    """Decodes values of any other type.

    Returns:
        Object [N]: str, or what Feast makes of it, or None.

    Raises:
        FeatureStoreError: A value is of another type.
    """
    import numpy as np

    decoded = np.empty(len(values), dtype=object)
    if kind == "STRING":
        decoded[:] = [_text(value) if value else None for value in values]
    else:
        for row, value in enumerate(values):
            decoded[row] = _anything(kind, value) if value else None
    return decoded


def times(values: "Sequence[bytes | None]") -> "np.ndarray":
    """Decodes `google.protobuf.Timestamp`.

    Returns:
        Int64 [N]: microseconds since 1970, the least int64 where there is none.
    """
    import numpy as np

    if len(values) <= _FEW:
        return np.array(_few_times(values), dtype=np.int64)
    raw = np.array([value or b"" for value in values], dtype="S12").view(np.uint8).reshape(-1, 12).astype(np.int64)
    # From 1978 to 3058 seconds take five bytes after their tag; nanoseconds, if any, are the last and zeros follow.
    usual = (raw[:, 0] == 0x08) & (raw[:, 1:5] >= 0x80).all(axis=1) & (raw[:, 5] < 0x80)
    usual &= (raw[:, 6] == 0x10) | (raw[:, 6] == 0)
    digits = raw & 0x7F
    found: np.ndarray = digits[:, 1:6] @ _POWERS * 1_000_000 + digits[:, 7:12] @ _POWERS // 1000
    if not usual.all():
        rest = np.flatnonzero(~usual)
        found[rest] = _few_times([values[row] for row in rest.tolist()])
    return found


def _floats(kind: str, values: "Sequence[bytes | None]") -> "np.ndarray":
    import numpy as np

    tag, dtype, missing = _float_type(kind)
    filled = [value or missing for value in values]
    if set(map(len, filled)) <= {dtype.itemsize}:
        read = np.frombuffer(b"".join(filled), dtype)
        if (read["tag"] == tag).all():
            if kind == "FLOAT":
                return read["value"].astype(np.float32)
            with np.errstate(over="ignore"):
                return read["value"].astype(np.float32)
    return _one_by_one(kind, values)


@lru_cache
def _float_type(kind: str) -> "tuple[int, np.dtype[Any], bytes]":
    """Tag, layout, and what stands for a value that is missing."""
    import numpy as np

    tag, dtype = _FLOATS[kind]
    return tag, np.dtype([("tag", "u1"), ("value", dtype)]), bytes([tag]) + np.array(np.nan, dtype).tobytes()


def _whole(kind: str, values: "Sequence[bytes | None]") -> "np.ndarray":
    import numpy as np

    if len(values) <= _FEW:
        return _few_whole(kind, values)
    filled = [value or b"" for value in values]
    if max(map(len, filled), default=0) > _LONGEST_VARINT:
        return _one_by_one(kind, values)
    raw = np.array(filled, dtype=f"S{_LONGEST_VARINT}").view(np.uint8).reshape(-1, _LONGEST_VARINT)
    tags = raw[:, 0]
    missing = tags == 0
    if not (missing | (tags == _WHOLE[kind])).all():
        return _one_by_one(kind, values)
    # What follows the last byte of a varint is zero here, and so adds nothing.
    shifts = np.arange(0, 7 * (_LONGEST_VARINT - 1), 7, dtype=np.uint64)
    digits = (raw[:, 1:] & 0x7F).astype(np.uint64) << shifts
    decoded: np.ndarray = digits.sum(axis=1, dtype=np.uint64).view(np.int64).astype(np.float32)
    decoded[missing] = np.nan
    return decoded


def _few_whole(kind: str, values: "Sequence[bytes | None]") -> "np.ndarray":
    import numpy as np

    tag, found, missing = _WHOLE[kind], [], []
    for at, value in enumerate(values):
        if not value:
            missing.append(at)
            found.append(0)
        elif value[0] == tag and len(value) <= _LONGEST_VARINT:
            found.append(_whole_number(value))
        else:
            return _one_by_one(kind, values)
    decoded = np.array(found, dtype=np.int64).astype(np.float32)  # rounded once
    if missing:
        decoded[missing] = np.nan
    return decoded


def _whole_number(value: bytes) -> int:
    """The varint after the tag."""
    number = shift = 0
    for byte in value[1:]:
        number |= (byte & 0x7F) << shift
        shift += 7
    number &= 2**64 - 1
    return number if number < 2**63 else number - 2**64


def _one_by_one(kind: str, values: "Sequence[bytes | None]") -> "np.ndarray":
    import numpy as np

    return np.array([_anything(kind, value) if value else np.nan for value in values], dtype=np.float32)


def _text(value: bytes) -> str | None:
    try:
        if value[0] == _STRING:
            short = value[1] < 0x80
            start, size = (2, value[1]) if short else (3, (value[1] & 0x7F) | value[2] << 7)
            if start + size == len(value):  # longer texts have longer sizes
                return value[start:].decode()
    except (IndexError, UnicodeDecodeError):
        pass  # protobuf says what is wrong
    text: str | None = _anything("STRING", value)
    return text


def _anything(kind: str, value: bytes) -> Any:
    """What Feast makes of a stored value, if it is of the type expected."""
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.type_map import PROTO_VALUE_TO_VALUE_TYPE_MAP, feast_value_type_to_python_type
    from feast.value_type import ValueType
    from google.protobuf.message import DecodeError

    try:
        message = Value.FromString(value)
    except DecodeError as error:
        raise FeatureStoreError("the online store holds what is no value of Feast") from error
    which = message.WhichOneof("val")
    if which in {None, "null_val"}:
        return None
    stored = PROTO_VALUE_TO_VALUE_TYPE_MAP[which].name
    if _SAME.get(stored, stored) != _SAME.get(kind, kind):
        raise FeatureStoreError(f"the online store holds a value of type {stored}", allowed=kind)
    return feast_value_type_to_python_type(message, ValueType[kind])


def _few_times(values: "Sequence[bytes | None]") -> list[int]:
    from google.protobuf.message import DecodeError
    from google.protobuf.timestamp_pb2 import Timestamp

    found = []
    try:
        for value in values:
            if value:
                stamp = Timestamp.FromString(value)
                found.append(stamp.seconds * 1_000_000 + stamp.nanos // 1000)
            else:
                found.append(NEVER)
    except DecodeError as error:
        raise FeatureStoreError("the online store holds an event time that is none") from error
    return found
