"""`fti features` as a user types it."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fti.common.settings import Settings
from tests.catalog.store import fill_shop
from tests.cli.test_commands import fti
from tests.featurize.shop import write_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FTI_OFFLINE_URI", "FTI_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("FTI_HOME", str(folder / "home"))
        yield str(fill_shop(folder, Settings.from_env()))


def lines_of(text: str, word: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if word in line]


@pytest.mark.slow
def test_the_views_and_one_of_them(shop: str) -> None:
    text = fti("features", "--feature-repo", shop)
    ((name, keys, features, rows, *_),) = lines_of(text, "spending")
    assert (name, keys, features, rows) == ("spending", "customer", "2", "30")
    assert "2024-01-30 12:00" in text
    text = fti("features", "spending", "--feature-repo", shop)
    assert "sales" in text and "Spent so far [net]" in text and "Number of the customer [C]" in text
    assert lines_of(text, "EUR")[0][:6] == ["total", "Float32", "EUR", "0.0%", "0", "Spent"]
    found = json.loads(fti("features", "--json", "--feature-repo", shop))
    assert found["project"] == "shop"
    assert {view["name"]: (view["rows"], view["ttl"]) for view in found["views"]} == {
        "channels": (30, None),
        "spending": (30, 172800.0),
        "unused": (0, None),
    }
    assert found["views"][1]["latest_event"] == "2024-01-30T12:00:00+00:00"


@pytest.mark.slow
def test_an_entity(shop: str) -> None:
    text = fti("features", "-e", "customer=1", "--feature-repo", shop)
    assert lines_of(text, "orders") == [["spending", "orders", "10", "2024-01-29", "12:00", "stale", "7"]]
    assert not lines_of(text, "channels")
    (total, _) = json.loads(fti("features", "spending", "-e", "customer=2", "--json", "--feature-repo", shop))["values"]
    assert (total["feature"], total["unit"], total["status"], total["value"]) == ("total", "EUR", "stale", 0)
    assert total["stored"] > 100


@pytest.mark.slow
def test_pages(shop: str, tmp_path: Path) -> None:
    text = fti("features", "--html", str(tmp_path / "pages"), "--feature-repo", shop)
    assert text.strip() == str(tmp_path / "pages" / "index.html")
    assert len(list((tmp_path / "pages").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["spendings"], "no feature view 'spendings'"),
        (["-e", "customer"], "--entity is 'customer'. Allowed: KEY=VALUE"),
        (["-e", "custmer=1"], "Perhaps customer is meant"),
    ],
)
def test_a_mistake_is_explained(shop: str, arguments: list[str], said: str) -> None:
    assert said in fti("features", *arguments, "--feature-repo", shop, code=1)


@pytest.mark.slow
def test_stores_that_are_not_there(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, _ = write_shop(tmp_path)
    assert "has no feature view. Run featurize" in fti("features", "--feature-repo", str(repo), code=1)
    assert "feature_store.yaml does not exist" in fti("features", "--feature-repo", str(tmp_path), code=1)
    monkeypatch.setenv("FTI_PROFILE", "server")
    assert "FTI_POSTGRES_PASSWORD" in fti("features", code=1)


@pytest.mark.slow
def test_an_online_store_that_cannot_be_read(tmp_path: Path, settings: Settings) -> None:
    repo = fill_shop(tmp_path, settings)
    connection = sqlite3.connect(settings.home / "online.db")
    connection.execute("DROP TABLE shop_spending")
    connection.close()
    text = fti("features", "spending", "-e", "customer=1", "--feature-repo", str(repo), code=1)
    assert text.startswith("Error: ")
