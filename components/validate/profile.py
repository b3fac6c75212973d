"""What the values of each column look like, counted in one streamed pass after another."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.duck import literal, quoted

if TYPE_CHECKING:
    import duckdb

BARS = 40  # of a histogram
TOP = 10  # values of a text column
_HUGE = 8e307  # so that the width of a range can be computed
_FINE = 200  # bins in which the tails are found
FEW = 1000  # different values up to which they are counted exactly
_TAIL = 0.001  # the share of values that may lie beyond either end of a histogram
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
_NUMBERS = {*_WHOLE, "FLOAT", "DOUBLE", "DECIMAL"}
_TIMES = {"DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of equal width.

    Attributes:
        edges: The bins' borders, one more than counts; seconds since 1970 for times.
        counts: Values in each bin.
        beyond: Values outside of all bins: tails too thin and long to be drawn.
        is_time: Whether the edges are times.
    """

    edges: list[float]
    counts: list[int]
    beyond: int
    is_time: bool


@dataclass(frozen=True)
class Profile:
    """One column.

    Attributes:
        name: Its name.
        type: Its DuckDB type.
        rows: Number of rows.
        missing: Rows without a value.
        distinct: How many different values; about, where there are many.
        minimum: The smallest value.
        maximum: The largest value.
        mean: The mean of a number.
        shape: How the values are distributed: a histogram, or the most frequent values with their counts.
    """

    name: str
    type: str
    rows: int
    missing: int
    distinct: int
    minimum: object
    maximum: object
    mean: float | None
    shape: "Histogram | list[tuple[str, int]] | None"


def profile(connection: "duckdb.DuckDBPyConnection", path: Path, drawn: int, listed: int) -> list[Profile]:
    """Profiles the columns of a Parquet file.

    Args:
        connection: Where to compute.
        path: The file.
        drawn: How many columns get a distribution.
        listed: How many columns are looked at.
    """
    relation = f"read_parquet({literal(path)}, hive_partitioning = false)"
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    types = {str(name): str(kind) for name, kind, *_ in described[:listed]}
    queries = [part for name, kind in types.items() for part in _summary(quoted(name), kind)]
    row = list(connection.execute(f"SELECT {', '.join(['count(*)', *queries])} FROM {relation}").fetchone() or [])
    rows, profiles = int(row[0]), []
    estimates = dict(zip(types, row[2::5], strict=True))
    exact = _exact_counts(connection, relation, [name for name, estimate in estimates.items() if estimate <= FEW])
    for number, (name, kind) in enumerate(types.items()):
        count, estimate, low, high, mean = row[1 + 5 * number : 6 + 5 * number]
        shape = _shape(connection, relation, quoted(name), kind, int(count)) if number < drawn and count else None
        profiles.append(
            Profile(name, kind, rows, rows - int(count), exact.get(name, int(estimate)), low, high, mean, shape)
        )
    return profiles


def _exact_counts(connection: "duckdb.DuckDBPyConnection", relation: str, names: list[str]) -> dict[str, int]:
    counts = [f"count(DISTINCT {quoted(name)})" for name in names]
    row = connection.execute(f"SELECT {', '.join(['count(*)', *counts])} FROM {relation}").fetchone() or ()
    return {name: int(count) for name, count in zip(names, row[1:], strict=True)}


def _summary(column: str, kind: str) -> list[str]:
    bounds, mean = ["NULL", "NULL"], "NULL"
    if _family(kind) in _NUMBERS:
        bounds, mean = [f"min({column})::DOUBLE", f"max({column})::DOUBLE"], f"avg({column})::DOUBLE"
    elif _family(kind) in {*_TIMES, "VARCHAR", "BOOLEAN"}:
        bounds = [f"min({column})::VARCHAR", f"max({column})::VARCHAR"]
    return [f"count({column})", f"approx_count_distinct({column})", *bounds, mean]


def _shape(
    connection: "duckdb.DuckDBPyConnection", relation: str, column: str, kind: str, count: int
) -> "Histogram | list[tuple[str, int]]":
    if _family(kind) in _TIMES:
        return _histogram(connection, relation, f"epoch({column})", count, whole=False, is_time=True)
    if _family(kind) in _NUMBERS:
        whole = _family(kind) in _WHOLE
        return _histogram(connection, relation, f"{column}::DOUBLE", count, whole=whole, is_time=False)
    top = connection.execute(
        f"SELECT {column}::VARCHAR AS value, count(*) AS n FROM {relation} WHERE {column} IS NOT NULL "
        f"GROUP BY value ORDER BY n DESC, value LIMIT {TOP}"
    ).fetchall()
    return [(str(value), int(n)) for value, n in top]


def _family(kind: str) -> str:
    """`DECIMAL` for `DECIMAL(18,3)`; a list such as `BIGINT[]` stays what it is."""
    return kind.partition("(")[0]


@dataclass(frozen=True)
class _Bins:
    low: float
    width: float
    number: int

    @property
    def edges(self) -> list[float]:
        return [self.low + self.width * index for index in range(self.number + 1)]


def _histogram(
    connection: "duckdb.DuckDBPyConnection", relation: str, value: str, count: int, *, whole: bool, is_time: bool
) -> Histogram:
    low, high = _central_range(connection, relation, value, count)
    if whole:
        low, high = low // 1 - 0.5, high // 1 + 0.5  # a bar stands over its whole number
        width = math.ceil((high - low) / BARS)  # of whole numbers: a fraction would draw a comb
        bins = _Bins(low, width, math.ceil((high - low) / width))
    else:
        bins = _Bins(low, ((high - low) or 1.0) / BARS, BARS)
    counts = _counts(connection, relation, value, bins)
    return Histogram(bins.edges, counts, count - sum(counts), is_time)


def _central_range(
    connection: "duckdb.DuckDBPyConnection", relation: str, value: str, count: int
) -> tuple[float, float]:
    """The range without its thin tails. Exact quantiles would hold all values in memory; repeated zooming does not."""
    row = connection.execute(f"SELECT min({value}), max({value}) FROM {relation} WHERE isfinite({value})").fetchone()
    low, high = row if row and row[0] is not None else (0.0, 1.0)
    low, high = max(low, -_HUGE), min(high, _HUGE)
    for _ in range(6):
        bins = _Bins(low, (high - low) / _FINE, _FINE)
        if not bins.width or low + bins.width == low:
            break
        counts = _counts(connection, relation, value, bins)
        first, last = _cut(counts, _TAIL * count), _FINE - _cut(counts[::-1], _TAIL * count)
        low, high = low + first * bins.width, min(high, low + last * bins.width)
        if last - first >= _FINE / 2:
            break
    return low, high


def _cut(counts: list[int], tail: float) -> int:
    """How many bins at the beginning hold no more than `tail` values together."""
    total = 0
    for index, count in enumerate(counts):
        total += count
        if total > tail:
            return index
    return 0


def _counts(connection: "duckdb.DuckDBPyConnection", relation: str, value: str, bins: _Bins) -> list[int]:
    found = connection.execute(
        f"SELECT least(floor((value - {bins.low!r}) / {bins.width!r}), {bins.number - 1})::INTEGER AS bin, count(*) "
        f"FROM (SELECT {value} AS value FROM {relation}) "
        f"WHERE value >= {bins.low!r} AND value <= {bins.edges[-1]!r} GROUP BY bin"
    ).fetchall()
    counts = [0] * bins.number
    for index, number in found:
        counts[int(index)] += int(number)
    return counts
