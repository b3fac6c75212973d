"""What a stream must know of a repository's transforms beyond their SQL: the file `stream.yaml`.

    late: 3d                        # how far before now the time of a pushed row may lie
    tables:                         # those whose rows have a time; of all others every row counts
      flights: {time: time_hour, early: 2h}   # early: how long before its time a row may change a feature; default 0h
    helpers: {_movements: flights}  # helpers with one row for each row of a table, and all of its columns
    reach: {route_arrivals: 33d}    # how long after its time a row may change a feature table, or `forever`

Which tables a transform reads is taken from its SQL.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fti.common.errors import ConfigError
from fti.featurize.transforms import find_transforms, tables_read
from fti.validate.parsing import DURATION, duration

if TYPE_CHECKING:
    import duckdb

FILE, FOREVER = "stream.yaml", "forever"
_KEYS = {"late", "tables", "helpers", "reach"}


@dataclass(frozen=True)
class Timed:
    """A table whose rows have a time.

    Attributes:
        column: The column that holds it.
        early: How long before its time a row may change a feature.
    """

    column: str
    early: timedelta


@dataclass(frozen=True)
class Transform:
    """A feature table's SQL.

    Attributes:
        file: The SQL file.
        reads: The tables that it reads, by itself or through helpers.
        helpers: The helpers that it reads, by itself or through others.
        timed: Whether one of its tables has a time.
        reach: How long after its time a row may change the feature table; None is forever.
    """

    file: Path
    reads: frozenset[str]
    helpers: frozenset[str]
    timed: bool
    reach: timedelta | None


@dataclass(frozen=True)
class Helper:
    """A table for the transforms.

    Attributes:
        file: The SQL file.
        reads: The tables that it reads, by itself or through helpers.
        helpers: The helpers that it reads, by itself or through others.
        row_of: The table for each row of which it has one, with all columns; "" where it is computed whole.
    """

    file: Path
    reads: frozenset[str]
    helpers: frozenset[str]
    row_of: str


@dataclass(frozen=True)
class Plan:
    """How to bring feature tables up to date.

    Attributes:
        late: How far before now the time of a pushed row may lie.
        tables: Tables with a time.
        helpers: By name, in the order in which they are run.
        transforms: By feature table.
    """

    late: timedelta
    tables: Mapping[str, Timed]
    helpers: Mapping[str, Helper]
    transforms: Mapping[str, Transform]

    def readers(self, table: str) -> list[str]:
        """The feature tables that a table has a part in."""
        return [name for name, transform in self.transforms.items() if table in transform.reads]

    def floor(self, transform: Transform, at: datetime) -> datetime | None:
        """The earliest row of a feature table that a row pushed now may change; None for any."""
        if not transform.timed:
            return None
        return at - self.late - max(self.tables[table].early for table in transform.reads if table in self.tables)

    def horizon(self, table: str, at: datetime) -> datetime | None:
        """From which time on rows of a table are still needed; None for all."""
        reaches = [self.transforms[name].reach for name in self.readers(table)]
        if table not in self.tables or None in reaches:
            return None
        early = max(timed.early for timed in self.tables.values())
        return at - self.late - early - max((reach for reach in reaches if reach), default=timedelta(0))


def read_plan(
    repo: Path, tables: Iterable[str], feature_tables: Iterable[str], connection: "duckdb.DuckDBPyConnection"
) -> Plan:
    """Reads `stream.yaml` and the SQL of a feature repository.

    Args:
        repo: Its folder.
        tables: The tables that its SQL is given.
        feature_tables: Those to keep up to date.
        connection: Parses SQL.

    Raises:
        ConfigError: `stream.yaml` is missing or wrong, or says nothing of what it must.
        TransformError: A SQL file is not one statement.
    """
    known = list(tables)
    said = _document(repo / FILE)
    helper_files, transform_files = find_transforms(repo / "sql")
    late = _span(said.get("late"), "late")
    timed = {name: _timed(name, value) for name, value in _among(said, "tables", known).items()}
    rows_of = _among(said, "helpers", [file.stem for file in helper_files])
    helpers: dict[str, Helper] = {}
    for file in helper_files:
        reads, used = _closure(connection, file, known, helpers)
        row_of = str(rows_of.get(file.stem, ""))
        if row_of and row_of not in reads:
            raise _wrong(f"helpers.{file.stem} is {row_of!r}", f"a table that it reads: {', '.join(sorted(reads))}")
        helpers[file.stem] = Helper(file, reads, used, row_of)
    files = {file.stem: file for file in transform_files}
    reaches = _among(said, "reach", list(files))
    transforms = {}
    for name in feature_tables:
        if name in files:
            reads, used = _closure(connection, files[name], known, helpers)
            is_timed = bool(reads & timed.keys())
            reach = _reach(reaches, name) if is_timed else None
            transforms[name] = Transform(files[name], reads, used, is_timed, reach)
    return Plan(late, timed, helpers, transforms)


def _closure(
    connection: "duckdb.DuckDBPyConnection", file: Path, tables: list[str], helpers: Mapping[str, Helper]
) -> tuple[frozenset[str], frozenset[str]]:
    """The tables and the helpers that a file reads, by itself or through helpers."""
    names = tables_read(connection, file)
    if names is None:  # such as PIVOT, which DuckDB does not take apart: it may read anything
        return frozenset(tables), frozenset(helpers)
    direct = [helper for name, helper in helpers.items() if name in names]
    used = frozenset(names & helpers.keys()).union(*(helper.helpers for helper in direct))
    return frozenset(names & set(tables)).union(*(helper.reads for helper in direct)), used


def _document(file: Path) -> dict[str, Any]:
    import yaml

    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{file} does not exist", remedy="Write it: docs/streaming.md says what a stream must know"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _wrong(f"is not valid YAML: {' '.join(str(error).split())}", "") from error
    if not isinstance(said, dict) or not said.keys() <= _KEYS or "late" not in said:
        raise _wrong("has other keys than it may", f"{', '.join(sorted(_KEYS))}; late is required")
    return said


def _reach(reaches: Mapping[str, Any], name: str) -> timedelta | None:
    if name not in reaches:
        raise _wrong(f"reach says nothing of {name}", f"{DURATION}, or {FOREVER}")
    return None if reaches[name] == FOREVER else _span(reaches[name], f"reach.{name}")


def _among(said: Mapping[str, Any], key: str, names: list[str]) -> dict[str, Any]:
    """A mapping whose keys are known names."""
    value = said.get(key) or {}
    unknown = sorted(set(value) - set(names)) if isinstance(value, dict) else [repr(value)]
    if unknown:
        raise _wrong(f"{key} names {', '.join(map(str, unknown))}", f"a mapping of {', '.join(names) or 'none'}")
    return dict(value)


def _timed(name: str, value: object) -> Timed:
    if not isinstance(value, dict) or not {"time"} <= value.keys() <= {"time", "early"}:
        raise _wrong(f"tables.{name} is {value!r}", "{time: column, early: 0h}")
    return Timed(str(value["time"]), _span(value.get("early", "0h"), f"tables.{name}.early"))


def _span(value: object, where: str) -> timedelta:
    span = duration(value)
    if span is None:
        raise _wrong(f"{where} is {value!r}", DURATION)
    return span


def _wrong(got: str, allowed: str) -> ConfigError:
    return ConfigError(f"{FILE}: {got}", allowed=allowed, remedy="See docs/streaming.md")
