"""Entity keys as Feast's online stores know them, for whole columns and without protobuf objects.

The encoding is Feast's `serialize_entity_key` of version 3: the number of join keys, their names in alphabetical
order, then the values in that order, each with its type and length before it, little-endian.
"""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from fti.common.errors import ConfigError, FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureView

KeyType = Literal["bytes", "string", "int32", "int64", "unix_timestamp"]

_CODES = {"bytes": 1, "string": 2, "int32": 3, "int64": 4, "unix_timestamp": 8}  # Feast's ValueType.Enum
_HEAD, _INT32, _INT64 = struct.Struct("<II"), struct.Struct("<IIi"), struct.Struct("<IIq")


def entity_keys(join_keys: Sequence[str], dtypes: Sequence[KeyType], columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """Serializes the keys of many rows.

    Args:
        join_keys: The names of the join keys, as the feature view has them.
        dtypes: The type of each.
        columns: The values of each, [N]: str, bytes, whole numbers; for `unix_timestamp` seconds or datetimes.

    Returns:
        N keys, bit for bit as Feast makes them.

    Raises:
        ConfigError: A value is null or not of its type; names the row.
    """
    head, order = _arranged(tuple(join_keys))
    parts = [_values(join_keys[at], dtypes[at], columns[at]) for at in order]
    if len(parts) == 1:
        return [head + value for value in parts[0]]
    return [head + b"".join(values) for values in zip(*parts, strict=True)]


def key_head(join_keys: Sequence[str]) -> bytes:
    """What all keys of the same join keys begin with."""
    names = [name.encode() for name in sorted(join_keys)]
    described = b"".join(_HEAD.pack(_CODES["string"], len(name)) + name for name in names)
    return struct.pack("<I", len(names)) + described


@lru_cache(1024)
def _arranged(join_keys: tuple[str, ...]) -> tuple[bytes, list[int]]:
    """What all keys begin with, and in which order their values come."""
    return key_head(join_keys), sorted(range(len(join_keys)), key=join_keys.__getitem__)


def key_types(view: "FeatureView") -> dict[str, KeyType]:
    """The join keys of a feature view, as it names them, and their types.

    Raises:
        FeatureStoreError: A key is of a type that Feast cannot look up.
    """
    types = {column.name: column.dtype.to_value_type().name.lower() for column in view.entity_columns}
    for name, dtype in types.items():
        if dtype not in get_args(KeyType):
            raise FeatureStoreError(
                f"the join key {name} of {view.name} is of type {dtype}", allowed=", ".join(get_args(KeyType))
            )
    return types


def _values(name: str, dtype: KeyType, column: Sequence[Any]) -> list[bytes]:
    code = _CODES[dtype]
    try:
        if dtype == "int64":
            return [_INT64.pack(code, 8, value) for value in column]
        if dtype == "int32":
            return [_INT32.pack(code, 4, value) for value in column]
        if dtype == "unix_timestamp":
            return [_INT64.pack(code, 8, _seconds(value)) for value in column]
        texts = column if dtype == "bytes" else [value.encode() for value in column]
        return [_HEAD.pack(code, len(text)) + text for text in texts]
    except (struct.error, TypeError, AttributeError, UnicodeEncodeError):
        if len(column) == 1:
            raise ConfigError(f"join key {name}: {column[0]!r:.60}", allowed=f"values of type {dtype}") from None
        row = next(row for row, value in enumerate(column) if not _fits(name, dtype, value))
        raise ConfigError(
            f"join key {name}: row {row} is {column[row]!r:.60}", allowed=f"values of type {dtype}"
        ) from None


def _fits(name: str, dtype: KeyType, value: Any) -> bool:
    try:
        _values(name, dtype, [value])
    except ConfigError:
        return False
    return True


def _seconds(value: Any) -> int:
    """Seconds since 1970; a datetime without a zone is UTC."""
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    return value  # type: ignore[no-any-return]
