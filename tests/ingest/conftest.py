"""A real PostgreSQL server, where the machine has one."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_store import free_ports

PASSWORD = "p@ss/word:s3cret"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of an empty database; `${DB_PASSWORD}` stands for its password, `PASSWORD`."""
    binary = shutil.which("postgres")
    if not binary:
        pytest.skip("no PostgreSQL on this machine")
    programs = Path(binary).resolve().parent
    # PostgreSQL refuses to run as root.
    account = {"user": pwd.getpwnam("nobody").pw_uid} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="fti-pg-") as folder:
        if account:
            os.chown(folder, account["user"], -1)
        secret = Path(folder) / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data, port = f"{folder}/data", free_ports(1)[0]
        initdb = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "tests",
            "-A",
            "scram-sha-256",
            f"--pwfile={secret}",
            "--no-sync",
        ]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **account)
        control = [programs / "pg_ctl", "-D", data, "-w", "-s"]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        with open(os.devnull, "w") as null:
            subprocess.run([*control, "-o", options, "start"], check=True, stdout=null, cwd=folder, **account)
        try:
            yield f"postgresql+psycopg://tests:${{DB_PASSWORD}}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder, **account)
