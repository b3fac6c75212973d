"""Rows of a feature view on their way to an online store: one for each key, keys serialized, times as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError
from fti.common.online.encoding import encoded
from fti.common.online.keys import entity_keys, key_types

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from feast import FeatureView

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ARROW = {"string": "large_string", "bytes": "large_binary", "int32": "int32", "int64": "int64"}


@dataclass(frozen=True)
class Rows:
    """Rows with keys that differ.

    Attributes:
        table: N rows with Feast's column names, without those whose key was null.
        keys: [N], as Feast serializes them.
        times: Int64 [N]: event time, microseconds since 1970.
    """

    table: "pa.Table"
    keys: list[bytes]
    times: "np.ndarray"

    @classmethod
    def of(cls, view: "FeatureView", table: "pa.Table") -> "Rows":
        """Serializes the keys; of rows of one key the newest is left, of those of one time the one created last.

        Args:
            view: Says which columns are keys and times.
            table: Its rows, in any order. A row without a key can never be asked for and is left out.

        Raises:
            FeatureStoreError: A column is missing, or a time is null.
            ConfigError: A key is not of its type.
        """
        import numpy as np

        source = view.batch_source
        needed = [*_join_keys(view), *(field.name for field in view.features), source.timestamp_field]
        absent = [name for name in needed if name not in table.column_names]
        if absent:
            raise FeatureStoreError(
                f"rows for the feature view {view.name!r} lack {', '.join(absent)}",
                allowed="its join keys, its features and the event timestamp",
            )
        for name in _join_keys(view):
            if table.column(name).null_count:
                table = table.filter(table.column(name).is_valid())
        keys, times = keys_of(view, table), event_times(view, table)
        if len(set(keys)) < len(keys):
            created = cls(table, keys, times).created(view)
            last = {keys[row]: row for row in np.lexsort([times] if created is None else [created, times]).tolist()}
            kept = np.fromiter(last.values(), dtype=np.int64)
            return cls(table.take(kept), list(last), times[kept])
        return cls(table, keys, times)

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, positions: "np.ndarray") -> "Rows":
        """Some of the rows."""
        return Rows(self.table.take(positions), [self.keys[at] for at in positions.tolist()], self.times[positions])

    def created(self, view: "FeatureView") -> "np.ndarray | None":
        """When the rows were created, int64 [N], microseconds since 1970; None where that is not known."""
        column = view.batch_source.created_timestamp_column
        return _micros(view, self.table, column) if column in self.table.column_names else None

    def values(self, view: "FeatureView") -> dict[str, list[bytes]]:
        """The values of each feature, [N], as Feast stores them.

        Raises:
            FeatureStoreError: A value does not fit its feature's type.
        """
        found = {}
        for field in view.features:
            column = self.table.column(field.name).combine_chunks()
            try:
                found[field.name] = encoded(column, field.dtype.to_value_type().name)
            except FeatureStoreError as error:
                raise FeatureStoreError(
                    f"the feature {field.name!r} of {view.name!r}: {error.got}", remedy="Correct the table or the type"
                ) from error
        return found


def keys_of(view: "FeatureView", table: "pa.Table") -> list[bytes]:
    """The serialized keys of a table's rows.

    Raises:
        ConfigError: A key is null or not of its type.
    """
    from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

    types = {name: dtype for name, dtype in key_types(view).items() if name != DUMMY_ENTITY_ID}
    if not types:
        return entity_keys([DUMMY_ENTITY_ID], ["string"], [[DUMMY_ENTITY_VAL]]) * len(table)
    columns = [_column(view, table.column(name), name, dtype) for name, dtype in types.items()]
    return entity_keys(list(types), list(types.values()), columns)


def event_times(view: "FeatureView", table: "pa.Table") -> "np.ndarray":
    """The event times of a table's rows, int64 [N], microseconds since 1970.

    Raises:
        FeatureStoreError: One is null.
    """
    return _micros(view, table, view.batch_source.timestamp_field)


def micros_of(instant: datetime) -> int:
    """Microseconds since 1970; without a zone it is UTC."""
    return ((instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def instant_of(micros: int) -> datetime:
    """The instant, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def _join_keys(view: "FeatureView") -> list[str]:
    from feast.feature_view import DUMMY_ENTITY_ID

    return [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]


def _column(view: "FeatureView", column: "pa.ChunkedArray", name: str, dtype: str) -> Sequence[Any]:
    import pyarrow as pa

    try:
        values: list[Any] = (column.cast(_ARROW[dtype]) if dtype in _ARROW else column).to_pylist()
        return values
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FeatureStoreError(
            f"the join key {name!r} of {view.name!r} is of type {column.type} in the rows: {error}", allowed=dtype
        ) from error


def _micros(view: "FeatureView", table: "pa.Table", name: str) -> "np.ndarray":
    """A column of times, UTC where it has no zone, to the microsecond as Feast keeps them."""
    import pyarrow as pa
    from pyarrow import types

    column = table.column(name).combine_chunks()
    if column.null_count:
        raise FeatureStoreError(f"{column.null_count} rows for the feature view {view.name!r} have no {name}")
    if types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not types.is_timestamp(column.type):
        import pandas as pd

        column = pa.Array.from_pandas(pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601"))
    micros: np.ndarray = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast("int64").to_numpy()
    return micros
