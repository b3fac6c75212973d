"""Files that are not whole, and tables that are not there: errors that name them, and never half a result."""

from pathlib import Path
from typing import Any

import pytest

from fti.common.errors import FeatureStoreError
from tests.retrieve.plain import START, apply_view, asked, joined, plain_store, rows


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for day in range(3):
        folder = tmp_path / f"table/event_date=2024-01-0{day + 1}"
        folder.mkdir(parents=True)
        rows(*((key, day, day, 0) for key in range(1000))).write_parquet(folder / "part-0.parquet")
    return tmp_path / "table"


@pytest.fixture
def store(tmp_path: Path, table: Path) -> Any:
    store = plain_store(tmp_path / "repo")
    apply_view(store, str(table))
    return store


@pytest.mark.parametrize("day", [1, 2, 3])
@pytest.mark.parametrize("left", [0, 3, 1000, -1])
def test_a_truncated_file_is_named(store: Any, table: Path, day: int, left: int) -> None:
    damaged = table / f"event_date=2024-01-0{day}/part-0.parquet"
    damaged.write_bytes(damaged.read_bytes()[:left])
    with pytest.raises(FeatureStoreError, match="Write that file again, or take it away") as failure:
        joined(store, asked((1, 2)))
    assert str(damaged) in str(failure.value)
    assert "\n" not in str(failure.value)
    with pytest.raises(FeatureStoreError, match="part-0.parquet"):
        store.materialize(START, START.replace(day=4))


def test_a_file_outside_of_the_span_may_be_damaged(store: Any, table: Path) -> None:
    """Its folder is not even opened."""
    (table / "event_date=2024-01-03/part-0.parquet").write_bytes(b"PAR1")
    assert joined(store, asked((1, 0))) == [0]


def test_pages_that_are_overwritten(store: Any, table: Path) -> None:
    damaged = table / "event_date=2024-01-02/part-0.parquet"
    content = bytearray(damaged.read_bytes())
    content[4:2000] = bytes(1996)
    damaged.write_bytes(content)
    with pytest.raises(FeatureStoreError, match=f"cannot be read at {table}"):
        joined(store, asked((1, 2)))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "repo")
    for path in ("none", "none.parquet"):
        apply_view(store, str(tmp_path / path))
        with pytest.raises(FeatureStoreError, match=f"cannot be read at .*{path}"):
            joined(store, asked((1, 2)))


def test_a_table_that_is_no_parquet(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "repo")
    (tmp_path / "t.parquet").write_text("id,value\n1,2\n")
    apply_view(store, str(tmp_path / "t.parquet"))
    with pytest.raises(FeatureStoreError, match=r"t\.parquet"):
        joined(store, asked((1, 2)))


def test_a_column_that_is_not_there(store: Any, table: Path) -> None:
    for file in table.rglob("*.parquet"):
        rows((1, 1, 0, 0)).drop("value").write_parquet(file)
    with pytest.raises(FeatureStoreError, match="value"):
        joined(store, asked((1, 2)))
