"""The rules of single rows, as SQL that is known to run."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fti.common.duck import literal
from fti.common.errors import ContractError
from fti.validate.contract import Contract
from fti.validate.rules import Rule, check_rule, column_rules

if TYPE_CHECKING:
    import duckdb


def row_rules(
    connection: "duckdb.DuckDBPyConnection",
    contract: Contract,
    table: str,
    casts: Mapping[str, str],
    names: Iterable[str],
) -> list[Rule]:
    """The rules of a contract over the typed columns of a table.

    Args:
        connection: Where the table is.
        contract: What it promises.
        table: SQL of the table, or of a view.
        casts: Columns that had to be cast -> the type they came in.
        names: The columns that checks may use.

    Raises:
        ContractError: A pattern or check is no valid SQL.
    """
    rules = list(column_rules(contract, casts))
    for rule in rules:
        _require_sql(connection, contract, table, rule, f"columns.{rule.name}")
    for check in contract.checks:
        rules.append(check_rule(check, names))
        _require_sql(connection, contract, table, rules[-1], f"checks.{check.name}.sql")
    return rules


def reasons_sql(texts: Mapping[str, str]) -> str:
    """SQL of the list of what is wrong with a row, from SQL conditions -> what is wrong where one is true."""
    cases = (f"CASE WHEN {condition} THEN {literal(text)} END" for condition, text in texts.items())
    return f"list_filter([{', '.join(cases)}]::VARCHAR[], lambda reason: reason IS NOT NULL)"


def _require_sql(
    connection: "duckdb.DuckDBPyConnection", contract: Contract, table: str, rule: Rule, where: str
) -> None:
    import duckdb

    query = f"SELECT 1 FROM (FROM {table} LIMIT 0) WHERE {rule.broken}"
    allowed = "a boolean SQL expression over the columns of one row, or an RE2 pattern"
    try:
        # A contract comes from elsewhere: an expression must not close ours and begin a statement of its own.
        if len(connection.extract_statements(query)) != 1:
            raise ContractError(f"{contract.uri}: {where} holds several statements", allowed=allowed)
        connection.execute(query)
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise ContractError(f"{contract.uri}: {where} cannot be used: {reason}", allowed=allowed) from error
