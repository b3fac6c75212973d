"""Training tables: point in time, split, rejected rows kept; and everything that cannot be used."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fti.common.errors import ConfigError, FeatureStoreError, FtiError
from fti.common.feature_store import open_store
from fti.common.online.reader import open_reader
from fti.common.settings import Settings
from fti.common.tables import Feature, read_spec
from fti.featurize.logic import featurize
from fti.materialize.logic import materialize
from fti.retrieve.logic import Outputs, retrieve
from fti.retrieve.split import Split
from tests.featurize.shop import write_shop

TIME = Split("time", ["2024-01-15", "2024-01-22"])


@pytest.fixture
def repo(tmp_path: Path, settings: Settings) -> str:
    repo, orders = write_shop(tmp_path)
    featurize({"orders": orders}, str(repo), settings.home / "features.json", settings)
    return str(repo)


def run(repo: str, settings: Settings, folder: Path, **changes: Any) -> dict[str, float]:
    parameters = {
        "feature_service": "shop_v1",
        "entities": "asked",
        "label": "again",
        "request_features": ["channel"],
        "split": TIME,
    } | changes
    outputs = Outputs(*(folder / name for name in ("train", "validation", "test", "rejected")))
    return retrieve(repo, outputs=outputs, settings=settings, **parameters)


def test_sets_describe_themselves_and_rejected_rows_keep_their_reason(
    repo: str, settings: Settings, tmp_path: Path
) -> None:
    metrics = run(repo, settings, tmp_path)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (13, 7, 9)
    assert 0 < metrics["train_positive_share"] < 1
    train = pl.read_parquet(tmp_path / "train")
    assert train["spending__orders"].to_list() == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    spec = read_spec(tmp_path / "test")
    assert spec is not None
    assert spec.features == (
        Feature("channel", "string"),
        Feature("spending__total", "float32", "spending:total"),
        Feature("spending__orders", "int64", "spending:orders"),
    )
    assert (spec.entity_keys, spec.event_timestamp, spec.feature_service) == (
        ("customer",),
        "event_timestamp",
        "shop_v1",
    )
    assert pl.read_parquet(tmp_path / "rejected")["reason"].to_list() == ["returned"]


def test_entity_rows_may_come_from_a_file(repo: str, settings: Settings, tmp_path: Path) -> None:
    rows = pl.DataFrame(
        {
            "customer": [0, 0, 1, 99, 0],
            "event_timestamp": ["2024-01-01T12:00:00", "2024-01-16", "2024-01-23T12:00:00", "2024-01-24", "2024-06-01"],
            "channel": ["web"] * 5,
            "again": [1.0, 0.0, 1.0, 0.0, float("nan")],
        }
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    run(repo, settings, tmp_path, entities=str(tmp_path / "rows.parquet"))
    assert pl.read_parquet(tmp_path / "train")["spending__orders"].to_list() == [1]
    assert pl.read_parquet(tmp_path / "test")["spending__orders"].to_list() == [8, None]
    assert pl.read_parquet(tmp_path / "rejected")["reason"].to_list() == ["no label"]


def test_expired_values_are_missing(repo: str, settings: Settings, tmp_path: Path) -> None:
    times = [
        "2024-01-01T12:00:00",
        "2024-01-18T12:00:00",
        "2024-01-30T12:00:00",
        "2024-02-01T12:00:00",
        "2024-02-01T12:00:01",
    ]
    rows = pl.DataFrame(
        {"customer": [0, 2, 2, 2, 2], "event_timestamp": times, "channel": "web", "again": [True, False] * 2 + [True]}
    )
    rows.write_parquet(tmp_path / "rows.parquet")
    run(repo, settings, tmp_path, entities=str(tmp_path / "rows.parquet"))
    assert pl.read_parquet(tmp_path / "test")["spending__orders"].to_list() == [10, 10, None]


def test_one_class_only_is_a_warning(
    repo: str, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = pl.read_parquet(Path(settings.offline_uri) / "asked").with_columns(again=pl.lit(True))
    rows.write_parquet(tmp_path / "rows.parquet")
    assert run(repo, settings, tmp_path, entities=str(tmp_path / "rows.parquet"))["train_classes"] == 1
    assert "train holds one value of again only" in caplog.text


@pytest.mark.parametrize("name", ["h [1] é", "h *?", "h%20x"])
def test_a_home_of_any_name(name: str, tmp_path: Path) -> None:
    settings = Settings.from_env({"FTI_HOME": str(tmp_path / name)})
    shop, orders = write_shop(settings.home / "given")
    repo = str(shop)
    featurize({"orders": orders}, repo, settings.home / "features.json", settings)
    run(repo, settings, settings.home)
    train = pl.read_parquet(settings.home / "train", glob=False)
    assert train["spending__orders"].to_list() == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    run(repo, settings, settings.home, entities=str(Path(settings.offline_uri, "asked")))
    rows = pl.read_parquet(Path(settings.offline_uri, "asked"), glob=False)
    rows.write_parquet(settings.home / "rows.parquet")
    run(repo, settings, settings.home, entities=str(settings.home / "rows.parquet"))
    materialize(repo, "", settings)
    reader = open_reader(open_store(repo, settings), "shop_v1", lambda: datetime(2024, 1, 29, tzinfo=UTC))
    found = reader.read({"customer": [0, 99]})
    assert found.columns["spending__orders"][0] == 10 and found.status["spending"].tolist() == ["fresh", "missing"]
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (settings.home / "registry.db").is_file()


def test_errors_show_no_query_plan(repo: str, settings: Settings, tmp_path: Path) -> None:
    for file in Path(settings.offline_uri, "spending").rglob("*.parquet"):
        pl.read_parquet(file, hive_partitioning=False).drop("total").write_parquet(file)
    with pytest.raises(FeatureStoreError, match="total") as failure:
        run(repo, settings, tmp_path)
    assert "\n" not in str(failure.value)
    for file in Path(settings.offline_uri, "asked").glob("event_date=2024-01-1*/*.parquet"):
        pl.read_parquet(file, hive_partitioning=False).drop("channel").write_parquet(file)
    with pytest.raises(FeatureStoreError, match="channel") as failure:
        run(repo, settings, tmp_path)
    assert "\n" not in str(failure.value)


def test_times_that_are_none(repo: str, settings: Settings, tmp_path: Path) -> None:
    rows = pl.read_parquet(Path(settings.offline_uri) / "asked").with_columns(event_timestamp=pl.lit("yesterday"))
    rows.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(FeatureStoreError, match=r"event_timestamp of .* holds what is no time"):
        run(repo, settings, tmp_path, entities=str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"feature_service": "shop_v9"}, FeatureStoreError, "no feature service 'shop_v9'. Allowed: shop_v1"),
        ({"entities": "nobody"}, FeatureStoreError, "no entity table 'nobody'"),
        ({"label": "agian"}, ConfigError, "lacks agian"),
        ({"request_features": ["weather"]}, ConfigError, "lacks weather"),
        ({"request_features": ["channel", "channel"]}, ConfigError, "more than once"),
        ({"request_features": ["again"]}, ConfigError, "also a feature"),
        ({"split": Split("group", group="airline")}, ConfigError, "lacks airline"),
        ({"split": Split("time", ["2030-01-01", "2030-01-02"])}, FeatureStoreError, "validation and test"),
        ({"label": "no_label_reason"}, FtiError, ""),
    ],
)
def test_what_cannot_be_used_leaves_nothing(
    repo: str, settings: Settings, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        run(repo, settings, tmp_path, **changes)
    assert not [name for name in ("train", "validation", "test", "rejected") if (tmp_path / name).exists()]


def test_no_row_with_a_label(repo: str, settings: Settings, tmp_path: Path) -> None:
    rows = pl.read_parquet(Path(settings.offline_uri) / "asked").with_columns(again=pl.lit(None, pl.Boolean))
    rows.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(FeatureStoreError, match="none of 30 entity rows has a label"):
        run(repo, settings, tmp_path, entities=str(tmp_path / "rows.parquet"))
