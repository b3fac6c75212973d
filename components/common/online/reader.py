"""Reading a feature service for a prediction: entity keys in, feature vectors out.

The service is resolved once, when the reader is opened. A read then is: distinct keys, serialized; one request to the
store; values decoded in bulk; what is too old or absent replaced as each view's policy says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fti.common.errors import ConfigError, FeatureStoreError
from fti.common.online.keys import KeyType, entity_keys
from fti.common.online.plan import Key, Plan, make_plan
from fti.common.online.source import Asked, Fetched, Source, source_of
from fti.common.online.values import NEVER, NUMBERS, numbers, objects

if TYPE_CHECKING:
    import numpy as np
    from feast import FeatureStore

FRESH, STALE, MISSING, UNAVAILABLE = "fresh", "stale", "missing", "unavailable"
STATUSES = (FRESH, STALE, MISSING, UNAVAILABLE)
_FOREVER = 2**63 - 1  # microseconds
_MICROSECOND = timedelta(microseconds=1)

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Vectors:
    """The features of N rows.

    Attributes:
        columns: `<view>__<feature>` -> [N]: float32 with NaN, or object with None, after each view's policy.
        status: View -> [N] of `fresh`, `stale` (past its TTL), `missing` (no row, or nothing but nulls) or
            `unavailable` (the store was not asked).
        known_at: View -> datetime64[us] [N], UTC: the event time of the stored values; NaT where there are none.
        refused: View whose policy is `refuse` -> bool [N]: the rows that must not be used. Only views with such rows.
    """

    columns: "dict[str, np.ndarray]"
    status: "dict[str, np.ndarray]"
    known_at: "dict[str, np.ndarray]"
    refused: "dict[str, np.ndarray]" = field(default_factory=dict)


def open_reader(store: "FeatureStore", feature_service: str, clock: Clock) -> "OnlineReader":
    """Opens a feature service for reading; the store itself is not asked yet.

    Redis and SQLite are read directly, what else Feast supports by Feast's own reader, as is a service with on-demand
    views. Changes of the registry after this are not followed, but values whose type has changed are refused.

    Args:
        store: An open Feast store. The reader keeps it only where it needs Feast's own reader.
        feature_service: The name of the service.
        clock: What time it is, for the TTL: `Settings.clock`.

    Raises:
        FeatureStoreError: There is no such service, or it cannot be read.
    """
    from fti.common.feature_store import service_of

    service = service_of(store, feature_service)
    plan = make_plan(store, service)
    return OnlineReader(plan, source_of(store, service, plan), clock)


class OnlineReader:
    """Reads feature vectors; any number of threads may do so at once.

    Args:
        plan: What to read.
        source: The store.
        clock: What time it is.

    Attributes:
        keys: What callers must send by name: join keys and their types.
        request_data: What on-demand views take from the request besides, and Feast's name of the type.
        kinds: The columns of the vectors, in order: `number` or `object`.
    """

    def __init__(self, plan: Plan, source: Source, clock: Clock) -> None:
        import numpy as np

        self._plan, self._source, self._clock = plan, source, clock
        self.keys: dict[str, KeyType] = plan.key_types
        self.request_data = dict(plan.request_data)
        self._features = [
            _Feature(f"{view.name}__{name}", kind, at, view.key, view.policy.defaults.get(name))
            for at, view in enumerate(plan.views)
            for name, kind in view.features.items()
        ]
        self._numeric = [at for at, feature in enumerate(self._features) if feature.kind in NUMBERS]
        self._other = [at for at, feature in enumerate(self._features) if feature.kind not in NUMBERS]
        # Feature by feature of the same type, so that each type is decoded at once.
        self._numeric.sort(key=lambda at: self._features[at].kind)
        ordered = [self._features[at] for at in self._numeric]
        self._key_of = np.array([feature.key for feature in ordered], dtype=np.intp)
        self._view_of = np.array([feature.view for feature in ordered], dtype=np.intp)
        self._belongs = (np.arange(len(plan.views))[:, None] == self._view_of).astype(np.float32)
        defaults = [np.nan if feature.default is None else feature.default for feature in ordered]
        self._fill = np.array(defaults, dtype=np.float32)[:, None]
        self._view_keys = np.array([view.key for view in plan.views], dtype=np.intp)
        ttls = [_FOREVER if v.policy.ttl is None else v.policy.ttl // _MICROSECOND for v in plan.views]
        self._names = np.array(STATUSES)
        self._ttl = np.array(ttls, dtype=np.int64)[:, None]
        shown = [feature for feature in self._features if plan.views[feature.view].shown]
        self.kinds = {each.name: "number" if each.kind in NUMBERS else "object" for each in shown} | {
            name: "number" if kind in NUMBERS else "object" for name, kind in plan.on_demand.items()
        }

    def read(self, entities: Mapping[str, Sequence[Any]]) -> Vectors:
        """Reads the features of some rows.

        Args:
            entities: Join keys and request data by name, a value for each row: str, int, as `keys` says.

        Raises:
            ConfigError: A join key is absent, null or not of its type.
            OnlineStoreError: The store does not answer.
            FeatureStoreError: The store holds something else than was registered when the reader was opened.
        """
        import numpy as np

        rows = self._rows(entities)
        now = self._clock()
        distinct, places = [], []
        for key in self._plan.keys:
            unique, place = _distinct(key, entities, rows)
            distinct.append(unique)
            places.append(place)
        fetched = self._source.fetch(Asked(distinct, places, entities, now))
        place_of = np.array(places, dtype=np.intp).reshape(len(places), rows)
        sizes = np.array([len(unique) for unique in distinct], dtype=np.intp)
        known = _spread(np.concatenate(fetched.known_at), sizes[self._view_keys], place_of[self._view_keys])
        numeric = _spread(self._decoded(fetched), sizes[self._key_of], place_of[self._key_of])
        other = {at: self._objects(at, fetched.values[at])[place_of[self._features[at].key]] for at in self._other}
        codes = self._codes(known, numeric, other, now)
        return self._vectors(codes, known, numeric, other, fetched.computed)

    def unavailable(self, rows: int) -> Vectors:
        """What is left where the store is not to be asked: each view's policy decides, as if it had no value."""
        import numpy as np

        shape = (len(self._plan.views), rows)
        numeric = np.full((len(self._numeric), rows), np.nan, dtype=np.float32)
        other = {at: np.full(rows, None, dtype=object) for at in self._other}
        codes = np.full(shape, STATUSES.index(UNAVAILABLE), dtype=np.int8)
        computed = {name: [None] * rows for name in self._plan.on_demand}
        return self._vectors(codes, np.full(shape, NEVER, dtype=np.int64), numeric, other, computed)

    def close(self) -> None:
        """Gives the connections back."""
        self._source.close()

    def _rows(self, entities: Mapping[str, Sequence[Any]]) -> int:
        wanted = [*self.keys, *self.request_data]
        absent = [name for name in wanted if name not in entities]
        lengths = {len(entities[name]) for name in wanted if name in entities} or set(map(len, entities.values()))
        if absent or len(lengths) != 1:
            got = f"no {', '.join(absent)}" if absent else f"columns of {sorted(lengths)} rows"
            raise ConfigError(
                f"entities of feature service {self._plan.service}: {got}", allowed=f"{', '.join(wanted)}, in each row"
            )
        return lengths.pop()

    def _decoded(self, fetched: Fetched) -> "np.ndarray":
        """All numbers of a read, one feature after the other."""
        import numpy as np

        flat: dict[str, list[bytes | None]] = {}
        for at in self._numeric:
            flat.setdefault(self._features[at].kind, []).extend(fetched.values[at])
        try:
            parts = [numbers(kind, values) for kind, values in flat.items()]
        except FeatureStoreError:
            for at in self._numeric:  # which one it is
                self._named(at, numbers, fetched.values[at])
            raise
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _objects(self, at: int, values: "Sequence[bytes | None]") -> "np.ndarray":
        return self._named(at, objects, values)

    def _named(self, at: int, decode: Any, values: "Sequence[bytes | None]") -> "np.ndarray":
        feature = self._features[at]
        try:
            decoded: np.ndarray = decode(feature.kind, values)
        except FeatureStoreError as error:
            raise FeatureStoreError(
                f"{feature.name}: {error.got}",
                allowed=f"{feature.kind}, as registered when the reader was opened",
                remedy="Where the feature has changed, materialize its view again and restart what reads it",
            ) from None
        return decoded

    def _codes(
        self, known: "np.ndarray", numeric: "np.ndarray", other: "Mapping[int, np.ndarray]", now: datetime
    ) -> "np.ndarray":
        """The status of each view in each row, by position in `STATUSES`."""
        import numpy as np

        valued = self._belongs @ (~np.isnan(numeric)).astype(np.float32) > 0
        for at, column in other.items():
            valued[self._features[at].view] |= column != None  # noqa: E711 - element by element
        moment = (now - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
        stale = moment - known > self._ttl  # as in training, what is exactly as old as the TTL holds
        codes: np.ndarray = np.where(valued & (known != NEVER), stale, STATUSES.index(MISSING)).astype(np.int8)
        return codes

    def _vectors(
        self,
        codes: "np.ndarray",
        known: "np.ndarray",
        numeric: "np.ndarray",
        other: "dict[int, np.ndarray]",
        computed: Mapping[str, list[Any]],
    ) -> Vectors:
        import numpy as np

        views, bad = self._plan.views, codes != 0
        if bad.any():
            numeric = np.where(bad[self._view_of], self._fill, numeric)
            for at in other:
                feature = self._features[at]
                other[at] = np.where(bad[feature.view], feature.default, other[at])
        found = {self._features[at].name: column for at, column in zip(self._numeric, numeric, strict=True)}
        found |= {self._features[at].name: column for at, column in other.items()}
        for name, values in computed.items():
            found[name] = np.array(values, dtype=np.float32 if self.kinds[name] == "number" else object)
        names, times = self._names[codes], known.view("M8[us]")
        refuse = [at for at, view in enumerate(views) if view.policy.on_missing == "refuse"]
        return Vectors(
            columns={name: found[name] for name in self.kinds},
            status={view.name: names[at] for at, view in enumerate(views)},
            known_at={view.name: times[at] for at, view in enumerate(views)},
            refused={views[at].name: bad[at] for at in refuse if bad[at].any()},
        )


@dataclass(frozen=True)
class _Feature:
    name: str
    kind: str
    view: int
    key: int
    default: Any


def _distinct(key: Key, entities: Mapping[str, Sequence[Any]], rows: int) -> tuple[list[bytes], list[int]]:
    """The distinct keys of some rows, serialized, and which of them each row has."""
    columns = [[""] * rows if column is None else entities[column] for column in key.columns]
    seen: dict[tuple[Any, ...], int] = {}
    try:
        place = [seen.setdefault(values, len(seen)) for values in zip(*columns, strict=True)]
    except TypeError:  # what cannot be hashed is no key
        entity_keys(key.join_keys, key.dtypes, columns)
        raise
    unique = list(zip(*seen, strict=True)) or [()] * len(columns)
    return entity_keys(key.join_keys, key.dtypes, unique), place


def _spread(flat: "np.ndarray", sizes: "np.ndarray", place_of: "np.ndarray") -> "np.ndarray":
    """From values of distinct keys, `sizes[i]` for the i-th column, to values of rows [columns, rows]."""
    import numpy as np

    starts = np.cumsum(sizes) - sizes
    spread: np.ndarray = flat[starts[:, None] + place_of]
    return spread
