"""The rows that the source tables start from: read and checked as the batch path does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from fti.common.duck import connect
from fti.common.errors import ConfigError
from fti.common.settings import Settings
from fti.ingest.logic import ingest
from fti.stream.plan import Plan
from fti.stream.sources import Sources
from fti.validate.contract import TYPES, Contract
from fti.validate.engine import Engine
from fti.validate.logic import judge


@dataclass(frozen=True)
class History:
    """Where the rows come from.

    Attributes:
        tables: `table`, `source` and `contract` of each.
        contracts: By table.
        null_values: Texts that mean "missing" in CSV files.
        settings: How sources are reached.
    """

    tables: Sequence[Mapping[str, str]]
    contracts: Mapping[str, Contract]
    null_values: Sequence[str]
    settings: Settings

    def seed(self, sources: Sources, plan: Plan, at: datetime) -> None:
        """Fills the source tables that are not there yet, with the rows that still matter.

        Raises:
            ConfigError: A table that is there is otherwise than its contract says.
            SourceError: A source cannot be parsed.
            StorageError: It cannot be read.
            ContractError: A contract does not fit the columns of its source.
            RejectedDataError: A source breaks its contract beyond its tolerance.
        """
        for entry in self.tables:
            table, timed = entry["table"], plan.tables.get(entry["table"])
            if sources.columns(table):
                self._require_same(table, sources.columns(table))
                continue
            with TemporaryDirectory(prefix="seed-", dir=self.settings.home) as folder:
                valid = self._valid(entry, Path(folder), at)
                with sources.transaction():
                    sources.seed(table, valid, timed.column if timed else "", plan.horizon(table, at))

    def _valid(self, entry: Mapping[str, str], folder: Path, at: datetime) -> Path:
        raw, valid, table = folder / "raw.parquet", folder / "valid.parquet", entry["table"]
        ingest(entry["source"], table, raw, null_values=self.null_values, settings=self.settings)
        with connect() as connection:
            engine = Engine(connection, raw, self.contracts[table])
            engine.write_valid(valid)
            judge(engine, table, at).require_accepted()
        return valid

    def _require_same(self, table: str, there: Mapping[str, str]) -> None:
        contract = self.contracts[table]
        if any(there.get(column.name) != TYPES[column.type] for column in contract.columns):
            raise ConfigError(
                f"the stream's table {table!r} has other columns than {contract.uri}",
                remedy="Start with --reseed, once the sources hold what was pushed",
            )
