"""Reading by Feast itself: other online stores than Redis and SQLite, and services with on-demand views."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError, OnlineStoreError
from fti.common.online.plan import Plan, resolve
from fti.common.online.source import Asked, Fetched
from fti.common.online.values import NEVER

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[datetime | None, dict[str, Any] | None]  # event time, and Feast's values by feature


class FeastSource:
    """Reads view by view through Feast, one thread at a time: its stores may not be shared.

    Args:
        store: An open Feast store.
        service: The feature service.
        plan: What to read.
    """

    def __init__(self, store: "FeatureStore", service: "FeatureService", plan: Plan) -> None:
        self._config, self._plan, self._lock = store.config, plan, Lock()
        self._store = _bounded(store)
        self._tables, self._on_demand = resolve(store, service)

    def fetch(self, asked: Asked) -> Fetched:
        """See `Source.fetch`."""
        import numpy as np

        values: list[Sequence[bytes | None]] = []
        known: list[int] = []
        read = []
        for view, table in zip(self._plan.views, self._tables, strict=True):
            rows = self._read(table, asked.keys[view.key])
            read.append(rows)
            for name in view.features:
                values.append([row[1][name].SerializeToString() if row[1] and name in row[1] else None for row in rows])
            known += [NEVER if row[0] is None else (row[0] - _EPOCH) // timedelta(microseconds=1) for row in rows]
        computed = self._computed(read, asked) if self._on_demand else {}
        return Fetched(values, np.array(known, dtype=np.int64), computed)

    def close(self) -> None:
        """See `Source.close`."""

    def _read(self, table: Any, keys: Sequence[bytes]) -> list[Row]:
        """The rows of one view; `(None, None)` where there is none."""
        from feast.infra.key_encoding_utils import deserialize_entity_key

        from fti.common.feature_store import reason
        from fti.common.masking import masked

        names = [feature.name for feature in table.projection.features]
        try:
            with self._lock:
                rows = self._store.online_read(self._config, table, [*map(deserialize_entity_key, keys)], names)
        except Exception as error:  # the drivers' errors share no base
            raise OnlineStoreError(
                f"Feast cannot read {table.name}: {masked(reason(error))}",
                remedy="See whether the online store runs, and materialize first",
            ) from None
        # Feast's Redis store dates unknown entities 1970.
        return [(None, None) if time is None or time == _EPOCH else (time, values) for time, values in rows]

    def _computed(self, read: list[list[Row]], asked: Asked) -> dict[str, list[Any]]:
        """The features of on-demand views, from what is not past its TTL, as in training."""
        from feast.type_map import feast_value_type_to_python_type

        inputs: dict[str, tuple[Any, list[Any]]] = {}
        for view, table, rows in zip(self._plan.views, self._tables, read, strict=True):
            held = [values or {} if _holds(time, view.policy.ttl, asked.now) else {} for time, values in rows]
            for feature in table.projection.features:
                unique = [
                    feast_value_type_to_python_type(row[feature.name]) if feature.name in row else None for row in held
                ]
                column = [unique[place] for place in asked.places[view.key]]
                inputs[f"{table.projection.name_to_use()}__{feature.name}"] = (feature.dtype, column)
        return {name: values for view in self._on_demand for name, values in _transformed(view, inputs, asked).items()}


def _transformed(view: Any, inputs: dict[str, tuple[Any, list[Any]]], asked: Asked) -> dict[str, list[Any]]:
    import pyarrow as pa
    from feast.types import from_feast_to_pyarrow_type

    declared = {
        f"{projection.name_to_use()}__{feature.name}"
        for projection in view.source_feature_view_projections.values()
        for feature in projection.features
    }
    own = {name: typed for name, typed in inputs.items() if name in declared}
    for source in view.source_request_sources.values():
        own |= {field.name: (field.dtype, list(asked.entities[field.name])) for field in source.schema}
    try:
        if view.mode == "python":
            made: Any = view.transform_dict({name: column for name, (_, column) in own.items()})
        else:
            arrays = {
                name: pa.array(column, from_feast_to_pyarrow_type(dtype)) for name, (dtype, column) in own.items()
            }
            made = view.transform_arrow(pa.table(arrays)).to_pydict()
    except Exception as error:  # the user's own code
        raise FeatureStoreError(f"the on-demand view {view.name} fails: {error!r:.300}") from error
    return {
        f"{view.projection.name_to_use()}__{feature.name}": list(made[feature.name])
        for feature in view.projection.features
    }


def _holds(time: datetime | None, ttl: timedelta | None, now: datetime) -> bool:
    return time is not None and (ttl is None or now - time <= ttl)


def _bounded(store: "FeatureStore") -> Any:
    """Feast's online store of a profile; a Redis with waits that end."""
    online = store._get_provider().online_store
    config = store.config.online_store
    if type(config).__name__ == "RedisOnlineStoreConfig":
        from fti.common.online.redis_store import quick_client

        online._client = quick_client(config)
    return online
