"""The metric by slice: where the model is worse than on the whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from fti.evaluate.compare import Interval, estimate

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_LARGEST = 12  # slices of a column, by rows
_FIFTHS = 5
_MISSING = "missing"


@dataclass(frozen=True)
class Slice:
    """Rows that share a value.

    Attributes:
        column: By which.
        value: The value, or the range of values.
        rows: How many.
        metric: None where the rows do not define it (one class only).
    """

    column: str
    value: str
    rows: int
    metric: Interval | None


def slices_of(
    frame: "pl.DataFrame", columns: Sequence[str], metric: str, target: "np.ndarray", scores: "np.ndarray"
) -> list[Slice]:
    """Cuts rows by each column: by value, or by fifths where a number takes many values; the largest slices first."""
    found = []
    for column in columns:
        keys, order = _keys(frame[column])
        for value in _largest(keys, order):
            chosen = (keys == value).to_numpy()
            found.append(Slice(column, value, int(chosen.sum()), _estimate(metric, target[chosen], scores[chosen])))
    return found


def _keys(column: "pl.Series") -> "tuple[pl.Series, list[str]]":
    """What each row is grouped by, and the order of the groups where they are ranges."""
    import polars as pl

    if not column.dtype.is_numeric() or column.n_unique() <= _LARGEST:
        return column.cast(pl.String).fill_null(_MISSING), []
    numbers = column.cast(pl.Float64).fill_nan(None)
    quantiles = (numbers.quantile(part / _FIFTHS) for part in range(1, _FIFTHS))
    edges = sorted({edge for edge in quantiles if edge is not None})
    bounds = [f"{edge:.4g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(bounds)]
    names = list(dict.fromkeys([f"up to {bounds[0]}", *between, f"above {bounds[-1]}"]))
    if len(names) <= len(edges):  # bounds that look alike
        names = [f"fifth {number}" for number in range(1, len(edges) + 2)]
    return numbers.cut(edges, labels=names).cast(pl.String).fill_null(_MISSING), [*names, _MISSING]


def _largest(keys: "pl.Series", order: Sequence[str]) -> list[str]:
    counts = sorted(keys.value_counts().iter_rows(), key=lambda item: (-item[1], item[0]))
    chosen = [str(value) for value, _ in counts[:_LARGEST]]
    return sorted(chosen, key=order.index) if order else sorted(chosen, key=_natural)


def _natural(value: str) -> tuple[float, str]:
    """Numbers in their order, then text."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _estimate(metric: str, target: "np.ndarray", scores: "np.ndarray") -> Interval | None:
    if len(target) < 2 or (metric == "roc_auc" and not 0 < target.sum() < len(target)):
        return None
    return estimate(metric, target, scores)
