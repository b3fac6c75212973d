"""Values are encoded bit for bit as Feast encodes them."""

import math
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fti.common.errors import FeatureStoreError
from fti.common.online.encoding import encoded, stamps

INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
COLUMNS = [
    ("FLOAT", pa.float32(), st.floats(width=32)),
    ("FLOAT", pa.float64(), st.floats(-1e30, 1e30)),
    ("DOUBLE", pa.float64(), st.floats()),
    ("BOOL", pa.bool_(), st.booleans()),
    ("STRING", pa.string(), st.text(max_size=200)),
    ("STRING", pa.large_string(), st.text(max_size=5)),
    ("BYTES", pa.binary(), st.binary(min_size=1, max_size=20_000)),
    ("INT64_LIST", pa.list_(pa.int64()), st.lists(INT64, max_size=3)),
    ("STRING_LIST", pa.list_(pa.string()), st.lists(st.text(max_size=3), max_size=3)),
]


def by_feast(column: pa.Array, kind: str) -> list[bytes]:
    from feast.type_map import python_values_to_proto_values
    from feast.value_type import ValueType

    values = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), ValueType[kind])
    return [value.SerializeToString() for value in values]


@pytest.mark.parametrize(("kind", "dtype", "values"), COLUMNS, ids=[f"{kind}-{dtype}" for kind, dtype, _ in COLUMNS])
def test_as_feast_encodes_them(kind: str, dtype: pa.DataType, values: st.SearchStrategy[object]) -> None:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(values | st.none(), max_size=8))
    def check(some: list[object]) -> None:
        column = pa.array(some, dtype)
        assert encoded(column, kind) == by_feast(column, kind)

    check()


@pytest.mark.parametrize(("kind", "dtype", "values"), [("INT32", pa.int32(), INT32), ("INT64", pa.int64(), INT64)])
def test_whole_numbers_stay_whole_beside_nulls(kind: str, dtype: pa.DataType, values: st.SearchStrategy[int]) -> None:
    """Feast makes floats of them: 2**53 + 1 becomes 2**53."""
    from feast.protos.feast.types.Value_pb2 import Value

    field = f"{kind.lower()}_val"

    @settings(max_examples=100, deadline=None)
    @given(st.lists(values | st.none(), max_size=8))
    def check(some: list[int | None]) -> None:
        expected = [b"" if each is None else Value(**{field: each}).SerializeToString() for each in some]
        assert encoded(pa.array(some, dtype), kind) == expected

    check()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)), max_size=5))
def test_instants_are_protobuf_timestamps(instants: list[datetime]) -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    expected = []
    for instant in instants:
        stamp = Timestamp()
        stamp.FromDatetime(instant.replace(tzinfo=UTC))
        expected.append(stamp.SerializeToString())
    assert stamps(np.array(instants, dtype="datetime64[us]").view(np.int64)) == expected


def test_times_are_left_to_feast() -> None:
    column = pa.array([datetime(2024, 1, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC"))
    assert encoded(column, "UNIX_TIMESTAMP") == by_feast(column, "UNIX_TIMESTAMP")


@pytest.mark.parametrize(
    ("kind", "column", "said"),
    [
        ("INT32", pa.array([2**31]), "2147483648"),
        ("INT64", pa.array(["many"]), "many"),
        ("BYTES", pa.array([1.5]), "do not fit the type BYTES"),
        ("FLOAT", pa.array(["much"]), "much"),
    ],
)
def test_values_that_do_not_fit(kind: str, column: pa.Array, said: str) -> None:
    with pytest.raises(FeatureStoreError, match=said):
        encoded(column, kind)


def test_what_feast_refuses_or_takes_for_null() -> None:
    assert encoded(pa.array([0.1, math.nan], pa.float32()), "DOUBLE") == encoded(
        pa.array([float(np.float32(0.1)), None], pa.float64()), "DOUBLE"
    )
    assert encoded(pa.array([b"", None]), "BYTES") == [b"\n\0", b""]
