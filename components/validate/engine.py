"""Judges every row of a table by SQL that DuckDB runs out of core. See docs/decisions/0001-validate-engine.md."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fti.common.duck import literal, quoted
from fti.common.errors import ContractError, SourceError
from fti.validate.conditions import reasons_sql, row_rules
from fti.validate.contract import TYPES, Contract
from fti.validate.rules import RAW, ROW, Rule, cast, unique_keys

if TYPE_CHECKING:
    import duckdb

REASONS = "reasons"
TYPED, JUDGED = quoted("fti:typed"), quoted("fti:judged")
BROKEN = quoted("fti:broken")


@dataclass(frozen=True)
class Broken:
    """A rule and how many rows break it."""

    rule: Rule
    rows: int


class Engine:
    """One table under one contract.

    Args:
        connection: An empty database; views are made in it.
        raw: A Parquet file.
        contract: What it promises.

    Raises:
        SourceError: The file is no Parquet file.
        ContractError: Columns are missing or undeclared, or a pattern or check is no valid SQL.
    """

    def __init__(self, connection: "duckdb.DuckDBPyConnection", raw: str | Path, contract: Contract) -> None:
        self.connection, self.contract = connection, contract
        self._relation = f"read_parquet({literal(raw)}, file_row_number = true, hive_partitioning = false)"
        self.source = self._source_schema(raw)
        self._require_columns()
        kept = [c for c in self.source if c not in self._declared and contract.undeclared == "keep"]
        self.output = {**{c.name: TYPES[c.type] for c in contract.columns}, **{c: self.source[c] for c in kept}}
        self.casts = {c.name: self.source[c.name] for c in contract.columns if self.source[c.name] != TYPES[c.type]}
        self._create_typed_view()
        self.rules = row_rules(connection, contract, TYPED, self.casts, self.output)
        self._duplicates = self._find_duplicates()
        self.rules += self._duplicates
        self._create_judged_view()

    @cached_property
    def counts(self) -> tuple[int, int, list[Broken]]:
        """Rows received, rows rejected, and the rows that break each rule, the worst first."""
        each = [f"count(*) FILTER (WHERE {_flag(index)})" for index in range(len(self.rules))]
        row = self._one(f"SELECT {', '.join(['count(*)', f'count(*) FILTER (WHERE {BROKEN})', *each])} FROM {JUDGED}")
        broken = [Broken(rule, int(str(rows))) for rule, rows in zip(self.rules, row[2:], strict=True)]
        return int(str(row[0])), int(str(row[1])), sorted(broken, key=lambda item: -item.rows)

    def newest(self, column: str) -> datetime | None:
        """The latest value of a date or timestamp column among valid rows, UTC."""
        value = self._one(f"SELECT max({quoted(column)})::TIMESTAMPTZ FROM {JUDGED} WHERE NOT {BROKEN}")[0]
        return value if isinstance(value, datetime) else None

    def write_valid(self, path: Path) -> None:
        """Writes the valid rows, in their types, in the order of the input."""
        columns = ", ".join(quoted(name) for name in self.output)
        self._copy(f"SELECT {columns} FROM {JUDGED} WHERE NOT {BROKEN}", path)

    def write_rejected(self, path: Path) -> None:
        """Writes the rejected rows as they came, each with the list of its reasons, in the order of the input."""
        columns = ", ".join(f"{self.as_it_came(name)} AS {quoted(name)}" for name in self.source)
        texts = {_flag(index): rule.text for index, rule in enumerate(self.rules)}
        self._copy(f"SELECT {columns}, {reasons_sql(texts)} AS {REASONS} FROM {JUDGED} WHERE {BROKEN}", path)

    def examples(self, rule: Rule, limit: int) -> tuple[list[str], list[tuple[object, ...]]]:
        """The first rows that break a rule: names of columns, those of the rule first, and rows."""
        names = list(dict.fromkeys([*rule.columns, *self.source]))
        columns = ", ".join(self.as_it_came(name) for name in names)
        query = (
            f"SELECT {columns} FROM {JUDGED} WHERE {_flag(self.rules.index(rule))} ORDER BY {quoted(ROW)} LIMIT {limit}"
        )
        return names, self.connection.execute(query).fetchall()

    def as_it_came(self, name: str) -> str:
        """SQL of a column before any cast."""
        return quoted(RAW + name) if name in self.casts or name not in self.output else quoted(name)

    @cached_property
    def _declared(self) -> set[str]:
        return {column.name for column in self.contract.columns}

    def _source_schema(self, raw: str | Path) -> dict[str, str]:
        import duckdb

        try:
            rows = self.connection.execute(
                f"DESCRIBE SELECT * EXCLUDE file_row_number FROM {self._relation}"
            ).fetchall()
        except duckdb.Error as error:
            raise SourceError(
                f"{raw} is not a readable Parquet file: {str(error).splitlines()[0]}", remedy="Pass an output of ingest"
            ) from error
        return {str(name): str(kind) for name, kind, *_ in rows}

    def _require_columns(self) -> None:
        contract, names = self.contract, list(self.source)
        for column in contract.columns:
            if column.name not in self.source:
                close = difflib.get_close_matches(column.name, names, n=1)
                raise ContractError(
                    f"{contract.uri}: columns.{column.name} is not among the columns of the data",
                    allowed=", ".join(names),
                    remedy=f"Did you mean {close[0]}" if close else "Correct the contract, or the source",
                )
        undeclared = [name for name in names if name not in self._declared]
        if undeclared and contract.undeclared == "forbid":
            raise ContractError(
                f"{contract.uri}: the data have undeclared columns: {', '.join(undeclared[:10])}",
                remedy="Declare them, or set undeclared to keep or drop",
            )
        if REASONS in names:
            raise ContractError(
                f"{contract.uri}: the data have a column {REASONS!r}, which is the name of the column of reasons",
                remedy="Rename it at the source",
            )

    def _create_typed_view(self) -> None:
        columns = [f"file_row_number AS {quoted(ROW)}"]
        for name, source in self.source.items():
            column = next((c for c in self.contract.columns if c.name == name), None)
            if column:
                columns.append(f"{cast(quoted(name), source, column.type)} AS {quoted(name)}")
            elif name in self.output:
                columns.append(quoted(name))
            if name in self.casts or name not in self.output:
                columns.append(f"{quoted(name)} AS {quoted(RAW + name)}")
        self.connection.execute(f"CREATE VIEW {TYPED} AS SELECT {', '.join(columns)} FROM {self._relation}")

    def _find_duplicates(self) -> list[Rule]:
        """One rule for each unique key. Only rows that break no other rule are compared; the first one stays."""
        fine = " AND ".join(f"NOT coalesce(({rule.broken}), false)" for rule in self.rules) or "true"
        rules = []
        for number, key in enumerate(unique_keys(self.contract)):
            table, columns = quoted(f"fti:duplicates:{number}"), ", ".join(quoted(name) for name in key)
            complete = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in key)
            self.connection.execute(
                f"CREATE TEMP TABLE {table} AS WITH candidates AS (SELECT {columns}, {quoted(ROW)} AS row FROM {TYPED} "
                f"WHERE {complete} AND {fine}), repeated AS (SELECT {columns}, min(row) AS first FROM candidates "
                f"GROUP BY {columns} HAVING count(*) > 1) SELECT row FROM candidates JOIN repeated USING ({columns}) "
                "WHERE row <> first"
            )
            found = self._one(f"SELECT count(*) FROM {table}")[0]
            text = f"{' + '.join(key)} repeats an earlier row"
            broken = f"{quoted(ROW)} IN (SELECT row FROM {table})" if found else "false"
            rules.append(Rule(f"{'+'.join(key)}.unique", text, key, broken))
        return rules

    def _create_judged_view(self) -> None:
        flags = [f"coalesce(({rule.broken}), false) AS {_flag(index)}" for index, rule in enumerate(self.rules)]
        any_flag = " OR ".join(_flag(index) for index in range(len(self.rules))) or "false"
        self.connection.execute(
            f"CREATE VIEW {JUDGED} AS SELECT *, ({any_flag}) AS {BROKEN} "
            f"FROM (SELECT {', '.join(['*', *flags])} FROM {TYPED})"
        )

    def _copy(self, select: str, path: Path) -> None:
        # A scan keeps the order of its rows; the join that finds duplicates promises none.
        order = f" ORDER BY {quoted(ROW)}" if any(rule.broken != "false" for rule in self._duplicates) else ""
        self.connection.execute(f"COPY ({select}{order}) TO {literal(path)} (FORMAT parquet, COMPRESSION zstd)")

    def _one(self, query: str) -> Sequence[object]:
        return self.connection.execute(query).fetchone() or ()


def _flag(index: int) -> str:
    return quoted(f"fti:rule:{index}")
