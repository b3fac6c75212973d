"""Queries on real databases: streamed, typed over all rows, and silent about passwords."""

import datetime
import sqlite3
from pathlib import Path

import duckdb
import pytest

from fti.common.errors import ConfigError, FtiError, SourceError, StorageError
from fti.ingest.logic import ingest
from tests.servers import PASSWORD


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """The URL of a SQLite database with 120,000 rows, whose last value of `mixed` is text."""
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE sales (id INTEGER, amount REAL, note TEXT, mixed, late)")
        many = ((i, i / 4, f"n{i % 3}", i, None) for i in range(119_999))
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", many)
        connection.execute("INSERT INTO sales VALUES (119999, 1.5, ' :x 100%', 'text', 7)")
    connection.close()
    return f"sqlite:///{tmp_path}/shop.db"


def test_sqlite(shop: str, tmp_path: Path) -> None:
    ingested = ingest(shop, "sales", tmp_path / "raw", query="SELECT * FROM sales ORDER BY id;")
    assert ingested.rows == 120_000
    assert ingested.schema == {
        "id": "BIGINT",
        "amount": "DOUBLE",
        "note": "VARCHAR",
        "mixed": "VARCHAR",
        "late": "BIGINT",
    }
    last = duckdb.sql(f"FROM read_parquet('{tmp_path}/raw') ORDER BY id DESC LIMIT 2").fetchall()
    assert last == [(119999, 1.5, " :x 100%", "text", 7), (119998, 29999.5, "n1", "119998", None)]


def test_colons_and_percent_signs_are_no_parameters(shop: str, tmp_path: Path) -> None:
    query = "SELECT note, '12:30' AS t, ':x' AS c, 'a%b' AS p FROM sales WHERE note LIKE ' :x%'"
    ingest(shop, "sales", tmp_path / "raw", query=query)
    assert duckdb.sql(f"FROM read_parquet('{tmp_path}/raw')").fetchall() == [(" :x 100%", "12:30", ":x", "a%b")]


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ("SELECT nope FROM sales", SourceError, "shop.db: no such column: nope"),
        ("SELEC", SourceError, "syntax error"),
        ("SELECT * FROM sales WHERE id < 0", SourceError, "returns no rows"),
        ("DELETE FROM sales", SourceError, "returns no table"),
        ("SELECT id AS a, note AS A FROM sales", SourceError, "several columns named 'A'"),
        ("", ConfigError, "shop.db without a query"),
    ],
)
def test_bad_queries(shop: str, tmp_path: Path, query: str, error: type[FtiError], says: str) -> None:
    with pytest.raises(error, match=says):
        ingest(shop, "sales", tmp_path / "raw", query=query)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.db"]
    assert ingest(shop, "sales", tmp_path / "raw", query="SELECT * FROM sales").rows == 120_000  # nothing was deleted


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        ("sqlite:///none.db", StorageError, "none.db does not exist"),
        ("sqlite://", StorageError, "in memory"),
        ("postgresql+psycopg://me:${PW}@127.0.0.1:1/db?options=${PW}", SourceError, r"me:\*\*\*@.*refused"),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/db", ConfigError, r"holds a password.*Allowed: \$\{NAME}"),
        ("nosuch+driver://me:${PW}@host/db", ConfigError, r"no driver for nosuch\+driver"),
        ("postgresql+psycopg://me:s3cret@host:port/db", ConfigError, "is not the URL of a database"),
        ("postgresql+psycopg://me:${NOT_SET}@host/db", ConfigError, r"\$\{NOT_SET}, which is not set"),
        ("${NOT_SET}", ConfigError, r"\$\{NOT_SET}, which is not set"),
    ],
)
def test_bad_urls(tmp_path: Path, url: str, error: type[FtiError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        ingest(url, "t", tmp_path / "raw", query="SELECT 1", environ={"PW": "s3cret"})
    assert "s3cret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_postgres(postgres: str, tmp_path: Path) -> None:
    query = """
        SELECT i AS id, i::numeric / 4 AS amount, 'n' || i AS note, i % 2 = 0 AS even, '{"a": [1]}'::jsonb AS document,
               timestamptz '2024-01-01 00:00+02' + i * interval '1 second' AS moment, date '2024-02-29' AS day,
               NULLIF(i, 1) AS gap, gen_random_uuid() AS uuid, ARRAY[i] AS list
        FROM generate_series(1, 120000) AS i
    """
    ingested = ingest(postgres, "numbers", tmp_path / "raw", query=query, environ={"DB_PASSWORD": PASSWORD})
    assert ingested.rows == 120_000
    assert ingested.source.startswith("postgresql+psycopg://tests:***@127.0.0.1:")
    kinds = {"id": "BIGINT", "note": "VARCHAR", "even": "BOOLEAN", "day": "DATE", "gap": "BIGINT", "uuid": "VARCHAR"}
    assert {name: ingested.schema[name] for name in kinds} == kinds
    assert ingested.schema["moment"] == "TIMESTAMP WITH TIME ZONE"
    assert ingested.schema["amount"].startswith("DECIMAL")
    with duckdb.connect() as connection:
        first = connection.execute(
            f"SELECT id, amount::DOUBLE, document, epoch(moment), gap FROM read_parquet('{tmp_path}/raw') LIMIT 1"
        )
        moment = datetime.datetime(2023, 12, 31, 22, 0, 1, tzinfo=datetime.UTC).timestamp()
        assert first.fetchone() == (1, 0.25, '{"a": [1]}', moment, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "password", "says"),
    [
        ("SELECT * FROM nowhere", PASSWORD, 'relation "nowhere" does not exist'),
        ("SELECT 1 / (10000 - i) AS x FROM generate_series(1, 20000) i", PASSWORD, "division by zero"),
        ("SELECT 1 AS a", "wr0ng", "password authentication failed"),
    ],
)
def test_postgres_failures(postgres: str, tmp_path: Path, query: str, password: str, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        ingest(postgres, "t", tmp_path / "raw", query=query, environ={"DB_PASSWORD": password})
    assert password not in str(caught.value)
    assert not list(tmp_path.iterdir())
