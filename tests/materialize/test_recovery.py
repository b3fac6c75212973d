"""Killed in the middle, with the store gone in the middle, from an object store: run again, and all is right."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import polars as pl
import pytest

from fti.common.errors import FtiError, OnlineStoreError
from fti.common.settings import Settings
from fti.common.storage import publish_dir
from fti.materialize.logic import materialize
from tests.materialize.stores import latest, stored, write_repo, write_spending
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, object_store
from tests.servers import redis_server

pytestmark = pytest.mark.slow

OLD, NEW = 10_000, 60_000
MATERIALIZE = """
import sys
from fti.common.settings import Settings
from fti.materialize.logic import materialize
materialize(sys.argv[1], "", Settings.from_env())
"""


def table(customers: range, days: int, version: int) -> pl.DataFrame:
    rows = pl.DataFrame({"customer": customers}).with_columns(
        day=pl.col("customer") % days, orders=pl.col("customer") * 10 + version
    )
    return rows.with_columns(total=pl.col("orders") / 2)


def wait_until(reached: Callable[[], bool], process: "subprocess.Popen[bytes] | Thread") -> None:
    """Watches closely, for what is awaited passes by in a fraction of a second."""
    deadline = time.monotonic() + 120
    while not reached():
        ended = not process.is_alive() if isinstance(process, Thread) else process.poll() is not None
        assert not ended and time.monotonic() < deadline, "it was over before it could be stopped"


def kill_in_the_middle(repo: str, settings: Settings, written: Callable[[], int]) -> None:
    before = written()
    process = subprocess.Popen(
        [sys.executable, "-c", MATERIALIZE, repo], env={**os.environ, **settings.environ()}, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: written() > before, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def check_killed(repo: str, settings: Settings, written: Callable[[], int]) -> None:
    """A correction that changes, adds, moves and removes rows, cut off in the middle of those that it adds."""
    write_spending(settings, table(range(OLD), days=9, version=1))
    materialize(repo, "", settings)
    before = written()
    corrected = table(range(100, NEW), days=7, version=2)
    write_spending(settings, corrected)
    kill_in_the_middle(repo, settings, written)
    assert before < written() < before * NEW / OLD, "it was killed too late"
    materialize(repo, "", settings)
    assert stored(repo, settings, list(range(NEW))) == latest(corrected)
    assert materialize(repo, "", settings)[0].keys == 0


def test_killed_while_it_writes_sqlite(tmp_path: Path, settings: Settings) -> None:
    repo = write_repo(tmp_path, settings)

    def written() -> int:
        connection = sqlite3.connect(settings.home / "online.db")
        try:
            query = "SELECT count(DISTINCT entity_key) FROM shop_spending WHERE entity_key != x''"
            (keys,) = connection.execute(query).fetchone()
            return int(keys)
        finally:
            connection.close()

    check_killed(repo, settings, written)


def test_killed_while_it_writes_redis(tmp_path: Path, settings: Settings) -> None:
    with redis_server() as server, server.client() as client:
        repo = write_repo(tmp_path, settings, f'{{type: redis, connection_string: "127.0.0.1:{server.port}"}}')
        check_killed(repo, settings, lambda: int(client.dbsize()))


def test_redis_gone_while_it_is_written(tmp_path: Path, settings: Settings) -> None:
    with redis_server() as server, server.client() as client:
        repo = write_repo(
            tmp_path, settings, f'{{type: redis, connection_string: "127.0.0.1:{server.port},client_name=pass-word"}}'
        )
        rows = table(range(NEW), days=9, version=1)
        write_spending(settings, rows)
        failures: list[FtiError] = []

        def run() -> None:
            try:
                materialize(repo, "", settings)
            except FtiError as error:
                failures.append(error)

        thread = Thread(target=run)
        thread.start()
        wait_until(lambda: int(client.dbsize()) > 1, thread)
        server.stop()
        thread.join()
        (failure,) = failures
        assert isinstance(failure, OnlineStoreError)
        assert f"Redis at 127.0.0.1:{server.port}, fails" in str(failure)
        assert "pass-word" not in str(failure)
        server.start()
        materialize(repo, "", settings)
        assert stored(repo, settings, list(range(NEW))) == latest(rows)


def test_only_the_changed_days_of_an_object_store(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weed"
    folder.mkdir()
    with object_store(folder) as endpoint:
        environ = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        environ |= {"AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true", "FTI_OFFLINE_URI": f"s3://{BUCKET}/offline"}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        remote = Settings.from_env({**os.environ})
        repo = write_repo(tmp_path, remote)
        local = Settings.from_env({**os.environ, "FTI_OFFLINE_URI": str(tmp_path / "copy")})

        def publish(rows: pl.DataFrame) -> None:
            (tmp_path / "copy/spending").mkdir(parents=True, exist_ok=True)
            write_spending(local, rows)
            publish_dir(tmp_path / "copy/spending", f"{remote.offline_uri}/spending", remote)

        rows = table(range(30), days=9, version=1)
        publish(rows)
        assert materialize(repo, "", remote)[0].keys == 30
        publish(rows)
        assert materialize(repo, "", remote)[0].keys == 0
        wrong = pl.col("day") == 7
        corrected = rows.with_columns(orders=pl.when(wrong).then(1).otherwise("orders")).filter(
            pl.col("customer") != 25
        )
        publish(corrected)
        (done,) = materialize(repo, "", remote)
        assert (done.keys, done.removed) == (5, 1), "two on the day that has changed, three after it"
        assert stored(repo, remote, list(range(30))) == latest(corrected)
