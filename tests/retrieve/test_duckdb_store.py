"""The same results as Feast's DuckDB store wherever that one is right; and each known difference, shown."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tests.retrieve.plain import OURS, START, apply_view, asked, joined, plain_store, rows

pytest.importorskip("ibis", reason="Feast's DuckDB store needs ibis-framework[duckdb]")


@pytest.fixture
def stores(tmp_path: Path) -> Any:
    """Both stores on the same table."""

    def both(table: pl.DataFrame, **source: Any) -> list[Any]:
        table.write_parquet(tmp_path / "view.parquet")
        made = [plain_store(tmp_path / name, kind) for name, kind in (("ours", OURS), ("duckdb", "duckdb"))]
        for store in made:
            apply_view(store, str(tmp_path / "view.parquet"), **source)
        return made

    return both


@pytest.mark.parametrize("as_created", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_random_histories(stores: Any, seed: int, as_created: bool) -> None:
    random = np.random.default_rng(seed)
    days, made = random.integers(0, 240, (2, 400)) / 24
    history = rows(
        *(
            (int(random.integers(0, 9)), n, day, day + late)
            for n, (day, late) in enumerate(zip(days, made, strict=True))
        )
    )
    history = history.unique(["id", "event_timestamp", "created"], keep="any").with_columns(
        pl.when(pl.col("value") % 7 > 0).then(pl.col("value"))
    )
    given = asked(*((int(random.integers(0, 11)), float(day)) for day in random.integers(0, 300, 200) / 24))
    given = given.unique().sample(fraction=1, shuffle=True, seed=seed)
    ours, theirs = (
        store.get_historical_features(
            entity_df=given.to_pandas(), features=["view:value", "view:word"], filter_by_created_timestamp=as_created
        ).to_df()
        for store in stores(history)
    )
    order = ["id", "event_timestamp"]
    left, right = (frame.sort_values(order).reset_index(drop=True) for frame in (ours, theirs))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)
    assert left["value"].notna().sum() > 50


def test_difference_ties_without_created(stores: Any) -> None:
    """Of equal times ours takes the last row; theirs takes any."""
    ours, theirs = stores(rows((1, 1, 0, 0), (1, 2, 0, 0)), created_timestamp_column="")
    assert joined(ours, asked((1, 0)).to_pandas()) == [2]
    assert joined(theirs, asked((1, 0)).to_pandas())[0] in {1, 2}


def test_difference_order(stores: Any) -> None:
    """Ours keeps the order of the entity rows; theirs may not."""
    ours, theirs = stores(rows(*((key, key, 0, 0) for key in range(50))))
    given = asked(*((key, 1) for key in reversed(range(50)))).to_pandas()
    assert joined(ours, given) == list(reversed(range(50)))
    assert sorted(joined(theirs, given)) == list(range(50))


def test_difference_repeated_rows(stores: Any) -> None:
    """Both keep them."""
    for store in stores(rows((1, 1, 0, 0))):
        assert joined(store, asked((1, 0), (1, 0)).to_pandas()) == [1, 1]


def test_difference_keys_of_other_types(stores: Any) -> None:
    """Ours takes integers that pandas made floats or text for what they are."""
    ours, theirs = stores(rows((1, 1, 0, 0)))
    given = pd.DataFrame({"id": ["1", "x"], "event_timestamp": [START + timedelta(days=1)] * 2})
    assert joined(ours, given) == [1, None]
    with pytest.raises(Exception, match="id|compare|cast|Cannot"):
        joined(theirs, given)
