"""From what a store holds to feature vectors: values decoded in bulk, spread over the rows, and held to their policies.

All that depends on the plan alone is worked out once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from fti.common.errors import FeatureStoreError
from fti.common.online.plan import Plan
from fti.common.online.source import Asked, Fetched
from fti.common.online.values import NEVER, NUMBERS, numbers, objects
from fti.common.online.vectors import MISSING, STATUSES, UNAVAILABLE, Names, Vectors

if TYPE_CHECKING:
    import numpy as np

_FOREVER = 2**63 - 1  # microseconds
_MICROSECOND, _EPOCH = timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = STATUSES.index(MISSING)


@dataclass(frozen=True)
class _Feature:
    name: str
    kind: str
    view: int
    key: int
    default: Any


class Decoder:
    """Makes vectors of what was fetched for a plan.

    Args:
        plan: What is read.

    Attributes:
        kinds: The columns of the vectors, in order: `number` or `object`.
        names: As the vectors have them.
    """

    def __init__(self, plan: Plan) -> None:
        import numpy as np

        self._plan = plan
        self._features = [
            _Feature(f"{view.name}__{name}", kind, at, view.key, view.policy.defaults.get(name))
            for at, view in enumerate(plan.views)
            for name, kind in view.features.items()
        ]
        self._other = [at for at, feature in enumerate(self._features) if feature.kind not in NUMBERS]
        # Features of one type stand together, so that each type is decoded at once.
        numeric = [at for at, feature in enumerate(self._features) if feature.kind in NUMBERS]
        self._of_kind = {
            kind: [at for at in numeric if self._features[at].kind == kind]
            for kind in sorted({self._features[at].kind for at in numeric})
        }
        ordered = [self._features[at] for at in chain.from_iterable(self._of_kind.values())]
        self._key_of = np.array([feature.key for feature in ordered], dtype=np.intp)
        self._view_of = np.array([feature.view for feature in ordered], dtype=np.intp)
        self._belongs = (np.arange(len(plan.views))[:, None] == self._view_of).astype(np.float32)
        defaults = [np.nan if feature.default is None else feature.default for feature in ordered]
        self._fill = np.array(defaults, dtype=np.float32)[:, None]
        self._view_keys = np.array([view.key for view in plan.views], dtype=np.intp)
        ttls = [_FOREVER if v.policy.ttl is None else v.policy.ttl // _MICROSECOND for v in plan.views]
        self._ttl = np.array(ttls, dtype=np.int64)[:, None]
        self._refusing = [at for at, view in enumerate(plan.views) if view.policy.on_missing == "refuse"]
        shown = [feature for feature in self._features if plan.views[feature.view].shown]
        self.kinds = {each.name: "number" if each.kind in NUMBERS else "object" for each in shown} | {
            name: "number" if kind in NUMBERS else "object" for name, kind in plan.on_demand.items()
        }
        self.names = Names(
            tuple(feature.name for feature in ordered), tuple(view.name for view in plan.views), tuple(self.kinds)
        )
        self._all_have_numbers = bool(self._belongs.any(axis=1).all())

    def decoded(self, asked: Asked, fetched: Fetched) -> Vectors:
        """The vectors of the rows that were asked for.

        Raises:
            FeatureStoreError: A stored value is of another type than the plan says.
        """
        times = self._spread(fetched.known_at, asked, self._view_keys)
        found = self._spread(self._numbers(fetched), asked, self._key_of)
        other = {
            at: self._named(at, objects, fetched.values[at])[asked.places[self._features[at].key]] for at in self._other
        }
        return self._vectors(self._codes(times, found, other, asked.now), times, found, other, fetched.computed)

    def unavailable(self, rows: int) -> Vectors:
        """What is left where the store was not asked."""
        import numpy as np

        shape = (len(self._plan.views), rows)
        found = np.full((len(self._key_of), rows), np.nan, dtype=np.float32)
        other = {at: np.full(rows, None, dtype=object) for at in self._other}
        codes = np.full(shape, STATUSES.index(UNAVAILABLE), dtype=np.int8)
        computed = {name: [None] * rows for name in self._plan.on_demand}
        return self._vectors(codes, np.full(shape, NEVER, dtype=np.int64), found, other, computed)

    def _numbers(self, fetched: Fetched) -> "np.ndarray":
        """All numbers of a read, one feature after the other."""
        import numpy as np

        values = fetched.values
        try:
            parts = [
                numbers(kind, [*chain.from_iterable([values[at] for at in features])])
                for kind, features in self._of_kind.items()
            ]
        except FeatureStoreError:
            for at in chain.from_iterable(self._of_kind.values()):  # which one it is
                self._named(at, numbers, values[at])
            raise
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _named(
        self, at: int, decode: "Callable[[str, Sequence[bytes | None]], np.ndarray]", values: "Sequence[bytes | None]"
    ) -> "np.ndarray":
        feature = self._features[at]
        try:
            return decode(feature.kind, values)
        except FeatureStoreError as error:
            raise FeatureStoreError(
                f"{feature.name}: {error.got}",
                allowed=f"{feature.kind}, as registered when the reader was opened",
                remedy="Where the feature has changed, materialize its view again and restart what reads it",
            ) from None

    def _spread(self, flat: "np.ndarray", asked: Asked, keys: "np.ndarray") -> "np.ndarray":
        """From values of distinct keys, column after column, to values of rows [columns, rows].

        Args:
            flat: The values.
            asked: How many distinct keys there are of each kind, and which of them each row has.
            keys: Of which kind each column is.
        """
        import numpy as np

        if asked.rows == 1:
            return flat[:, None]
        sizes = np.array([len(distinct) for distinct in asked.keys], dtype=np.intp)[keys]
        places = np.array(asked.places, dtype=np.intp).reshape(len(asked.places), asked.rows)[keys]
        spread: np.ndarray = flat[(np.cumsum(sizes) - sizes)[:, None] + places]
        return spread

    def _codes(
        self, times: "np.ndarray", found: "np.ndarray", other: "Mapping[int, np.ndarray]", now: datetime
    ) -> "np.ndarray":
        """The status of each view in each row."""
        import numpy as np

        # As in training, what is exactly as old as the TTL holds.
        codes: np.ndarray = ((now - _EPOCH) // _MICROSECOND - times > self._ttl).astype(np.int8)
        holes = np.isnan(found)
        if not self._all_have_numbers or holes.any():
            valued = self._belongs @ (~holes).astype(np.float32) > 0
            for at, column in other.items():
                valued[self._features[at].view] |= column != None  # noqa: E711 - element by element
            codes[~valued] = _MISSING
        codes[times == NEVER] = _MISSING
        return codes

    def _vectors(
        self,
        codes: "np.ndarray",
        times: "np.ndarray",
        found: "np.ndarray",
        other: "dict[int, np.ndarray]",
        computed: Mapping[str, list[Any]],
    ) -> Vectors:
        """Replaces what does not hold, as each view's policy says."""
        import numpy as np

        refused = {}
        if codes.any():
            bad = codes != 0
            found = np.where(bad[self._view_of], self._fill, found)
            for at in other:
                feature = self._features[at]
                other[at] = np.where(bad[feature.view], feature.default, other[at])
            refused = {self._plan.views[at].name: bad[at] for at in self._refusing if bad[at].any()}
        others = {self._features[at].name: column for at, column in other.items()}
        for name, values in computed.items():
            others[name] = np.array(values, dtype=np.float32 if self.kinds[name] == "number" else object)
        return Vectors(self.names, found, others, codes, times, refused)
