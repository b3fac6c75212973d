"""What a new computation of a feature table changes in what was given out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from fti.featurize.transforms import TIME

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True)
class State:
    """A feature table as it was computed last.

    Attributes:
        rows: One row for each key and time, those whose time has not come among them.
        shown: Until when the online store has been told.
        stored: Until when the offline store has rows: as `shown`, or later, where a batch run wrote later ones.
    """

    rows: "pl.DataFrame"
    shown: datetime
    stored: datetime


@dataclass(frozen=True)
class Change:
    """What follows from a step.

    Attributes:
        state: The feature table after it.
        rows: Rows that are new or other than before, due by now.
        gone: Keys and times of rows given out before that are no more.
        touched: Keys and times of all rows on which the latest values of a key may depend.
    """

    state: State
    rows: "pl.DataFrame"
    gone: "pl.DataFrame"
    touched: "pl.DataFrame"


@dataclass(frozen=True)
class Computed:
    """A feature table as its transform gives it now.

    Attributes:
        rows: One row for each key and time.
        since: From which time on; None: from the first.
    """

    rows: "pl.DataFrame"
    since: datetime | None


def step(before: State, computed: Computed | None, key: Sequence[str], floor: datetime | None, at: datetime) -> Change:
    """Compares.

    Args:
        before: The last state.
        computed: What may have changed; None where only time has passed.
        key: The join keys.
        floor: Rows before it are settled; None: none are.
        at: Now.
    """
    import polars as pl

    time = pl.col(TIME)
    old = before.rows.filter(time >= floor) if floor else before.rows
    stored = max(at, before.stored)
    if computed is None:
        new, rows, gone = old, old.filter(time > before.stored, time <= stored), old.clear()
    else:
        is_same = time < computed.since if computed.since else pl.lit(False)
        new = pl.concat([old.filter(is_same), computed.rows])
        emitted, due = old.filter(~is_same, time <= before.stored), computed.rows.filter(time <= stored)
        rows = due.join(emitted, on=due.columns, how="anti", nulls_equal=True)
        gone = emitted.join(due, on=[*key, TIME], how="anti", nulls_equal=True)
    risen = new.filter(time > before.shown, time <= at)
    touched = pl.concat([frame.select(*key, TIME) for frame in (rows, gone, risen)]).filter(time <= at).unique()
    return Change(State(new, at, stored), rows, gone.select(*key, TIME), touched)


def one_each(rows: "pa.Table", key: Sequence[str], created: Sequence[str]) -> "pl.DataFrame":
    """Of rows of equal key and time the one that the offline store finds: created last, then last in the batch's order.

    Args:
        rows: What a transform gave.
        key: The join keys.
        created: The created timestamp's column, if there is one.
    """
    import polars as pl

    frame = pl.DataFrame(pl.from_arrow(rows))
    same = [*key, TIME]
    if frame.select(pl.struct(same).is_duplicated().any()).item():
        order = [TIME, *created, *sorted(set(frame.columns) - {TIME, *created})]
        frame = frame.sort(order, nulls_last=[name not in created for name in order])
        frame = frame.unique(same, keep="last", maintain_order=True)
    return frame
