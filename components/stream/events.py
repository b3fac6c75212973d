"""Events: rows of a source table as they come, checked and typed by the table's contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from fti.common.duck import literal, quoted
from fti.common.errors import ContractError, SourceError
from fti.validate.conditions import reasons_sql, row_rules
from fti.validate.contract import TYPES, Column, Contract
from fti.validate.rules import unique_keys

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Event = Mapping[str, Any]

_NAME = "fti:events"
_EVENTS = quoted(_NAME)


@dataclass(frozen=True)
class Rejected:
    """An event that breaks its contract.

    Attributes:
        event: Its position in the push.
        reasons: What is wrong with it, in words.
    """

    event: int
    reasons: tuple[str, ...]


def typed(contract: Contract, events: Sequence[Event]) -> "pa.Table":
    """Events as a table with the contract's types.

    A column that is not given is null. A whole number may come as 5.0, a time as ISO 8601 text, without a zone in UTC.

    Raises:
        SourceError: A field is unknown, or a value is of another type than its column. Names event and field.
    """
    import pyarrow as pa

    names = {column.name for column in contract.columns}
    for place, event in enumerate(events):
        if not isinstance(event, Mapping):
            raise SourceError(f"events[{place}] is {_said(event)}", allowed="an object of columns")
        for field in event.keys() - names:
            raise SourceError(f"events[{place}].{field} is an unknown field", allowed=", ".join(sorted(names)))
    return pa.table({column.name: _column(column, events) for column in contract.columns})


def key_of(contract: Contract) -> tuple[str, ...]:
    """The primary key by which a pushed row replaces an earlier one.

    Raises:
        ContractError: The contract cannot say what a pushed row replaces, or leaves columns open.
    """
    keys = unique_keys(contract)
    if len(keys) != 1 or contract.undeclared == "keep":
        raise ContractError(
            f"{contract.uri} has {len(keys)} unique keys and undeclared columns: {contract.undeclared}",
            allowed="for a table to push to: one unique key, by which a row replaces an earlier one, and no keep",
            remedy="Correct the contract",
        )
    return keys[0]


class Judge:
    """Splits events by a contract.

    Args:
        connection: Makes scratch tables.
        contract: What each row must be.
        time: The column that holds a row's time, or "".

    Attributes:
        key: The columns by which a row replaces an earlier one.

    Raises:
        ContractError: A rule of the contract is no valid SQL, or there is no one key.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection", contract: Contract, time: str) -> None:
        self._connection, self._uri, self._time = connection, contract.uri, time
        self.key = key_of(contract)
        names = [column.name for column in contract.columns]
        columns = ", ".join(f"{quoted(column.name)} {TYPES[column.type]}" for column in contract.columns)
        connection.execute(f"CREATE TEMP TABLE {_EVENTS} ({columns})")
        rules = row_rules(connection, contract, _EVENTS, {}, names)
        connection.execute(f"DROP TABLE {_EVENTS}")
        optional = [column.name for column in contract.columns if column.nullable and column.name in self.key]
        needed = {f"{quoted(name)} IS NULL": f"{name} is missing, a part of the key" for name in optional}
        self._texts = {f"({rule.broken})": rule.text for rule in rules} | needed

    def split(self, events: "pa.Table", oldest: datetime | None) -> "tuple[pa.Table, tuple[Rejected, ...]]":
        """The rows that keep the contract, of each key the last, and what is wrong with the others.

        Args:
            events: What `typed` gave.
            oldest: The time before which a row comes too late; None for never.

        Raises:
            ContractError: A check fails on a row.
        """
        import polars as pl

        texts = dict(self._texts)
        if oldest and self._time:
            too_late = f"{quoted(self._time)} < TIMESTAMPTZ {literal(oldest.isoformat())}"
            texts[too_late] = f"{self._time} lies before {oldest:%Y-%m-%d %H:%M:%S} UTC, too late for the stream"
        found = self._judged(events, texts)
        rejected = tuple(Rejected(place, tuple(reasons)) for place, (reasons,) in enumerate(found) if reasons)
        kept = pl.Series([not reasons for (reasons,) in found], dtype=pl.Boolean)
        rows = pl.DataFrame(pl.from_arrow(events)).filter(kept)
        last = rows.unique(self.key, keep="last", maintain_order=True)
        return last.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(events.schema), rejected

    def _judged(self, events: "pa.Table", texts: Mapping[str, str]) -> list[tuple[list[str]]]:
        """What is wrong with each event."""
        import duckdb

        self._connection.register(_NAME, events)
        try:
            return list(self._connection.execute(f"SELECT {reasons_sql(texts)} FROM {_EVENTS}").fetchall())
        except duckdb.Error as error:
            raise ContractError(
                f"{self._uri}: a check fails on the data: {str(error).splitlines()[0]}",
                remedy="Guard it, for instance with TRY_CAST",
            ) from error
        finally:
            self._connection.unregister(_NAME)


def _column(column: Column, events: Sequence[Event]) -> "pa.Array":
    import pyarrow as pa

    kinds = {
        "bool": pa.bool_(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    convert = _CONVERT[column.type]
    values = []
    for place, event in enumerate(events):
        value = event.get(column.name)
        try:
            values.append(None if value is None else convert(value))
        except (ValueError, TypeError, OverflowError):
            raise SourceError(
                f"events[{place}].{column.name} is {_said(value)}", allowed=f"a value of type {column.type}, or null"
            ) from None
    return pa.array(values, kinds[column.type])


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise TypeError
    if not -(2**63) <= value < 2**63:
        raise OverflowError
    return int(value)


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # half a surrogate pair is no text
    return value


def _date(value: object) -> date:
    if isinstance(value, datetime) or not isinstance(value, date | str):
        raise TypeError
    return date.fromisoformat(value) if isinstance(value, str) else value


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime | str):
        raise TypeError
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)


_CONVERT: dict[str, Callable[[object], Any]] = {
    "bool": _bool,
    "int64": _int,
    "float64": _float,
    "string": _text,
    "date": _date,
    "timestamp": _instant,
}


def _said(value: object) -> str:
    kinds = {str: "the text", bool: "the boolean", int: "the number", float: "the number"}
    if type(value) in kinds:
        return f"{kinds[type(value)]} {value!r:.60}"
    return "null" if value is None else f"a {type(value).__name__}"
