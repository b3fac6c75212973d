"""The data contract: what a table promises, read strictly from YAML.

    description: Departures, one row each
    columns:
      origin: {type: string, allowed: [EWR, JFK, LGA]}
      distance: {type: int64, min: 1, max: 20000, description: "statute miles"}
      tailnum: {type: string, nullable: true, pattern: "N[0-9A-Z]+"}
      departed: {type: timestamp}            # an instant; without a zone it is taken for UTC
    unique: [[origin, departed]]             # or `unique: true` on a column
    checks:
      - name: lands_after_start
        sql: arrived > departed              # over typed columns; a NULL result breaks nothing
        message: arrived is not after departed
    rows: {min: 1000, max: 1000000}          # rows received
    freshness: {column: departed, max_age: 36h}
    undeclared: forbid                       # columns not declared here: forbid, keep or drop
    max_reject_share: 0.01                   # of the rows received; beyond it the pipeline stops

Values are missing only where `nullable: true`. A float64 must be finite.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

# Contract type → DuckDB type.
TYPES = {
    "bool": "BOOLEAN",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "date": "DATE",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
}
ORDERED = ("int64", "float64", "date", "timestamp")
UNDECLARED = ("forbid", "keep", "drop")

Value = bool | int | float | str | date | datetime


@dataclass(frozen=True)
class Column:
    """What one column promises.

    Attributes:
        name: Its name in the data.
        type: A key of `TYPES`; valid rows have exactly this type.
        nullable: Whether values may be missing.
        min: The smallest value allowed, of the column's type.
        max: The largest value allowed.
        allowed: All values allowed; empty means any.
        pattern: A regular expression (RE2) that the whole text must match.
        unique: Whether no value may stand twice.
        description: For people, with the unit.
    """

    name: str
    type: str
    nullable: bool = False
    min: Value | None = None
    max: Value | None = None
    allowed: tuple[Value, ...] = ()
    pattern: str = ""
    unique: bool = False
    description: str = ""


@dataclass(frozen=True)
class Check:
    """A promise about several columns of one row.

    Attributes:
        name: Its short name, unique in the contract.
        sql: A boolean SQL expression over the typed columns; false breaks it, NULL does not.
        message: What is wrong with a row that breaks it.
    """

    name: str
    sql: str
    message: str


@dataclass(frozen=True)
class Freshness:
    """How old the newest row may be.

    Attributes:
        column: A date or timestamp column.
        max_age: Greatest distance to the time of the run.
    """

    column: str
    max_age: timedelta


@dataclass(frozen=True)
class Contract:
    """What a table promises.

    Attributes:
        uri: Where it was read from.
        columns: Its columns, in the order of the output.
        unique: Keys: tuples of columns whose values together may not repeat. Rows with a missing part are not compared.
        checks: Promises about several columns.
        min_rows: Fewest rows to be received.
        max_rows: Most rows to be received; None means any number.
        freshness: How old the newest valid row may be; None means any age.
        undeclared: What happens to further columns: `forbid`, `keep` or `drop`.
        max_reject_share: Share of rows that may be rejected, 0 to 1.
        description: For people.
    """

    uri: str
    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    checks: tuple[Check, ...] = ()
    min_rows: int = 1
    max_rows: int | None = None
    freshness: Freshness | None = None
    undeclared: str = "forbid"
    max_reject_share: float = 0.0
    description: str = field(default="")
