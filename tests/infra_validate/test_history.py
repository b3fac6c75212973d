"""The laws on which the replay rests: what was known last, and which rows may share an online store."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fti.infra_validate.history import _latest, known
from fti.infra_validate.rounds import rounds
from fti.infra_validate.views import TIME, lookups
from tests.infra_validate.shop import START, Shop, spending

moments = st.integers(0, 12)
keys = st.integers(0, 3)


@given(st.lists(st.tuples(keys, moments)), st.lists(st.tuples(keys | st.none(), moments)))
def test_the_latest_row_is_the_one_that_a_look_at_every_row_finds(table, asked):
    ordered = sorted(table, key=lambda row: row[1])
    schema = {"key": pl.Int64, TIME: pl.Datetime("us", "UTC")}
    rows = [(key, START + timedelta(seconds=moment)) for key, moment in ordered]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    times = np.array([(START + timedelta(seconds=moment)).timestamp() * 1e6 for _, moment in asked]).astype(int)
    found = _latest(frame, ["key"], [(key,) for key, _ in asked], times)
    for (key, moment), place in zip(asked, found, strict=True):
        candidates = [row for row, (other, at) in enumerate(ordered) if other == key and at <= moment]
        assert place == (candidates[-1] if candidates else -1)


@given(st.lists(st.tuples(st.sets(keys, max_size=3), moments)))
def test_every_row_has_one_round_in_which_no_key_has_two_times(rows):
    found = rounds([sorted(its) for its, _ in rows], [time for _, time in rows])
    assert sorted(row for chosen in found for row in chosen) == list(range(len(rows)))
    for chosen in found:
        times: dict[int, set[int]] = {}
        for row in chosen:
            for key in rows[row][0]:
                times.setdefault(key, set()).add(rows[row][1])
        assert all(len(its) == 1 for its in times.values())


def test_rows_that_share_no_key_need_one_round():
    assert rounds([["a"], ["b"], ["a"]], [1, 2, 1]) == [[0, 1, 2]]


@pytest.fixture
def lookup(shop: Shop):
    from fti.common.feature_store import open_store, service_of

    store = open_store(str(shop.repo), shop.settings)
    (lookup,) = lookups(store, service_of(store, "shop_v1"))
    return store, lookup


def test_a_late_correction_counts_as_the_table_says_and_no_ttl_is_applied(shop, lookup):
    twice = pl.concat([spending(), spending(2.0)])  # without a created column the last row of a time counts
    shop.tabulate(twice)
    asked = pl.DataFrame({"customer": [1, 1, None], "at": [START + timedelta(days=d, hours=1) for d in (2, 31, 2)]})
    found = known(*lookup, asked, "at")
    assert found.column("total") == [2 * (10.5 * 2 + 1), 2 * (10.5 * 28 + 1), None]
    assert found.age.tolist()[:2] == [0.0, 3 * 86400.0]
    assert found.expired.tolist() == [False, True, False]


def test_the_columns_of_a_source_may_have_other_names(shop, lookup):
    shop.apply(
        **{'timestamp_field="event_timestamp"': 'timestamp_field="at", field_mapping={"t": "at", "sum": "total"}'}
    )
    shop.tabulate(spending().rename({"event_timestamp": "t", "total": "sum"}))
    from fti.common.feature_store import open_store, service_of

    store = open_store(str(shop.repo), shop.settings)
    (renamed,) = lookups(store, service_of(store, "shop_v1"))
    asked = pl.DataFrame({"customer": [1], "at": [datetime(2024, 1, 3, 1, tzinfo=UTC)]})
    assert known(store, renamed, asked, "at").column("total") == [22.0]


def test_a_column_that_the_table_lacks_is_named_and_the_rest_is_read(shop, lookup):
    shop.tabulate(spending().drop("total"))
    asked = pl.DataFrame({"customer": [1], "at": [datetime(2024, 1, 3, 1, tzinfo=UTC)]})
    found = known(*lookup, asked, "at")
    assert found.lacking == ("total",)
    assert found.column("orders") == [3]
    assert found.column("total") == [None]
