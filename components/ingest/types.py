"""Which type a column of text has: the narrowest one that every single value has, without losing a character."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fti.common.duck import literal, quoted

if TYPE_CHECKING:
    import duckdb

TEXT = "VARCHAR"
TIMES = ("DATE", "TIMESTAMP", "TIMESTAMPTZ")
_HEAD = 10_000  # rows
_DAY = r"\d{4}-\d{2}-\d{2}"
_TIME = r"[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?"
# A leading zero makes an identifier, not a number: 00123 must not become 123.
_WHOLE = "-?(0|[1-9][0-9]*)"

# In order of preference. Digits too many for a BIGINT remain text: a DOUBLE would round them.
CANDIDATES = {
    "BOOLEAN": "(?i:true|false)",
    "BIGINT": _WHOLE,
    "DOUBLE": rf"{_WHOLE}|-?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?|{_WHOLE}(\.|[eE][-+]?[0-9]+)",
    "DATE": _DAY,
    "TIMESTAMP": _DAY + _TIME,
    "TIMESTAMPTZ": _DAY + _TIME + r" ?(Z|[+-]\d{2}(:?\d{2})?)",
}


def sniff(
    connection: "duckdb.DuckDBPyConnection",
    relation: str,
    columns: Sequence[str],
    kinds: Sequence[str] = tuple(CANDIDATES),
) -> dict[str, str]:
    """Finds the type of each column of a relation of text, over all of its rows in one streamed pass.

    Types that guess (day-first dates, `1,5`, `yes`) are not among the candidates: such columns stay text, for the
    contract or a transform to decide.

    Args:
        connection: Where to compute.
        relation: What to select from.
        columns: Its columns of text.
        kinds: The candidates, the preferred one first.

    Returns:
        Column → DuckDB type.
    """
    candidates = [(column, kind) for column in columns for kind in kinds]
    # The first rows rule out most candidates, so that the whole pass has little left to try.
    head = _fitting(connection, f"(FROM {relation} LIMIT {_HEAD})", candidates)
    likely = [pair for pair in candidates if head[pair] is not False]
    fitting = _fitting(connection, relation, likely)
    return {c: next((kind for kind in kinds if fitting.get((c, kind))), TEXT) for c in columns}


def _fitting(
    connection: "duckdb.DuckDBPyConnection", relation: str, candidates: list[tuple[str, str]]
) -> dict[tuple[str, str], bool | None]:
    """Whether all values of a column fit a type; None where it has none. Every row is read even without candidates."""
    tests = ["count(*)", *(_fits(column, kind) for column, kind in candidates)]
    answers = connection.execute(f"SELECT {', '.join(tests)} FROM {relation}").fetchone() or ()
    return dict(zip(candidates, answers[1:], strict=True))


def _fits(column: str, kind: str) -> str:
    name = quoted(column)
    castable = f"TRY_CAST({name} AS {kind}) IS NOT NULL"
    if kind == "DOUBLE":
        too_long = f"regexp_full_match({name}, {literal(_WHOLE)}) AND TRY_CAST({name} AS BIGINT) IS NULL"
        castable += f" AND NOT ({too_long})"
    matches = f"regexp_full_match({name}, {literal(CANDIDATES[kind])})"
    return f"bool_and(CASE WHEN {matches} THEN {castable} ELSE false END) FILTER (WHERE {name} IS NOT NULL)"
