"""Rows that keep a data contract, and those that break it, with the reasons."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from fti.common.duck import MEMORY_LIMIT, connect
from fti.common.errors import ContractError, StorageError
from fti.common.files import atomic_file
from fti.common.settings import Settings
from fti.validate.contract import Contract
from fti.validate.engine import Engine
from fti.validate.parsing import read_contract
from fti.validate.report import write_report
from fti.validate.verdict import Verdict

_log = logging.getLogger(__name__)


def validate(
    raw: str | Path,
    contract: str,
    valid: str | Path,
    rejected: str | Path,
    report: str | Path,
    *,
    table: str = "",
    now: datetime | None = None,
    settings: Settings | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> Verdict:
    """Splits a table by its contract, in the order of its rows, and reports on it.

    All three outputs are written also when the table is not accepted: they say why. The caller decides by
    `Verdict.accepted`.

    Args:
        raw: A Parquet file.
        contract: Path or URI of the contract, YAML.
        valid: Where valid rows go, with the contract's types.
        rejected: Where rejected rows go, as they came, with a column `reasons` (a list of texts).
        report: Where the HTML report goes.
        table: The table's name.
        now: The time against which freshness is measured; default the time of the run.
        settings: How object stores are reached; default from the environment.
        memory_limit: DuckDB's limit; more is spilled to disk.

    Raises:
        ContractError: The contract is wrong, or does not fit the columns of the data.
        SourceError: `raw` is no Parquet file.
        StorageError: The contract cannot be read, or an output cannot be written.
    """
    promised = read_contract(contract, settings or Settings.from_env())
    with connect(memory_limit) as connection, _errors(promised):
        engine = Engine(connection, raw, promised)
        with atomic_file(valid) as valid_file, atomic_file(rejected) as rejected_file:
            engine.write_valid(valid_file)
            engine.write_rejected(rejected_file)
            verdict = judge(engine, table, now or datetime.now(UTC))
            write_report(verdict, engine, valid_file, report)
    _log.info("%s: %s of %s rows rejected", table or raw, f"{verdict.rejected:,}", f"{verdict.rows:,}")
    return verdict


def judge(engine: Engine, table: str, now: datetime) -> Verdict:
    """What is wrong with a table, row by row and as a whole, at a time."""
    rows, rejected, broken = engine.counts
    contract = engine.contract
    problems = [*_row_problems(contract, rows, rejected), *_freshness_problems(engine, now)]
    return Verdict(table, rows, rejected, contract.max_reject_share, tuple(broken), tuple(problems))


def _row_problems(contract: Contract, rows: int, rejected: int) -> Iterator[str]:
    if rows < contract.min_rows:
        yield f"{rows:,} rows, fewer than the {contract.min_rows:,} required"
    if contract.max_rows is not None and rows > contract.max_rows:
        yield f"{rows:,} rows, more than the {contract.max_rows:,} allowed"
    if rows and rejected == rows:
        yield f"no row of {rows:,} is valid"
    elif rejected > contract.max_reject_share * rows:
        tolerated = contract.max_reject_share
        yield f"{rejected:,} of {rows:,} rows rejected ({rejected / rows:.3%}), {tolerated:.3%} tolerated"


def _freshness_problems(engine: Engine, now: datetime) -> Iterator[str]:
    promise = engine.contract.freshness
    newest = engine.newest(promise.column) if promise else None
    if promise and newest and now - newest > promise.max_age:
        yield f"the newest {promise.column} is {newest:%Y-%m-%d %H:%M} UTC, older than {promise.max_age}"


@contextmanager
def _errors(contract: Contract) -> Iterator[None]:
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise StorageError(
            f"the table cannot be processed: {str(error).splitlines()[0]}",
            remedy="Give the step more memory or scratch disk; nothing was half-written",
        ) from error
    except duckdb.Error as error:  # a check whose SQL fails on some value
        raise ContractError(
            f"{contract.uri}: a check fails on the data: {str(error).splitlines()[0]}",
            remedy="Guard it, for instance with TRY_CAST",
        ) from error
