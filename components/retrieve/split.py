"""Splitting rows into training, validation and test sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

METHODS = ("time", "random", "group")
DEFAULT_FRACTIONS = (0.7, 0.15, 0.15)
SETS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """How rows are split; checked when made.

    Attributes:
        method: `time`: older rows train, newer ones test. `random`: row by row. `group`: all rows of a group together.
        boundaries: For `time`: the first instants of validation and of test, ISO 8601, UTC where no zone is given.
        fractions: For `random` and `group`: shares of training, validation and test; default 0.7, 0.15, 0.15.
        group: For `group`: the column.
        seed: For `random` and `group`.
    """

    method: str = "time"
    boundaries: Sequence[str] = ()
    fractions: Sequence[float] = ()
    group: str = ""
    seed: int = 0
    instants: tuple[datetime, ...] = field(init=False)
    shares: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"split is {self.method!r}", allowed=", ".join(METHODS))
        unused = {"time": ("fractions", "group"), "random": ("boundaries", "group"), "group": ("boundaries",)}
        for name in unused[self.method]:
            if getattr(self, name):
                raise ConfigError(f"{name} means nothing to a split by {self.method}", remedy=f"Leave {name} out")
        if self.method == "group" and not self.group:
            raise ConfigError("a split by group names no group", allowed="a column of the entity table")
        object.__setattr__(self, "instants", _instants(self.boundaries) if self.method == "time" else ())
        object.__setattr__(self, "shares", _shares(self.fractions) if self.method != "time" else ())

    def assign(self, rows: "pl.DataFrame", time: str) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """The set of each row: 0 training, 1 validation, 2 test.

        Args:
            rows: With the column `time` (UTC) or the group's.
            time: The time of prediction.

        Raises:
            ConfigError: There is no column of the group's name.
        """
        import numpy as np
        import polars as pl

        if self.method == "time":
            first, second = (pl.lit(instant) for instant in self.instants)
            sets = (pl.col(time) >= first).cast(pl.Int64) + (pl.col(time) >= second).cast(pl.Int64)
            return np.asarray(rows.select(sets).to_series().to_numpy(), dtype=np.int64)
        generator = np.random.default_rng(int(self.seed))
        if self.method == "random":
            return self._by_share(np.ones(len(rows), dtype=np.int64), generator)
        if self.group not in rows.columns:
            raise ConfigError(f"there is no column {self.group!r} to group by", allowed=", ".join(rows.columns))
        groups = rows[self.group].cast(pl.String).fill_null("")
        names = groups.unique().sort()
        codes = names.search_sorted(groups).to_numpy()
        return np.asarray(self._by_share(np.bincount(codes, minlength=len(names)), generator)[codes])

    def _by_share(
        self, sizes: "np.ndarray[tuple[int], np.dtype[np.int64]]", generator: "np.random.Generator"
    ) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Assigns shuffled units to sets in turn, each by where its middle row falls."""
        import numpy as np

        order = generator.permutation(len(sizes))
        middle = np.cumsum(sizes[order]) - sizes[order] / 2
        assigned = np.empty(len(sizes), dtype=np.int64)
        assigned[order] = np.searchsorted(np.cumsum(self.shares[:-1]) * sizes.sum(), middle, side="right")
        return assigned


def _instants(boundaries: Sequence[str]) -> tuple[datetime, ...]:
    allowed = "two instants in order, such as 2013-10-01 and 2013-11-01: the first of validation and of test"
    if len(boundaries) != 2:
        raise ConfigError(f"boundaries holds {len(boundaries)} instants", allowed=allowed)
    try:
        instants = [datetime.fromisoformat(str(boundary)) for boundary in boundaries]
    except ValueError as error:
        raise ConfigError(f"boundaries is {list(boundaries)}", allowed=allowed) from error
    aware = tuple(instant if instant.tzinfo else instant.replace(tzinfo=UTC) for instant in instants)
    if any(earlier >= later for earlier, later in pairwise(aware)):
        raise ConfigError(f"boundaries is {list(boundaries)}, not in order", allowed=allowed)
    return aware


def _shares(fractions: Sequence[float]) -> tuple[float, ...]:
    allowed = "three shares of training, validation and test that sum to 1, such as 0.7, 0.15 and 0.15"
    if not fractions:
        return DEFAULT_FRACTIONS
    if (
        len(fractions) != len(SETS)
        or any(not isinstance(share, int | float) or not 0 <= share <= 1 for share in fractions)
        or abs(sum(fractions) - 1) > 1e-6
    ):
        raise ConfigError(f"fractions is {list(fractions)}", allowed=allowed)
    return tuple(float(share) for share in fractions)
