"""What a read gives: the features of some rows, and how well they are known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FRESH, STALE, MISSING, UNAVAILABLE = "fresh", "stale", "missing", "unavailable"
STATUSES = (FRESH, STALE, MISSING, UNAVAILABLE)


@dataclass(frozen=True)
class Names:
    """What the rows of the matrices of `Vectors` are called.

    Attributes:
        numbers: The stored features that are numbers, `<view>__<feature>`.
        views: The feature views.
        columns: All features that the service selects, in order.
    """

    numbers: tuple[str, ...]
    views: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Vectors:
    """The features of N rows, after each view's policy.

    Attributes:
        names: Of what follows.
        numbers: Float32 [features, N]: `names.numbers`, NaN where there is none.
        others: All other features by name, [N]: object with None, or float32 for numbers that on-demand views compute.
        codes: Int8 [views, N]: the status of each view in each row, by position in `STATUSES`: `fresh`, `stale` (past
            its TTL), `missing` (no row, or nothing but nulls) or `unavailable` (the store was not asked).
        times: Int64 [views, N]: microseconds since 1970, the event time of the stored values; NaT as int64 where there
            are none.
        refused: View whose policy is `refuse` -> bool [N]: the rows that must not be used. Only views with such rows.
    """

    names: Names
    numbers: "np.ndarray"
    others: "Mapping[str, np.ndarray]"
    codes: "np.ndarray"
    times: "np.ndarray"
    refused: "Mapping[str, np.ndarray]" = field(default_factory=dict)

    @cached_property
    def columns(self) -> "dict[str, np.ndarray]":
        """`<view>__<feature>` -> [N]: float32 with NaN, or object with None."""
        found = {**dict(zip(self.names.numbers, self.numbers, strict=True)), **self.others}
        return {name: found[name] for name in self.names.columns}

    @cached_property
    def status(self) -> "dict[str, np.ndarray]":
        """View -> [N] of `fresh`, `stale`, `missing`, `unavailable`."""
        import numpy as np

        return dict(zip(self.names.views, np.array(STATUSES)[self.codes], strict=True))

    @cached_property
    def known_at(self) -> "dict[str, np.ndarray]":
        """View -> datetime64[us] [N], UTC: the event time of the stored values; NaT where there are none."""
        return dict(zip(self.names.views, self.times.view("M8[us]"), strict=True))
