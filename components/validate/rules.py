"""A contract as rules: SQL conditions over one row, each with a name and a sentence."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime

from fti.common.duck import literal, quoted
from fti.validate.contract import TYPES, Check, Column, Contract, Value

RAW = "fti:raw:"  # the prefix of a column as it came, where it had to be cast
ROW = "fti:row"  # the position in the input


@dataclass(frozen=True)
class Rule:
    """A rule that a row may break.

    Attributes:
        name: `column.kind` or the name of a check; unique in a contract.
        text: What is wrong with a row that breaks it.
        columns: The columns it is about.
        broken: SQL that is true for rows that break it, over the view of typed columns.
    """

    name: str
    text: str
    columns: tuple[str, ...]
    broken: str


def cast(name: str, source: str, kind: str) -> str:
    """SQL that gives a column in its contract's type, or NULL where that would lose something.

    Args:
        name: SQL of the column.
        source: Its DuckDB type in the data.
        kind: Its type in the contract.
    """
    target = TYPES[kind]
    plain = f"TRY_CAST({name} AS {target})"
    if source == target:
        return name
    if kind == "int64" and source == "VARCHAR":
        return f"CASE WHEN regexp_full_match({name}, '\\s*[+-]?[0-9]+\\s*') THEN {plain} END"
    if kind == "date" and source == "VARCHAR":
        return f"CASE WHEN length(trim({name})) <= 10 THEN {plain} END"
    if source == "VARCHAR" or kind in {"string", "timestamp"} or (source in {"FLOAT", "DOUBLE"} and kind == "float64"):
        return plain
    # Between numbers, times and truths a cast is lossless when the way back gives the same value.
    return f"CASE WHEN TRY_CAST({plain} AS {source}) = {name} THEN {plain} END"


def column_rules(contract: Contract, casts: Mapping[str, str]) -> Iterator[Rule]:
    """The rules of single columns; `casts` maps those that had to be cast to the type they came in."""
    for column in contract.columns:
        name = quoted(column.name)
        present = quoted(RAW + column.name) if column.name in casts else name
        if column.name in casts:
            text = f"{column.name} is no {column.type}"
            yield Rule(f"{column.name}.type", text, (column.name,), f"{present} IS NOT NULL AND {name} IS NULL")
        if not column.nullable:
            yield Rule(f"{column.name}.missing", f"{column.name} is missing", (column.name,), f"{present} IS NULL")
        for kind, text, broken in _value_rules(column, name):
            yield Rule(f"{column.name}.{kind}", f"{column.name} {text}", (column.name,), broken)


def _value_rules(column: Column, name: str) -> Iterator[tuple[str, str, str]]:
    if column.type == "float64":
        yield "finite", "is not a finite number", f"NOT isfinite({name})"
    if column.min is not None:
        yield "min", f"is below {_said(column.min)}", f"{name} < {_sql(column.min)}"
    if column.max is not None:
        finite = f"isfinite({name}) AND " if column.type == "float64" else ""
        yield "max", f"is above {_said(column.max)}", f"{finite}{name} > {_sql(column.max)}"
    if column.allowed:
        few = ", ".join(_said(value) for value in column.allowed[:8]) + (", …" if len(column.allowed) > 8 else "")
        values = ", ".join(_sql(value) for value in column.allowed)
        yield "allowed", f"is none of {few}", f"{name} NOT IN ({values})"
    if column.pattern:
        matches = f"regexp_full_match({name}, {literal(column.pattern)})"
        yield "pattern", f"does not match {column.pattern}", f"NOT {matches}"


def check_rule(check: Check, names: Iterable[str]) -> Rule:
    """The rule of a check; of `names`, the columns that its SQL mentions."""
    words = set(re.findall(r"\w+", check.sql))
    # The line break ends a comment with which the expression may close.
    return Rule(check.name, check.message, tuple(name for name in names if name in words), f"NOT ({check.sql}\n)")


def unique_keys(contract: Contract) -> list[tuple[str, ...]]:
    """All keys that must be unique: of single columns, then of the table."""
    single = [(column.name,) for column in contract.columns if column.unique]
    return list(dict.fromkeys([*single, *contract.unique]))


def _sql(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"CAST('{value!r}' AS DOUBLE)"
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat()}'"
    if isinstance(value, date):
        return f"DATE '{value.isoformat()}'"
    return literal(value)


def _said(value: Value) -> str:
    return value.isoformat() if isinstance(value, date) else str(value)
