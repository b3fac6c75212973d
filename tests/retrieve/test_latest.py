"""The latest row of each key against an exhaustive search, in pieces and whole."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fti.retrieve import chunks
from fti.retrieve.latest import latest
from fti.retrieve.times import between

START = datetime(2013, 1, 1, tzinfo=UTC)
SCHEMA = {
    "key": pl.String,
    "at": pl.Datetime("us", "UTC"),
    "made": pl.Datetime("us", "UTC"),
    "value": pl.Int64,
}
minutes = st.integers(0, 6)


def at(minute: int | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


@pytest.mark.parametrize("size", [1, chunks._BYTES])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.sampled_from(["a", "b", None]), minutes, st.one_of(st.none(), minutes)), max_size=16))
def test_latest(size: int, rows: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_BYTES", size)
    data = [(key, at(time), at(made), position) for position, (key, time, made) in enumerate(rows)]
    found = latest(pl.DataFrame(data, SCHEMA, orient="row").lazy(), ["key"], ["at", "made"])
    best: dict[str, tuple] = {}
    for position, (key, time, made) in enumerate(rows):
        if key is not None:
            best[key] = max(best.get(key, ()), (time, -1 if made is None else made, position))
    assert dict(found.select("key", "value").iter_rows()) == {key: value for key, (_, _, value) in best.items()}
    assert found["value"].is_sorted()


@pytest.mark.parametrize(
    "dtype",
    [pl.Datetime(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Asia/Kolkata")]
    + [pl.Date, pl.String],
    ids=str,
)
@pytest.mark.parametrize("naive", [True, False])
def test_a_span_of_time_includes_both_ends(dtype: pl.DataType, naive: bool) -> None:
    days = pl.DataFrame({"at": [START + timedelta(days=day) for day in range(6)], "day": range(6)})
    if not (isinstance(dtype, pl.Datetime) and dtype.time_zone):
        days = days.with_columns(pl.col("at").dt.replace_time_zone(None))
    column = pl.col("at")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        column = column.dt.convert_time_zone(dtype.time_zone)
    table = days.with_columns(column.dt.to_string("iso") if dtype == pl.String else column.cast(dtype))
    start, end = START + timedelta(days=1), START + timedelta(days=3)
    if naive:
        start, end = start.replace(tzinfo=None), end.replace(tzinfo=None)
    assert between(table.lazy(), "at", start, end).collect()["day"].to_list() == [1, 2, 3]
    assert between(table.lazy(), "at", None, end).collect()["day"].to_list() == [0, 1, 2, 3]
