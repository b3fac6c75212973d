"""What a predictor in a pod needs of a Feast repository is where it can read it, or the push is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from fti.common.errors import ConfigError, FeatureStoreError
from fti.common.feature_store import open_store
from fti.common.inference_service import read_service
from fti.common.settings import Settings
from fti.common.shared_repo import shared_repo
from fti.common.storage import exists, stamps
from fti.push.logic import push
from tests.push.conftest import Cluster, standard
from tests.serve import tiny

__all__ = ["standard"]

SERVERS = """
project: shop
provider: local
registry: {registry_type: sql, path: "postgresql+psycopg://${PG_USER}:${PG_PASSWORD}@db/feast"}
online_store: {type: redis, connection_string: "${REDIS}"}
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = tmp_path / "repo"
    (repo / "sql").mkdir(parents=True)
    (repo / "definitions.py").write_text("raise SystemExit('no predictor needs this')")
    (repo / "feature_store.yaml").write_text("project: shop\nprovider: local\nregistry: registry.db\n")
    (repo / "feature_store.server.yaml").write_text(SERVERS)
    return repo


@pytest.mark.slow
def test_the_profiles_of_a_folder_travel_with_the_models(repo: Path, s3: Settings, tmp_path: Path) -> None:
    settings = replace(s3, models_uri="s3://fti-tests/models", serving="standard")
    uri = shared_repo(str(repo), settings, {"FTI_PROFILE": "server"})
    assert uri.startswith("s3://fti-tests/models/_feature_repos/")
    assert set(stamps(uri, settings)) == {"feature_store.yaml", "feature_store.server.yaml"}
    assert shared_repo(str(repo), settings, {"FTI_PROFILE": "server"}) == uri
    assert shared_repo(uri, settings, {"FTI_PROFILE": "server"}) == uri
    more = 'auth: {token: "${TOKEN}", secret: "", password: null, use_token: true}\nredis: "r,password=${P},ssl=true"\n'
    (repo / "feature_store.server.yaml").write_text(SERVERS + more)  # variables, and nothing at all
    assert shared_repo(str(repo), settings, {"FTI_PROFILE": "server"}) != uri


@pytest.mark.slow
def test_a_predictor_opens_what_was_published(
    repo: Path, s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(s3, models_uri="s3://fti-tests/models", serving="standard", home=tmp_path / "pod")
    (repo / "feature_store.server.yaml").write_text(
        SERVERS.replace("postgresql+psycopg://${PG_USER}:${PG_PASSWORD}@db/feast", "sqlite:///${FTI_HOME}/registry.db")
    )
    with pytest.raises(ConfigError, match="keeps its registry in a file"):
        shared_repo(str(repo), settings, {"FTI_PROFILE": "server"})
    (repo / "feature_store.server.yaml").write_text(SERVERS)
    uri = shared_repo(str(repo), settings, {"FTI_PROFILE": "server"})
    for name, value in {"FTI_PROFILE": "server", "PG_USER": "me", "PG_PASSWORD": "x", "REDIS": "r:1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FeatureStoreError, match="the registry of the feature store 'shop' cannot be reached"):
        open_store(uri, settings, offline=False)  # it asks for PostgreSQL on `db`, as the profile says


@pytest.mark.slow
def test_push_names_what_predictors_can_read_or_writes_nothing(
    standard: Cluster, s3: Settings, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {name: getattr(s3, name) for name in ("s3_endpoint", "s3_access_key", "s3_secret_key")}
    settings = replace(standard.settings, models_uri="s3://fti-tests/pushed", **keys)
    package = tiny.write_binary(tmp_path / "model")
    blessing = tiny.blessing(tmp_path / "blessing.json", package)
    monkeypatch.delenv("FTI_PROFILE", raising=False)
    with pytest.raises(ConfigError, match=r"keeps its registry and online_store in a file.*Set FTI_PROFILE"):
        push(package.path, blessing, service="late", settings=settings, feature_repo=str(repo))
    assert read_service("late", settings) is None and not exists("s3://fti-tests/pushed", settings)
    monkeypatch.setenv("FTI_PROFILE", "server")
    push(package.path, blessing, service="late", settings=settings, feature_repo=str(repo))
    service = read_service("late", settings)
    assert service and service.stable.feature_repo.startswith("s3://fti-tests/pushed/_feature_repos/")


def test_a_package_stays_as_it_is_and_is_looked_at(settings: Settings) -> None:
    cluster = replace(settings, serving="standard")
    feature_repo = "package://fti.feature_repo/"
    assert shared_repo(feature_repo, cluster, {"FTI_PROFILE": "server"}) == feature_repo
    with pytest.raises(ConfigError, match=r"feature_store.yaml keeps its registry and online_store in a file"):
        shared_repo(feature_repo, cluster, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("project: shop\nregistry: {path: data/registry.db}\nonline_store: {type: redis}", "its registry in a file"),
        ("project: shop\nregistry: s3://b/registry.db", "its online_store in a file"),
        ("project: shop\nregistry: {registry_type: sql, path: 'sqlite:///x'}\nonline_store: redis", "its registry in"),
        ("- 1", "is no YAML map"),
        ("a: [", "is no YAML"),
    ],
)
def test_stores_in_files_are_refused(repo: Path, settings: Settings, text: str, said: str) -> None:
    (repo / "feature_store.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        shared_repo(str(repo), replace(settings, serving="standard", models_uri="s3://b/models"), {})


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ('"postgresql+psycopg://${PG_USER}:hunter2@db/feast"', "a secret under registry.path"),
        ('"postgresql+psycopg://${PG_USER}:hunt/er2@db/feast"', "a secret under registry.path"),
        ('"postgresql+psycopg://db/feast", password: hunter2', "a secret under registry.password"),
        ('"postgresql+psycopg://db/feast", password: 123456', "a secret under registry.password"),
        ('"postgresql+psycopg://db/feast", DB_Passwd: $hunter2', "a secret under registry.DB_Passwd"),
        ('"s3://b/r", aws: {secret_access_key: hunter2}', "a secret under registry.aws.secret_access_key"),
        ('"s3://b/r", tokens: [hunter2]', "a secret under registry.tokens"),
    ],
)
def test_a_secret_is_never_published(repo: Path, settings: Settings, whole: str, said: str) -> None:
    profile = repo / "feature_store.server.yaml"
    profile.write_text(SERVERS.replace('"postgresql+psycopg://${PG_USER}:${PG_PASSWORD}@db/feast"', whole))
    cluster = replace(settings, serving="standard", models_uri="s3://b/models")
    with pytest.raises(ConfigError, match=said) as caught:
        shared_repo(str(repo), cluster, {"FTI_PROFILE": "server"})
    assert "hunter2" not in str(caught.value)
    for word in ("password", "Password"):
        profile.write_text(SERVERS.replace("${REDIS}", f"redis:6379,{word}=hunter2"))
        with pytest.raises(ConfigError, match="a secret under online_store.connection_string"):
            shared_repo(str(repo), cluster, {"FTI_PROFILE": "server"})


def test_models_in_a_folder_are_refused(repo: Path, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="predictors of a cluster can read neither"):
        shared_repo(str(repo), replace(settings, serving="standard"), {"FTI_PROFILE": "server"})
