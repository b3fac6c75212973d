"""Columns of values as Feast stores them, packed in bulk by their wire format, without protobuf objects.

A value is a `feast.types.Value`: the tag of the one field that is set, then the value; nothing at all for null.
What is read back is decoded by `fti.common.online.values`.
"""

from typing import TYPE_CHECKING

from fti.common.errors import FeatureStoreError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# Tags: number of the field << 3 | wire type.
_FLOATS = {"FLOAT": (0x35, "<f4"), "DOUBLE": (0x29, "<f8")}
_WHOLE = {"INT32": 0x18, "INT64": 0x20, "BOOL": 0x38}
_BYTES = {"STRING": 0x12, "BYTES": 0x0A}
_SECONDS, _NANOSECONDS = 0x08, 0x10  # of google.protobuf.Timestamp
_LONGEST_VARINT = 10


def encoded(column: "pa.Array", kind: str) -> list[bytes]:
    """Encodes the values of one feature.

    Args:
        column: [N]. NaN is null, as it is to Feast.
        kind: Feast's name of the feature's type, such as `FLOAT`.

    Returns:
        N serialized values, as Feast would store them; empty for null.

    Raises:
        FeatureStoreError: A value does not fit the type.
    """
    import pyarrow as pa
    from pyarrow import types

    number = types.is_integer(column.type) or types.is_floating(column.type)
    try:
        if kind in _FLOATS and number:
            return _floats(column, *_FLOATS[kind])
        if (kind == "BOOL" and types.is_boolean(column.type)) or (
            kind in {"INT32", "INT64"} and types.is_integer(column.type)
        ):
            return _whole(column.cast("int32" if kind == "INT32" else "int64"), _WHOLE[kind])
        if kind in _BYTES and _is_text(column.type, kind):
            return _texts(column.cast(pa.large_binary()), _BYTES[kind])
        return _by_feast(column, kind)
    except (
        pa.ArrowInvalid,
        pa.ArrowNotImplementedError,
        ArithmeticError,
        AssertionError,
        TypeError,
        ValueError,
    ) as error:
        why = next(iter(str(error).splitlines()), "")
        raise FeatureStoreError(f"values of type {column.type} do not fit the type {kind}: {why}") from error


def stamps(micros: "np.ndarray") -> list[bytes]:
    """Encodes instants as `google.protobuf.Timestamp`.

    Args:
        micros: Int64 [N]: microseconds since 1970.
    """
    import numpy as np

    times, at = np.unique(micros, return_inverse=True)  # many rows share one
    seconds, rest = np.divmod(times, 1_000_000)
    first = _varints(seconds, _SECONDS, seconds != 0)
    second = _varints(rest * 1000, _NANOSECONDS, rest != 0)
    each = [a + b for a, b in zip(first, second, strict=True)]
    return [each[index] for index in at.tolist()]


def _floats(column: "pa.Array", tag: int, dtype: str) -> list[bytes]:
    import numpy as np

    with np.errstate(over="ignore"):
        values = column.to_numpy(zero_copy_only=False).astype(dtype)
    valid = ~np.isnan(values) & np.asarray(column.is_valid())
    size = values.dtype.itemsize
    matrix = np.empty((len(values), 1 + size), dtype=np.uint8)
    matrix[:, 0] = tag
    matrix[:, 1:] = values.view(np.uint8).reshape(-1, size)
    return _cut(matrix, np.where(valid, 1 + size, 0))


def _whole(column: "pa.Array", tag: int) -> list[bytes]:
    import numpy as np

    return _varints(column.cast("int64").fill_null(0).to_numpy(), tag, np.asarray(column.is_valid()))


def _varints(values: "np.ndarray", tag: int, valid: "np.ndarray") -> list[bytes]:
    """A tag and a varint each: seven bits a byte, the least first, the eighth says that more follow."""
    import numpy as np

    bits = values.astype(np.int64).view(np.uint64)  # a negative number takes all ten bytes
    digits = bits[:, None] >> np.arange(0, 7 * _LONGEST_VARINT, 7, dtype=np.uint64)
    sizes = np.maximum((digits != 0).sum(axis=1), 1)
    matrix = np.empty((len(values), 1 + _LONGEST_VARINT), dtype=np.uint8)
    matrix[:, 0] = tag
    more = np.arange(1, 1 + _LONGEST_VARINT) < sizes[:, None]
    matrix[:, 1:] = (digits & 0x7F).astype(np.uint8) | (more.astype(np.uint8) << 7)
    return _cut(matrix, np.where(valid, 1 + sizes, 0))


def _cut(matrix: "np.ndarray", sizes: "np.ndarray") -> list[bytes]:
    """The first bytes of each row of a matrix."""
    import numpy as np
    import pyarrow as pa

    kept = matrix[np.arange(matrix.shape[1]) < sizes[:, None]]
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(kept)]
    cut: list[bytes] = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), buffers).to_pylist()
    return cut


def _is_text(dtype: "pa.DataType", kind: str) -> bool:
    from pyarrow import types

    if kind == "STRING":
        return bool(types.is_string(dtype) or types.is_large_string(dtype))
    return bool(types.is_binary(dtype) or types.is_large_binary(dtype))


def _texts(column: "pa.Array", tag: int) -> list[bytes]:
    heads: dict[int, bytes] = {}

    def head(size: int) -> bytes:
        if size not in heads:
            heads[size] = bytes([tag]) + _varint(size)
        return heads[size]

    return [b"" if text is None else head(len(text)) + text for text in column.to_pylist()]


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _by_feast(column: "pa.Array", kind: str) -> list[bytes]:
    """Lists, times and whatever else: Feast's own conversion, one value after the other."""
    from feast.type_map import python_values_to_proto_values
    from feast.value_type import ValueType

    values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), ValueType[kind])
    return [value.SerializeToString() for value in values]
