"""The as-of join against a brute-force oracle, and its treatment of types and edges."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fti.retrieve.join import asof_join

START = datetime(2013, 1, 1, tzinfo=UTC)
minutes = st.one_of(st.none(), st.integers(0, 12))
keys = st.one_of(st.none(), st.sampled_from(["a", "b"]))


def at(minute: int | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


def frame(rows: list[tuple], *columns: str) -> pl.DataFrame:
    types = {"key": pl.String, "at": pl.Datetime("us", "UTC"), "made": pl.Datetime("us", "UTC"), "value": pl.Int64}
    return pl.DataFrame(rows, schema={column: types[column] for column in columns}, orient="row")


def oracle(rows: list[tuple], values: list[tuple], ttl: int | None) -> list[int | None]:
    found = []
    for key, time in rows:
        candidates = [
            (known, made, position, value)
            for position, (other, known, made, value) in enumerate(values)
            if None not in (key, time, known) and other == key and known <= time and (not ttl or time - known <= ttl)
        ]
        earliest = -1
        best = max(candidates, key=lambda c: (c[0], earliest if c[1] is None else c[1], c[2]), default=None)
        found.append(best[3] if best else None)
    return found


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(keys, minutes), max_size=12),
    st.lists(st.tuples(keys, minutes, minutes, st.one_of(st.none(), st.integers(0, 9))), max_size=20),
    st.one_of(st.none(), st.integers(0, 6)),
)
def test_it_finds_what_an_exhaustive_search_finds(rows: list[tuple], values: list[tuple], ttl: int | None) -> None:
    found = asof_join(
        frame([(key, at(time)) for key, time in rows], "key", "at"),
        frame([(k, at(t), at(m), v) for k, t, m, v in values], "key", "at", "made", "value").lazy(),
        at="at",
        known_at="at",
        keys={"key": "key"},
        features={"value": "found"},
        ttl=None if ttl is None else timedelta(minutes=ttl),
        created="made",
    )
    assert found["found"].to_list() == oracle(rows, values, ttl)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(minutes, max_size=8),
    st.lists(st.tuples(minutes, st.integers(0, 9)), max_size=12),
    st.one_of(st.none(), st.integers(1, 6)),
)
def test_without_keys_every_value_is_a_candidate(times: list, values: list[tuple], ttl: int | None) -> None:
    found = asof_join(
        frame([(at(time),) for time in times], "at"),
        frame([(at(time), value) for time, value in values], "at", "value").lazy(),
        at="at",
        known_at="at",
        keys={},
        features={"value": "value"},
        ttl=timedelta(minutes=ttl) if ttl else None,
    )
    expected = oracle([("-", time) for time in times], [("-", t, None, v) for t, v in values], ttl)
    assert found["value"].to_list() == expected


@pytest.mark.parametrize(
    "asked",
    [
        pl.Series("at", ["2013-01-02T00:00:00"]),
        pl.Series("at", [date(2013, 1, 2)]),
        pl.Series("at", [datetime(2013, 1, 2)]),
        pl.Series("at", [datetime(2013, 1, 2)], dtype=pl.Datetime("ns")),
        pl.Series("at", [datetime(2013, 1, 2)]).dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York"),
    ],
    ids=["string", "date", "naive", "nanoseconds", "other zone"],
)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_any_type_are_utc(asked: pl.Series, unit: str) -> None:
    values = pl.DataFrame({"t": [datetime(2013, 1, 2), datetime(2013, 1, 2, 0, 0, 1)], "value": [1, 2]})
    values = values.with_columns(pl.col("t").cast(pl.Datetime(unit)))
    found = asof_join(
        pl.DataFrame({"at": asked}), values.lazy(), at="at", known_at="t", keys={}, features={"value": "v"}
    )
    assert found["v"].to_list() == [1]


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        (pl.Series([1.0, None, 1.5]), pl.Series([1], dtype=pl.Int64)),
        (pl.Series([1, None, 2], dtype=pl.Int32), pl.Series([1], dtype=pl.Int64)),
        (pl.Series(["1", None, "x"]), pl.Series(["1"])),
        (pl.Series(["1", None, "x"], dtype=pl.Categorical), pl.Series(["1"])),
        (pl.Series([1, None, 2]), pl.Series(["1"])),
    ],
    ids=["float with gaps", "narrow integer", "string", "category", "integer for string"],
)
def test_keys_are_compared_in_the_type_of_the_table(asked: pl.Series, stored: pl.Series) -> None:
    rows = pl.DataFrame({"at": [START] * 3, "key": asked})
    values = pl.DataFrame({"at": [START], "key": stored, "value": [7]})
    found = asof_join(rows, values.lazy(), at="at", known_at="at", keys={"key": "key"}, features={"value": "value"})
    assert found["value"].to_list() == [7, None, None]
