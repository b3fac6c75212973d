"""Feature tables: whole or unchanged, byte-identical, registered; and every SQL that cannot be used."""

import json
from pathlib import Path

import polars as pl
import pytest
from kfp import dsl, local

from fti.common.errors import ConfigError, FeatureStoreError, FtiError, TransformError
from fti.common.feature_store import open_store
from fti.common.files import digest_of
from fti.common.settings import Settings
from fti.featurize.logic import by_name, featurize
from tests.featurize.shop import DEFINITIONS, write_shop

SIMPLE = "SELECT customer, bought AS event_timestamp, amount AS total, 1 AS orders"


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, Path]:
    return write_shop(tmp_path)


def run(shop: tuple[Path, Path], settings: Settings) -> None:
    featurize({"orders": shop[1]}, str(shop[0]), settings.home / "features.json", settings)


def test_tables_are_partitioned_by_day_described_and_registered(shop: tuple[Path, Path], settings: Settings) -> None:
    run(shop, settings)
    table = Path(settings.offline_uri) / "spending"
    assert len(list(table.glob("event_date=2024-01-*/part-0.parquet"))) == 30
    day = pl.read_parquet(table / "event_date=2024-01-05" / "part-0.parquet", hive_partitioning=False)
    assert day.schema["event_timestamp"] == pl.Datetime("us", "UTC")
    assert "event_date" not in day.columns
    described = json.loads((settings.home / "features.json").read_text())
    assert {each["name"]: (each["rows"], each["partitions"]) for each in described["tables"]} == {
        "asked": (30, 30),
        "spending": (30, 30),
    }
    assert described["registered"] == {"entities": 1, "feature_views": 1, "feature_services": 1}


def test_the_same_input_gives_the_same_bytes(shop: tuple[Path, Path], settings: Settings) -> None:
    run(shop, settings)
    before = digest_of(settings.offline_uri)
    pl.read_parquet(shop[1]).sample(fraction=1, shuffle=True, seed=3).write_parquet(shop[1])
    run(shop, settings)
    assert digest_of(settings.offline_uri) == before


def test_days_without_rows_any_more_are_gone(shop: tuple[Path, Path], settings: Settings) -> None:
    run(shop, settings)
    (shop[0] / "sql" / "spending.sql").write_text(f"{SIMPLE} FROM orders WHERE customer = 0")
    run(shop, settings)
    assert len(list((Path(settings.offline_uri) / "spending").iterdir())) == 10


def test_helpers_run_first_and_are_not_published(shop: tuple[Path, Path], settings: Settings) -> None:
    (shop[0] / "sql" / "_big.sql").write_text("FROM orders WHERE amount > 50;")
    (shop[0] / "sql" / "spending.sql").write_text(f"{SIMPLE} FROM _big")
    run(shop, settings)
    assert sorted(path.name for path in Path(settings.offline_uri).iterdir()) == ["asked", "spending"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT customer,\n    bought AS event_timestamp,\n    amuont\nFROM orders", r"spending\.sql:3: .*amuont"),
        ("SELECT customer,\n bought AS event_timestamp\nFORM orders", r"spending\.sql:3: "),
        ("SELECT customer, bought AS event_timestamp FROM nothing", r"spending\.sql:1: .*nothing"),
        (
            "SELECT bought AS event_timestamp, ('x' || channel)::INT AS n FROM orders",
            r"spending\.sql:1: Conversion Error",
        ),
        ("SELECT customer FROM orders", "no column.*TIMESTAMP"),
        ("SELECT 'today' AS event_timestamp FROM orders", "event_timestamp as VARCHAR"),
        ("SELECT if(amount > 0, bought, NULL) AS event_timestamp FROM orders", "rows without event_timestamp"),
        ("SELECT bought AS event_timestamp FROM orders WHERE false", "gives no row"),
        ("", r"spending\.sql holds 0 statements"),
        ("SELECT bought AS event_timestamp FROM orders; DROP VIEW orders", r"spending\.sql holds 2 statements"),
        # What only makes sense behind the text put before it must not run either.
        ("orders; COPY orders TO 'copied.csv'", r"spending\.sql:1: Parser Error"),
    ],
)
def test_sql_that_fails_changes_nothing(shop: tuple[Path, Path], settings: Settings, sql: str, said: str) -> None:
    run(shop, settings)
    before = digest_of(settings.home / "offline")
    (shop[0] / "sql" / "spending.sql").write_text(sql)
    (shop[0] / "sql" / "asked.sql").write_text("SELECT 1 AS other, bought AS event_timestamp FROM orders")
    with pytest.raises(TransformError, match=said):
        run(shop, settings)
    assert digest_of(settings.home / "offline") == before


def test_sql_that_is_not_utf_8(shop: tuple[Path, Path], settings: Settings) -> None:
    (shop[0] / "sql" / "spending.sql").write_bytes(f"{SIMPLE} FROM orders -- é".encode("latin-1"))
    with pytest.raises(TransformError, match=r"spending\.sql is not UTF-8"):
        run(shop, settings)


def test_a_helper_of_two_statements_runs_neither(shop: tuple[Path, Path], settings: Settings, tmp_path: Path) -> None:
    copied = tmp_path / "copied.csv"
    (shop[0] / "sql" / "_big.sql").write_text(f"FROM orders; COPY orders TO '{copied}'")
    with pytest.raises(TransformError, match=r"_big\.sql holds 2 statements"):
        run(shop, settings)
    assert not copied.exists()


def test_comments_a_semicolon_and_pivot_are_one_statement(shop: tuple[Path, Path], settings: Settings) -> None:
    (shop[0] / "sql" / "_big.sql").write_text("-- one; two\nFROM orders;\n")
    (shop[0] / "sql" / "by_channel.sql").write_text(
        "PIVOT (SELECT bought AS event_timestamp, channel, amount FROM _big) ON channel USING sum(amount)"
    )
    run(shop, settings)
    assert {"web", "shop"} <= set(pl.read_parquet(Path(settings.offline_uri) / "by_channel").columns)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (DEFINITIONS, "import nothing_of_that_name", "cannot be loaded"),
        (DEFINITIONS, "", "defines no feature view"),
        ('"total"', '"totl"', "view 'spending' needs 'totl', which the table 'spending' lacks.*customer.*total"),
        ('name="customer", v', 'name="customer", join_keys=["client"], v', "needs 'client'"),
        ('"event_timestamp"', '"made"', "needs 'made'"),
    ],
)
def test_definitions_that_cannot_be_used_change_nothing(
    shop: tuple[Path, Path], settings: Settings, old: str, new: str, said: str
) -> None:
    run(shop, settings)
    before = digest_of(settings.offline_uri)
    (shop[0] / "definitions.py").write_text(DEFINITIONS.replace(old, new))
    (shop[0] / "sql" / "asked.sql").write_text("SELECT 1 AS other, bought AS event_timestamp FROM orders")
    with pytest.raises(FeatureStoreError, match=said):
        run(shop, settings)
    assert digest_of(settings.offline_uri) == before


def test_views_may_rename_columns_and_read_other_tables(shop: tuple[Path, Path], settings: Settings) -> None:
    pl.DataFrame({"customer": [1], "event_timestamp": ["2024-01-01"], "age": [40]}).with_columns(
        pl.col("event_timestamp").str.to_datetime()
    ).write_parquet(settings.home.parent / "ages.parquet")
    renamed = DEFINITIONS.replace('"total"', '"spent"').replace(
        'timestamp_field="event_timestamp")', 'timestamp_field="event_timestamp", field_mapping={"total": "spent"})'
    )
    other = f"""
ages = FeatureView(name="ages", entities=[customer], schema=[Field(name="age", dtype=Int64)],
    source=FileSource(path="{settings.home.parent}/ages.parquet", timestamp_field="event_timestamp"))
"""
    (shop[0] / "definitions.py").write_text(renamed + other)
    run(shop, settings)


def test_a_registry_that_cannot_be_reached_changes_nothing(shop: tuple[Path, Path], settings: Settings) -> None:
    settings.home.mkdir()
    (settings.home / "registry.db").write_bytes(b"no database" * 1000)
    with pytest.raises(FeatureStoreError, match="registry of the feature store 'shop' cannot be reached"):
        run(shop, settings)
    assert not Path(settings.offline_uri).exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda repo: (repo / "feature_store.yaml").unlink(), "feature_store.yaml does not exist"),
        (lambda repo: (repo / "feature_store.yaml").write_text("project: [\n"), "is no YAML"),
        (lambda repo: (repo / "feature_store.yaml").write_text("project: ${NOT_SET_ANYWHERE}\n"), "NOT_SET_ANYWHERE"),
        (lambda repo: [file.unlink() for file in (repo / "sql").iterdir()], "no SQL transform"),
    ],
)
def test_a_repository_that_cannot_be_used(
    shop: tuple[Path, Path], settings: Settings, damage: object, said: str
) -> None:
    damage(shop[0])  # type: ignore[operator]
    with pytest.raises(FtiError, match=said):
        run(shop, settings)
    assert not Path(settings.offline_uri).exists()


def test_no_table(shop: tuple[Path, Path], settings: Settings) -> None:
    with pytest.raises(ConfigError, match="no table"):
        featurize({}, str(shop[0]), settings.home / "features.json", settings)


@dsl.component
def given(path: str, table: str, data: dsl.Output[dsl.Dataset]) -> None:
    import shutil

    shutil.copyfile(path, data.path)
    data.metadata["table"] = table


@pytest.mark.slow
def test_featurize_materialize_retrieve_as_a_pipeline(
    shop: tuple[Path, Path], settings: Settings, tmp_path: Path
) -> None:
    from fti.featurize.component import featurize
    from fti.materialize.component import materialize
    from fti.retrieve.component import retrieve

    @dsl.pipeline
    def loop(path: str, repo: str) -> None:
        with dsl.ParallelFor(["orders"]) as table:
            raw = given(path=path, table=table)
        features = featurize(tables=dsl.Collected(raw.outputs["data"]), feature_repo=repo)
        materialize(feature_repo=repo).after(features)
        retrieve(
            feature_repo=repo,
            feature_service="shop_v1",
            entities="asked",
            label="again",
            request_features=["channel"],
            boundaries=["2024-01-15", "2024-01-22"],
        ).after(features)

    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(tmp_path / "root"),
        workspace_root=str(tmp_path / "ws"),
    )
    loop(path=str(shop[1]), repo=str(shop[0]))
    (train,) = (tmp_path / "root").rglob("train")
    assert pl.read_parquet(train).columns == [
        "customer", "event_timestamp", "channel", "spending__total", "spending__orders", "again",
    ]  # fmt: skip


@pytest.mark.parametrize(("names", "says"), [(("a", "a"), "two tables are called 'a'"), (("a", ""), "y has no name")])
def test_every_table_needs_a_name_of_its_own(names: tuple[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        by_name(zip(names, ("x", "y"), strict=True))


def test_what_another_repository_registered_stays(tmp_path: Path, settings: Settings) -> None:
    repo, orders = write_shop(tmp_path)
    featurize({"orders": orders}, str(repo), tmp_path / "one.json", settings)
    definitions = repo / "definitions.py"
    definitions.write_text(definitions.read_text().replace('name="shop_v1"', 'name="shop_v2"'))
    featurize({"orders": orders}, str(repo), tmp_path / "two.json", settings)
    services = open_store(str(repo), settings).list_feature_services()
    assert sorted(service.name for service in services) == ["shop_v1", "shop_v2"]
