"""The as-of join against a brute-force oracle, and its treatment of types and edges."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fti.retrieve import chunks, join
from fti.retrieve.join import asof_join

START = datetime(2013, 1, 1, tzinfo=UTC)
# Few of each, so that ties and late corrections are many.
minutes = st.sampled_from([0, 1, 2, 3, None])
keys = st.sampled_from(["a", "a", "a", "b", None])


def at(minute: int | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


def frame(rows: list[tuple], *columns: str) -> pl.DataFrame:
    types = {"key": pl.String, "at": pl.Datetime("us", "UTC"), "made": pl.Datetime("us", "UTC"), "value": pl.Int64}
    return pl.DataFrame(rows, schema={column: types[column] for column in columns}, orient="row")


def oracle(rows: list[tuple], values: list[tuple], ttl: int | None, *, as_created: bool = False) -> list[int | None]:
    found = []
    for key, time in rows:
        candidates = [
            (known, made, position, value)
            for position, (other, known, made, value) in enumerate(values)
            if None not in (key, time, known)
            and other == key
            and known <= time
            and (not ttl or time - known <= ttl)
            and (not as_created or (made is not None and made <= time))
        ]
        earliest = -1
        best = max(candidates, key=lambda c: (c[0], earliest if c[1] is None else c[1], c[2]), default=None)
        found.append(best[3] if best else None)
    return found


@pytest.fixture(params=["one piece", "pieces of one row", "keys and times beyond 64 bits"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way that a join can go must give the same."""
    if request.param == "pieces of one row":
        monkeypatch.setattr(chunks, "_BYTES", 1)
        monkeypatch.setattr(join, "chunks", lambda frame, rows: chunks.chunks(frame, 1))
    if request.param == "keys and times beyond 64 bits":
        monkeypatch.setattr(join, "_INT64", 0)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(keys, minutes), max_size=8),
    st.lists(st.tuples(keys, minutes, minutes, st.sampled_from([*range(8), None])), max_size=12),
    st.sampled_from([None, 0, 1, 2]),
    st.booleans(),
)
@example(rows=[("a", 3)], values=[("a", 2, 2, 1), ("a", 1, 3, 2)], ttl=None, as_created=True)  # a late correction
@example(rows=[("a", 3)], values=[("a", 2, 2, 1), ("a", 2, 3, 2), ("a", 2, 2, 3)], ttl=1, as_created=True)
@example(rows=[("a", 2)], values=[("a", 2, None, 1), ("a", 2, None, 2)], ttl=None, as_created=False)
def test_it_finds_what_an_exhaustive_search_finds(
    way: None, rows: list[tuple], values: list[tuple], ttl: int | None, as_created: bool
) -> None:
    found = asof_join(
        frame([(key, at(time)) for key, time in rows], "key", "at"),
        frame([(k, at(t), at(m), v) for k, t, m, v in values], "key", "at", "made", "value").lazy(),
        at="at",
        known_at="at",
        keys={"key": "key"},
        features={"value": "found"},
        ttl=None if ttl is None else timedelta(minutes=ttl),
        created="made",
        as_created=as_created,
    )
    assert found["found"].to_list() == oracle(rows, values, ttl, as_created=as_created)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(["a", "b"]), minutes), max_size=8),
    st.lists(st.tuples(st.sampled_from([0, 1, None]), st.sampled_from(["a", "b", None]), minutes), max_size=16),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"]),
    st.sampled_from(["ms", "us", "ns"]),
)
def test_composite_keys_and_any_zone(rows: list[tuple], values: list[tuple], zone: str, unit: str) -> None:
    asked = pl.DataFrame(
        {
            "n": [row[0] for row in rows],
            "s": [row[1] for row in rows],
            "at": [None if row[2] is None else str(at(row[2])) for row in rows],
        },
        schema={"n": pl.Float64, "s": pl.Categorical, "at": pl.String},
    )
    table = pl.DataFrame(
        {
            "n": [value[0] for value in values],
            "s": [value[1] for value in values],
            "at": pl.Series([at(value[2]) for value in values], dtype=pl.Datetime("us", "UTC"))
            .dt.convert_time_zone(zone)
            .dt.cast_time_unit(unit),
            "value": list(range(len(values))),
        },
        schema_overrides={"n": pl.Int16, "s": pl.String, "value": pl.Int64},
    )
    found = asof_join(
        asked, table.lazy(), at="at", known_at="at", keys={"n": "n", "s": "s"}, features={"value": "value"}
    )
    whole = [(None if None in value[:2] else value[:2], value[2], None, n) for n, value in enumerate(values)]
    assert found["value"].to_list() == oracle([((row[0], row[1]), row[2]) for row in rows], whole, None)


@pytest.mark.parametrize("ttl", [timedelta.max, timedelta(days=800_000)])
def test_times_at_the_ends_of_the_calendar(ttl: timedelta) -> None:
    ends = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    values = pl.DataFrame({"at": ends, "value": [1, 2]})
    found = asof_join(
        pl.DataFrame({"at": ends}), values.lazy(), at="at", known_at="at", keys={}, features={"value": "v"}, ttl=ttl
    )
    assert found["v"].to_list() == [1, 2]


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
        (pl.Series([1.0, None, 2]), pl.Series(["1"])),
    ],
    ids=["float with gaps", "narrow integer", "string", "category", "integer for string", "float for string"],
)
def test_keys_are_compared_in_the_type_of_the_table(asked: pl.Series, stored: pl.Series) -> None:
    rows = pl.DataFrame({"at": [START] * 3, "key": asked})
    values = pl.DataFrame({"at": [START], "key": stored, "value": [7]})
    found = asof_join(rows, values.lazy(), at="at", known_at="at", keys={"key": "key"}, features={"value": "value"})
    assert found["value"].to_list() == [7, None, None]
