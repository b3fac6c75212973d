"""Two steps in two pods: they share PostgreSQL and Redis, and no disk."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from fti.common.errors import BusyError, FeatureStoreError, StorageError
from fti.common.feature_store import open_store
from fti.common.settings import Settings
from fti.materialize import logic
from fti.materialize.alone import alone
from fti.materialize.logic import materialize
from tests.featurize.shop import STORE
from tests.materialize.stores import stored, write_repo
from tests.servers import PASSWORD, postgres_server, redis_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOLDS = textwrap.dedent(
    """
    import sys, time
    from fti.common.feature_store import open_store
    from fti.common.settings import Settings
    from fti.materialize.alone import alone

    settings = Settings.from_env()
    with alone(open_store(sys.argv[1], settings), settings):
        print("held", flush=True)
        time.sleep(600)
    """
)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, int]]:
    with pytest.MonkeyPatch.context() as patch, postgres_server() as url, redis_server() as redis:
        patch.setenv("DB_PASSWORD", PASSWORD)
        yield url, redis.port


@pytest.fixture
def repo(servers: tuple[str, int], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url, port = servers
    profile = STORE.replace("sqlite:///${FTI_HOME}/registry.db", url)
    monkeypatch.setattr("tests.featurize.shop.STORE", profile)
    monkeypatch.setenv("FTI_OFFLINE_URI", settings.offline_uri)
    return write_repo(tmp_path, settings, f'{{type: redis, connection_string: "127.0.0.1:{port}"}}')


@pytest.fixture
def other(settings: Settings, tmp_path: Path) -> Settings:
    """Another pod: a home of its own."""
    return replace(settings, home=tmp_path / "another pod")


@contextmanager
def step(repo: str, settings: Settings) -> Iterator["subprocess.Popen[str]"]:
    """A step in a process of its own, which holds the lock."""
    command, environ = [sys.executable, "-c", HOLDS, repo], {**os.environ, **settings.environ()}
    with subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_two_pods_exclude_one_another_and_a_killed_one_nobody(
    repo: str, settings: Settings, other: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with step(repo, other) as process:
        monkeypatch.setattr("fti.materialize.alone.WAIT", 1)
        with pytest.raises(BusyError, match="another materialization is at work on the feature store 'shop'"):
            materialize(repo, "", settings)
        process.send_signal(signal.SIGKILL)
        monkeypatch.setattr("fti.materialize.alone.WAIT", 40)
        assert materialize(repo, "", settings)[0].keys == 3
    assert materialize(repo, "", other)[0].keys == 0
    assert {customer: orders for customer, (orders, _) in stored(repo, settings, [0, 1, 2]).items()} == {
        0: 10,
        1: 10,
        2: 10,
    }


def test_who_lost_the_lock_writes_nothing_more(
    repo: str, servers: tuple[str, int], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize(repo, "", settings)
    read = logic.latest

    def cut_off(*arguments: object) -> object:
        engine = create_engine(servers[0].replace("${DB_PASSWORD}", PASSWORD.replace("@", "%40").replace("/", "%2F")))
        with engine.connect() as admin:
            admin.execute(text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"))
        engine.dispose()
        return read(*arguments)  # type: ignore[arg-type]

    table = next(Path(settings.offline_uri, "spending").rglob("*.parquet"))
    table.rename(table.with_name("again.parquet"))
    monkeypatch.setattr(logic, "latest", cut_off)
    with pytest.raises(FeatureStoreError, match=r"the lock on the online store.*Run it again"):
        materialize(repo, "", settings)


def test_the_settings_of_the_session_are_taken(repo: str, servers: tuple[str, int], settings: Settings) -> None:
    store = open_store(repo, settings)
    with alone(store, settings) as held:
        held()
        with store.registry.write_engine.connect() as another:  # type: ignore[attr-defined]
            count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            assert another.execute(text(count)).scalar() == 1
            assert another.execute(text("SHOW lock_timeout")).scalar() == "0"  # no other session of the pool
    with store.registry.write_engine.connect() as another:  # type: ignore[attr-defined]
        assert another.execute(text(count)).scalar() == 0


def test_a_home_that_cannot_be_written_is_told(settings: Settings, tmp_path: Path) -> None:
    home = tmp_path / "file" / "home"
    home.parent.touch()
    store = open_store(write_repo(tmp_path, settings, "{type: sqlite, path: online.db}"), settings)
    told = pytest.raises(StorageError, match="materialize.lock could not be written: Not a directory")
    with told, alone(store, replace(settings, home=home)):
        raise AssertionError("there is no such folder")
