"""The registry under several hands: applies at once, applies that are killed, and what a newer version wrote."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewProto
from filelock import FileLock

from fti.common import registry
from fti.common.errors import BusyError, ConfigError, FeatureStoreError
from fti.common.feature_store import open_store, service_of
from fti.common.settings import Settings
from fti.featurize.definitions import apply, load_definitions
from tests.feature_repo.applying import Apply, run
from tests.featurize.shop import DEFINITIONS, STORE, write_shop
from tests.servers import PASSWORD, postgres_server

AT_ONCE = 4
WRITES = 48  # an apply of the shop into an empty registry makes a few more


def repos(folder: Path, number: int, profile: str = STORE) -> list[Path]:
    """Repositories that share a view, whose TTL they disagree about; each has a service and a view of its own."""
    made = []
    for index in range(number):
        (folder / str(index)).mkdir()
        repo, _ = write_shop(folder / str(index))
        (repo / "feature_store.yaml").write_text(profile)
        own = DEFINITIONS.replace("shop_v1", f"shop_v{index}").replace("days=2", f"days={index + 1}")
        own += own[own.index("spending = ") : own.index("shop_v")].replace("spending", f"view_{index}")
        (repo / "definitions.py").write_text(own)
        made.append(repo)
    return made


def applied(repo: Path, settings: Settings) -> dict[str, object]:
    """Everything in the registry, without its times."""
    store = open_store(str(repo), settings)
    views = store.list_all_feature_views()
    return {
        "entities": [entity.name for entity in store.list_entities()],
        "sources": sorted(source.name for source in store.list_data_sources()),
        "views": sorted((view.name, view.ttl, str(view.features)) for view in views),
        "services": sorted(service.name for service in store.list_feature_services()),
    }


def require_all(found: dict[str, object], number: int) -> None:
    assert found["services"] == [f"shop_v{index}" for index in range(number)]
    names = [name for name, *_ in found["views"]]  # type: ignore[attr-defined]
    assert names == sorted(["spending", *(f"view_{index}" for index in range(number))])


@pytest.fixture(params=["sqlite", "postgres"])
def profile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "sqlite":
        yield STORE
        return
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    with postgres_server() as url:
        yield STORE.replace("sqlite:///${FTI_HOME}/registry.db", url)


@pytest.mark.slow
def test_applies_at_once_all_survive(tmp_path: Path, settings: Settings, profile: str) -> None:
    several = repos(tmp_path, AT_ONCE, profile)
    applies = [Apply(str(settings.home), str(repo)) for repo in several]
    assert run(applies, at_once=True) == [0] * AT_ONCE  # into an empty registry, which all of them make
    require_all(applied(several[0], settings), AT_ONCE)
    assert run(applies, at_once=True) == [0] * AT_ONCE
    require_all(applied(several[0], settings), AT_ONCE)


@pytest.mark.slow
def test_an_apply_that_was_killed_is_mended_by_the_next(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTI_OFFLINE_URI", settings.offline_uri)
    (repo,) = repos(tmp_path, 1)
    homes = [tmp_path / f"home{writes}" for writes in range(1, WRITES, 5)]
    applies = [
        Apply(str(home), str(repo), dies_at)
        for home, writes in zip(homes, range(1, WRITES, 5), strict=True)
        for dies_at in (writes, 0)
    ]
    codes = run([Apply(str(settings.home), str(repo)), *applies], at_once=False)
    assert codes == [0, *[-9, 0] * len(homes)]
    whole = applied(repo, settings)
    for home in homes:
        assert (
            applied(repo, Settings.from_env({"FTI_HOME": str(home), "FTI_OFFLINE_URI": settings.offline_uri})) == whole
        )


def test_a_change_waits_for_another_and_not_for_ever(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, _ = write_shop(tmp_path)
    store = open_store(str(repo), settings)
    monkeypatch.setattr(registry, "WAIT", 0.1)
    with (
        FileLock(settings.home / "registry.db.lock"),
        pytest.raises(BusyError, match="'shop' has been changed by another"),
    ):
        apply(store, load_definitions(repo), repo)
    apply(store, load_definitions(repo), repo)
    assert service_of(store, "shop_v1")


@pytest.fixture
def shop(tmp_path: Path, settings: Settings) -> Path:
    repo, _ = write_shop(tmp_path)
    apply(open_store(str(repo), settings), load_definitions(repo), repo)
    return repo


def rewrite_view(settings: Settings, change: object) -> None:
    """Changes what the registry holds of the view, as another version of Feast would."""
    with sqlite3.connect(settings.home / "registry.db") as connection:
        ((stored,),) = connection.execute("SELECT feature_view_proto FROM feature_views")
        connection.execute("UPDATE feature_views SET feature_view_proto = ?", (change(stored),))  # type: ignore[operator]
    connection.close()


def with_unknown_field(stored: bytes) -> bytes:
    proto = FeatureViewProto.FromString(stored)
    proto.spec.MergeFromString(b"\xc2\x3e\x05newer")  # field 1000, of which this version knows nothing
    return proto.SerializeToString()


def with_unknown_type(stored: bytes) -> bytes:
    proto = FeatureViewProto.FromString(stored)
    proto.spec.features[0].value_type = 999
    return proto.SerializeToString()


def test_a_newer_registry_is_read_but_not_written_over(shop: Path, settings: Settings) -> None:
    rewrite_view(settings, with_unknown_field)
    store = open_store(str(shop), settings)
    assert [view.name for view in store.list_feature_views()] == ["spending"]
    before = (settings.home / "registry.db").read_bytes()
    (shop / "definitions.py").write_text(DEFINITIONS.replace("days=2", "days=3"))
    with pytest.raises(FeatureStoreError, match="newer than the code: Feast .* feature view 'spending'.*Install"):
        apply(store, load_definitions(shop), shop)
    assert (settings.home / "registry.db").read_bytes() == before


def test_a_type_that_only_a_newer_version_knows(shop: Path, settings: Settings) -> None:
    rewrite_view(settings, with_unknown_type)
    from fti.catalog.views import registered

    store = open_store(str(shop), settings)
    with pytest.raises(FeatureStoreError, match="'shop' holds what cannot be read: 999 .*newer version"):
        registered(store)
    with pytest.raises(FeatureStoreError, match="newer than the code"):
        apply(store, load_definitions(shop), shop)


def test_a_row_that_is_damaged(shop: Path, settings: Settings) -> None:
    rewrite_view(settings, lambda stored: stored[: len(stored) // 2])
    from fti.catalog.views import registered

    with pytest.raises(FeatureStoreError, match="'shop' holds what cannot be read"):
        registered(open_store(str(shop), settings))


def test_a_table_that_takes_no_row_of_this_version(tmp_path: Path, settings: Settings) -> None:
    """Feast holds the refusal of a new column without a value for a row that another has just written."""
    repo, _ = write_shop(tmp_path)
    store = open_store(str(repo), settings)
    with sqlite3.connect(settings.home / "registry.db") as connection:
        ((made,),) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'feature_services'")
        connection.execute("DROP TABLE feature_services")
        connection.execute(made.replace("project_id", "newer VARCHAR NOT NULL, project_id", 1))
    connection.close()
    with pytest.raises(FeatureStoreError, match="the registry did not take shop_v1"):
        apply(store, load_definitions(repo), repo)


def test_definitions_that_read_a_variable_that_is_not_set(tmp_path: Path, settings: Settings) -> None:
    repo, _ = write_shop(tmp_path)
    (repo / "definitions.py").write_text(DEFINITIONS.replace("FTI_OFFLINE_URI", "SHOP_BUCKET"))
    open_store(str(repo), settings)
    with pytest.raises(ConfigError, match=r"definitions\.py reads SHOP_BUCKET, which the environment does not set"):
        load_definitions(repo)
