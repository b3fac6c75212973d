"""A real S3 object store for tests: SeaweedFS on this machine, with an account of its own."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from minio import Minio
from minio.error import MinioException
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

ACCESS_KEY, SECRET_KEY = "fti-test", "s3cr3t-of-the-tests"
READER_KEY, READER_SECRET = "fti-reader", "s3cr3t-of-the-reader"  # may read the bucket
BUCKET = "fti-tests"
_PORTS = ("master", "volume", "filer", "s3", "admin")


@contextmanager
def object_store(folder: Path, *more: str) -> Iterator[str]:
    """Runs `weed mini` and yields its S3 endpoint, with the bucket `BUCKET` made.

    Args:
        folder: Where it keeps its data.
        more: Further options of its command.
    """
    config = folder / "s3.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    _account("tests", ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "Write", "List", "Tagging"]),
                    _account("reader", READER_KEY, READER_SECRET, [f"Read:{BUCKET}", f"List:{BUCKET}"]),
                ]
            }
        )
    )
    ports = free_ports(2 * len(_PORTS))
    named = dict(zip(_PORTS, ports, strict=False))
    options = [f"-{name}.port={port}" for name, port in named.items()]
    options += [f"-{name}.port.grpc={port}" for name, port in zip(_PORTS, ports[len(_PORTS) :], strict=True)]
    command = [
        str(Path(sys.executable).parent / "weed"),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    fixed = [f"-s3.config={config}", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen([*command, *fixed, *options, *more], stdout=log, stderr=log, cwd=folder)
    try:
        endpoint = f"127.0.0.1:{named['s3']}"
        _make_bucket(process, endpoint, folder / "weed.log")
        yield f"http://{endpoint}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _account(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": access_key, "secretKey": secret_key}], "actions": actions}


def free_ports(count: int) -> list[int]:
    """Ports that the system says are free."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _make_bucket(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    client = Minio(
        endpoint=endpoint,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        secure=False,
        http_client=PoolManager(retries=False, timeout=5),
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            client.make_bucket(bucket_name=BUCKET)
            return
        except (HTTPError, MinioException) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-2000:]) from error
            time.sleep(0.05)
