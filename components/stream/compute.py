"""The batch path's own SQL, run on those rows of the source tables that can still matter."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fti.common.duck import quoted
from fti.featurize.partitions import with_utc
from fti.featurize.transforms import TIME, add_helper, run_file
from fti.stream.plan import Plan
from fti.stream.sources import CHANGED, Sources, instant, source

if TYPE_CHECKING:
    import pyarrow as pa


class Computation:
    """Runs transforms.

    Args:
        sources: The source tables.
        plan: How the transforms depend on them.
    """

    def __init__(self, sources: Sources, plan: Plan) -> None:
        self._sources, self._plan = sources, plan
        self._connection = sources.connection
        for name in plan.helpers:
            self._build(name)

    def follow(self, table: str, key: tuple[str, ...]) -> None:
        """Brings kept helpers up to date with the rows of a table that have just changed."""
        for name, helper in self._plan.helpers.items():
            if helper.row_of == table:
                self._sources.remove_changed(_kept(name), key)
                self._slice(helper.reads, helper.helpers, None)
                self._view(table, CHANGED, "")
                run_file(self._connection, helper.file, f"INSERT INTO {_kept(name)} BY NAME FROM (\n", "\n)")
            elif table in helper.reads:
                self._build(name)

    def features(self, floors: Mapping[str, datetime | None]) -> "dict[str, pa.Table]":
        """Computes feature tables.

        Args:
            floors: Name -> from which time on; None: from the first row.

        Returns:
            Their rows, in UTC.

        Raises:
            TransformError: The SQL fails on the data.
        """
        found = {}
        transforms = {name: self._plan.transforms[name] for name in floors}
        for reach in {transform.reach for transform in transforms.values()}:
            group = {name: each for name, each in transforms.items() if each.reach == reach}
            helpers = frozenset[str]().union(*(transform.helpers for transform in group.values()))
            reads = frozenset[str]().union(*(transform.reads for transform in group.values()))
            self._slice(reads, helpers, _since([floors[name] for name in group], reach))
            for name, transform in group.items():
                floor = floors[name]
                where = f"\n) WHERE {TIME} >= {instant(floor)}" if floor else "\n)"
                rows = run_file(self._connection, transform.file, "FROM (\n", where).to_arrow_table()
                found[name] = with_utc(rows)
        return found

    def forget(self, table: str, time: str, before: datetime) -> None:
        """Drops rows of kept helpers that nothing needs any more."""
        for name, helper in self._plan.helpers.items():
            if helper.row_of == table:
                self._connection.execute(f"DELETE FROM {_kept(name)} WHERE {quoted(time)} < {instant(before)}")

    def _slice(self, reads: frozenset[str], helpers: frozenset[str], since: datetime | None) -> None:
        """Shows SQL some of the source tables from a time on, and helpers made of them."""
        for table in reads:
            self._view(table, source(table), self._after(table, since))
        for name, helper in self._plan.helpers.items():
            if name not in helpers:
                continue
            if helper.row_of:
                self._view(name, _kept(name), self._after(helper.row_of, since))
            else:
                self._connection.execute(f"DROP TABLE IF EXISTS temp.{quoted(name)}")
                add_helper(self._connection, helper.file)

    def _build(self, name: str) -> None:
        """Makes a kept helper anew."""
        helper = self._plan.helpers[name]
        if helper.row_of:
            self._slice(helper.reads, helper.helpers, None)
            run_file(self._connection, helper.file, f"CREATE OR REPLACE TEMP TABLE {_kept(name)} AS FROM (\n", "\n)")

    def _after(self, table: str, since: datetime | None) -> str:
        timed = self._plan.tables.get(table)
        return f" WHERE {quoted(timed.column)} >= {instant(since)}" if timed and since else ""

    def _view(self, name: str, table: str, where: str) -> None:
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS FROM {table}{where}")


def _since(floors: Iterable[datetime | None], reach: timedelta | None) -> datetime | None:
    """From which time on rows matter to feature rows from some times on."""
    known = [floor for floor in floors if floor]
    return min(known) - reach if known and reach is not None else None


def _kept(helper: str) -> str:
    return f"temp.{quoted(f'fti:{helper}')}"
