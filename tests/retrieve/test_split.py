"""Splits by time, at random and by group, and every parameter that cannot be used."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fti.common.errors import ConfigError
from fti.retrieve.split import Split

ROWS = pl.DataFrame(
    {
        "event_timestamp": [datetime(2013, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(100)],
        "plane": [f"N{day % 20}" for day in range(100)],
    }
)


def test_by_time_each_boundary_begins_a_set() -> None:
    assigned = Split("time", ["2013-01-11", "2013-01-21T00:00:00Z"]).assign(ROWS, "event_timestamp")
    assert assigned.tolist() == [0] * 10 + [1] * 10 + [2] * 80


def test_at_random_has_the_shares_asked_and_depends_on_the_seed() -> None:
    assigned = Split("random", fractions=[0.5, 0.25, 0.25], seed=1).assign(ROWS, "event_timestamp")
    assert np.bincount(assigned).tolist() == [50, 25, 25]
    assert (assigned == Split("random", fractions=[0.5, 0.25, 0.25], seed=1.0).assign(ROWS, "event_timestamp")).all()
    assert (assigned != Split("random", fractions=[0.5, 0.25, 0.25], seed=2).assign(ROWS, "event_timestamp")).any()


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.integers(0, 5))
def test_a_group_stays_together(groups: list[str], seed: int) -> None:
    rows = pl.DataFrame({"group": groups})
    assigned = Split("group", group="group", seed=seed).assign(rows, "event_timestamp")
    assert rows.with_columns(set=assigned).group_by("group").agg(pl.col("set").n_unique())["set"].max() == 1


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"method": "age"}, "time, random, group"),
        ({"method": "time"}, "boundaries holds 0"),
        ({"method": "time", "boundaries": ["2013-10-01"]}, "boundaries holds 1"),
        ({"method": "time", "boundaries": ["October", "November"]}, "October"),
        ({"method": "time", "boundaries": ["2013-11-01", "2013-10-01"]}, "not in order"),
        ({"method": "time", "boundaries": ["2013-10-01", "2013-11-01"], "group": "plane"}, "group means nothing"),
        ({"method": "random", "fractions": [0.5, 0.5]}, "three shares"),
        ({"method": "random", "fractions": [0.9, 0.2, -0.1]}, "three shares"),
        ({"method": "random", "fractions": [float("nan"), 0.5, 0.5]}, "three shares"),
        ({"method": "random", "boundaries": ["2013-10-01"]}, "boundaries means nothing"),
        ({"method": "group"}, "names no group"),
    ],
)
def test_parameters_that_cannot_be_used(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Split(**parameters)


def test_an_unknown_group() -> None:
    with pytest.raises(ConfigError, match="no column 'airline'"):
        Split("group", group="airline").assign(ROWS, "event_timestamp")
