"""The latest values of some keys, into the online store."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fti.featurize.transforms import TIME
from fti.stream.changes import State

if TYPE_CHECKING:
    import polars as pl
    from feast import FeatureStore, FeatureView

    from fti.common.online.writer import OnlineWriter


class OnlineView:
    """A feature view in the online store.

    Args:
        store: An open store.
        writer: Writes to its online store.
        view: The view.
    """

    def __init__(self, store: "FeatureStore", writer: "OnlineWriter", view: "FeatureView") -> None:
        self._store, self._writer, self._view = store, writer, view
        self.key = key_columns(view)

    def show(self, state: State, keys: "pl.DataFrame", floor: datetime | None) -> None:
        """Writes the values of keys as they are now; those of keys that have none any more are removed.

        Args:
            state: The view's table from `floor` on.
            keys: Holds the keys; other columns do not matter.
            floor: Of earlier rows the offline store knows; None: there are none.

        Raises:
            FeatureStoreError: The online store cannot be written.
        """
        import polars as pl

        asked = keys.select(*self.key).unique().drop_nulls() if self.key else keys.head(1)
        due = state.rows.filter(pl.col(TIME) <= state.shown)
        found = due.join(asked, on=self.key, how="semi") if self.key else due
        latest = found.sort(TIME, maintain_order=True)
        latest = latest.unique(self.key, keep="last", maintain_order=True) if self.key else latest.tail(1)
        # A batch run may have written values online whose time has not come yet: they are replaced too.
        self._write(latest, state.stored)
        lost = asked.join(latest, on=self.key, how="anti") if self.key else asked.head(1 - len(latest))
        if len(lost):
            self._restore(lost, floor, state.stored)

    def _write(self, rows: "pl.DataFrame", through: datetime) -> None:
        import polars as pl

        if len(rows):
            table = rows.rename(self._renamed(rows)).to_arrow(compat_level=pl.CompatLevel.oldest())
            self._writer.write(self._view, table, through)

    def _restore(self, lost: "pl.DataFrame", floor: datetime | None, through: datetime) -> None:
        """Keys whose last row is gone get the one before, or lose their values."""
        import polars as pl

        from fti.common.online.rows import keys_of
        from fti.materialize.table import latest

        lost = lost.rename(self._renamed(lost))
        join_keys = [self._view.batch_source.field_mapping.get(name, name) for name in self.key]
        if floor:
            settled = pl.DataFrame(
                pl.from_arrow(latest(self._store, self._view, None, floor - timedelta(microseconds=1)))
            )
            earlier = settled.join(lost, on=join_keys, how="semi") if join_keys else settled
            if len(earlier):
                self._writer.write(self._view, earlier.to_arrow(compat_level=pl.CompatLevel.oldest()), through)
            lost = lost.join(earlier, on=join_keys, how="anti") if join_keys else lost.head(1 - len(earlier))
        if len(lost):
            self._writer.remove(self._view, keys_of(self._view, lost.to_arrow()), through)

    def _renamed(self, rows: "pl.DataFrame") -> dict[str, str]:
        """Columns of the table -> what Feast calls them."""
        return {name: new for name, new in self._view.batch_source.field_mapping.items() if name in rows.columns}


def key_columns(view: "FeatureView") -> list[str]:
    """The columns of a view's table that hold its join keys."""
    from feast.feature_view import DUMMY_ENTITY_ID

    column_of = {feature: column for column, feature in view.batch_source.field_mapping.items()}
    names = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    return [column_of.get(name, name) for name in names]
