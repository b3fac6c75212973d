"""Object stores that break off, refuse, forget and change: nothing is lost, and the reason is told."""

import hashlib
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import minio.time
import pytest
from minio import Minio

from fti.common import storage
from fti.common.errors import BusyError, StorageError
from fti.common.settings import Settings
from fti.common.storage.objects import ObjectStore, publish_dir
from tests.certificates import authority_of
from tests.faulty import Faulty, faulty
from tests.object_store import (
    ACCESS_KEY,
    BUCKET,
    READER_KEY,
    READER_SECRET,
    SECRET_KEY,
    free_ports,
    object_store,
)

pytestmark = pytest.mark.slow
MIB = 1 << 20


@pytest.fixture
def relay(s3_environ: dict[str, str]) -> Iterator[Faulty]:
    with faulty(s3_environ["AWS_ENDPOINT_URL"]) as relayed:
        yield relayed


@pytest.fixture
def shaky(s3_environ: dict[str, str], relay: Faulty) -> Settings:
    """Settings that reach the store through the relay."""
    return Settings.from_env({**s3_environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}", "AWS_REGION": "x"})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of several parts."""
    path = tmp_path_factory.mktemp("large") / "file.bin"
    path.write_bytes(os.urandom(40 * MIB))
    return path


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_upload_goes_on_where_it_was_cut(
    relay: Faulty, shaky: Settings, s3: Settings, large: Path, tmp_path: Path
) -> None:
    relay.cuts, relay.cut_after = 3, 5 * MIB
    storage.upload(large, f"s3://{BUCKET}/cut/up", shaky)
    assert relay.cuts == 0
    assert relay.sent < 40 * MIB + 3 * 16 * MIB  # parts again, not the whole
    assert _digest(storage.download(f"s3://{BUCKET}/cut/up", tmp_path / "copy", s3)) == _digest(large)


def test_a_download_goes_on_where_it_was_cut(
    relay: Faulty, shaky: Settings, s3: Settings, large: Path, tmp_path: Path
) -> None:
    storage.upload(large, f"s3://{BUCKET}/cut/down", s3)
    relay.cuts, relay.cut_after = 3, 5 * MIB
    copy = storage.download(f"s3://{BUCKET}/cut/down", tmp_path / "copy", shaky)
    assert relay.cuts == 0
    assert relay.received < 44 * MIB  # nothing twice but what was on its way
    assert _digest(copy) == _digest(large)


def test_a_store_that_always_breaks_off_is_given_up(
    relay: Faulty, shaky: Settings, s3: Settings, large: Path, tmp_path: Path
) -> None:
    storage.upload(large, f"s3://{BUCKET}/cut/never", s3)
    relay.cuts, relay.cut_after = 1 << 30, 0
    with pytest.raises(StorageError, match="cannot be reached"):
        storage.download(f"s3://{BUCKET}/cut/never", tmp_path / "copy", shaky)
    assert not (tmp_path / "copy").exists()
    with pytest.raises(StorageError, match="cannot be reached"):
        storage.upload(large, f"s3://{BUCKET}/cut/none", shaky)
    assert not storage.exists(f"s3://{BUCKET}/cut/none", s3)


def test_a_storm_of_503_is_waited_out_and_then_given_up(
    relay: Faulty, shaky: Settings, s3: Settings, tmp_path: Path
) -> None:
    uri, file = f"s3://{BUCKET}/storm", tmp_path / "file"
    file.write_text("old")
    relay.refusals = 3
    storage.upload(file, uri, shaky)
    relay.drop()  # or the answers would come over the connection that is open
    relay.refusals = 3
    assert storage.read_text(uri, shaky) == "old"
    file.write_text("new")
    relay.drop()
    relay.refusals = 1 << 30
    for use in (lambda: storage.upload(file, uri, shaky), lambda: storage.read_text(uri, shaky)):
        with pytest.raises(StorageError, match=f"{uri} cannot be reached at http://127.0.0.1.*store is up"):
            use()
    assert storage.read_text(uri, s3) == "old"


def test_what_was_damaged_in_the_store_is_refused(s3: Settings, s3_environ: dict[str, str], tmp_path: Path) -> None:
    import io

    client = Minio(
        endpoint=s3_environ["AWS_ENDPOINT_URL"].removeprefix("http://"),
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        secure=False,
    )
    uri = f"s3://{BUCKET}/damaged"
    (tmp_path / "file").write_text("as it was written")
    storage.upload(tmp_path / "file", uri, s3)
    metadata = client.stat_object(bucket_name=BUCKET, object_name="damaged").metadata or {}
    client.put_object(
        bucket_name=BUCKET,
        object_name="damaged",
        data=io.BytesIO(b"as it was wr1tten"),
        length=17,
        metadata={"fti-sha256": metadata["x-amz-meta-fti-sha256"]},
    )
    with pytest.raises(StorageError, match=f"{uri} arrived damaged"):
        storage.download(uri, tmp_path / "copy", s3)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("size", [0, 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1])
def test_every_size_comes_back(s3: Settings, tmp_path: Path, size: int) -> None:
    uri, file = f"s3://{BUCKET}/sizes/{size}", tmp_path / "file"
    file.write_bytes(os.urandom(size))
    storage.upload(file, uri, s3)
    assert _digest(storage.download(uri, tmp_path / "copy", s3)) == _digest(file)


def test_an_account_without_rights(s3_environ: dict[str, str], s3: Settings, tmp_path: Path) -> None:
    reader = Settings.from_env({**s3_environ, "AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET})
    (tmp_path / "file").write_text("x")
    storage.upload(tmp_path / "file", f"s3://{BUCKET}/shared", s3)
    assert storage.read_text(f"s3://{BUCKET}/shared", reader) == "x"
    with pytest.raises(StorageError, match=rf"s3://{BUCKET}/mine is denied .*AccessDenied.*bucket's policy"):
        storage.upload(tmp_path / "file", f"s3://{BUCKET}/mine", reader)


def test_a_wrong_clock(s3: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    late = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr(minio.time, "utcnow", lambda: late)
    with pytest.raises(StorageError, match=r"RequestTimeTooSkewed.*clock is wrong"):
        storage.find(f"s3://{BUCKET}/x*", s3)


@contextmanager
def _answering(answer: Callable[[http.server.BaseHTTPRequestHandler], tuple[int, bytes]]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            status, body = answer(self)
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_session_that_has_ended(tmp_path: Path) -> None:
    """Amazon's own answer, told by a stand-in; the request carries the session's token."""
    tokens = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes]:
        tokens.append(request.headers["x-amz-security-token"])
        return 400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"

    with _answering(answer) as endpoint:
        settings = Settings.from_env(
            {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_REGION": "eu-west-1",
                "AWS_ACCESS_KEY_ID": "ASIA",
                "AWS_SECRET_ACCESS_KEY": "hidden-1",
                "AWS_SESSION_TOKEN": "hidden-2",
            }
        )
        with pytest.raises(StorageError, match=r"ExpiredToken.*new AWS_SESSION_TOKEN") as caught:
            storage.download("s3://bucket/key", tmp_path / "copy", settings)
    assert set(tokens) == {"hidden-2"}
    assert "hidden" not in str(caught.value) + repr(settings)


def test_a_role_instead_of_keys(s3_environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web identity, as pods on Amazon's clusters have it: its keys come from STS, here a stand-in."""
    asked = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes]:
        asked.append(request.path + getattr(request, "body", ""))
        until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = f"<AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>"
        return 200, (
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<AssumeRoleWithWebIdentityResult><Credentials>{keys}<SessionToken></SessionToken>"
            f"<Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>"
            "</AssumeRoleWithWebIdentityResponse>"
        ).encode()

    (tmp_path / "token").write_text("identity-of-the-pod")
    with _answering(answer) as sts:
        role = {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/steps",
            "AWS_ENDPOINT_URL_STS": sts,
            "AWS_REGION": "us-east-1",
        }
        for name, value in role.items():  # minio looks there itself
            monkeypatch.setenv(name, value)
        settings = Settings.from_env({"AWS_ENDPOINT_URL": s3_environ["AWS_ENDPOINT_URL"], **role})
        storage.upload(tmp_path / "token", f"s3://{BUCKET}/by-role", settings)
        assert storage.read_text(f"s3://{BUCKET}/by-role", settings) == "identity-of-the-pod"
    assert len(asked) == 1
    assert "WebIdentityToken=identity-of-the-pod" in asked[0]


def test_no_keys_on_a_machine_without_a_role(monkeypatch: pytest.MonkeyPatch) -> None:
    from fti.common.storage.s3_client import client_of

    monkeypatch.setattr("urllib3.util.connection.create_connection", _refuse)  # no metadata service here
    provider = client_of(Settings.from_env({"AWS_REGION": "eu-south-9"}))._provider
    assert provider.retrieve() is None


def _refuse(*_: object, **__: object) -> socket.socket:
    raise OSError("nobody there")


def test_tls_with_an_authority_of_ones_own_and_hosts_for_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, certificate, key = authority_of(tmp_path)
    (port,) = free_ports(1)
    (tmp_path / "weed").mkdir()
    (tmp_path / "file").write_text("x")
    more = (f"-s3.cert.file={certificate}", f"-s3.key.file={key}", f"-s3.port.https={port}", "-s3.domainName=s3.test")
    with object_store(tmp_path / "weed", *more) as plain:
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "x"}
        secure = {**keys, "AWS_ENDPOINT_URL": f"https://127.0.0.1:{port}"}
        trusting = Settings.from_env({**secure, "AWS_CA_BUNDLE": str(authority)})
        storage.upload(tmp_path / "file", f"s3://{BUCKET}/tls", trusting)
        assert storage.read_text(f"s3://{BUCKET}/tls", trusting) == "x"
        with pytest.raises(StorageError, match="certificate"):
            storage.read_text(f"s3://{BUCKET}/tls", Settings.from_env(secure))

        resolve, asked = socket.getaddrinfo, []

        def resolved(host: str, *arguments: object, **options: object) -> object:
            asked.append(host)
            return resolve("127.0.0.1" if host.endswith("s3.test") else host, *arguments, **options)  # type: ignore

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        endpoint = f"http://s3.test:{plain.rpartition(':')[2]}"
        virtual = {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}
        assert storage.read_text(f"s3://{BUCKET}/tls", Settings.from_env(virtual)) == "x"
        assert asked == [f"{BUCKET}.s3.test"] * len(asked)


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    from fti.common.storage.gcs import GcsStore
    from fti.common.storage.s3 import S3Store

    if request.param == "s3":
        return S3Store(request.getfixturevalue("s3"))
    request.getfixturevalue("gcs")
    return GcsStore()


def test_a_write_on_a_condition(store: ObjectStore, tmp_path: Path) -> None:
    first, second, copy = tmp_path / "first", tmp_path / "second", tmp_path / "copy"
    first.write_text("first")
    second.write_text("second")
    assert store.version(BUCKET, "condition") == ""
    store.replace(first, BUCKET, "condition", "")
    version = store.version(BUCKET, "condition")
    for stale in ("", version[:-1] + ("1" if version[-1] != "1" else "2")):
        with pytest.raises(BusyError, match="/condition has just been written by another"):
            store.replace(second, BUCKET, "condition", stale)
    store.get(BUCKET, "condition", copy)
    assert copy.read_text() == "first"
    store.replace(second, BUCKET, "condition", version)
    store.get(BUCKET, "condition", copy)
    assert copy.read_text() == "second"
    store.delete(BUCKET, ["condition"])


def test_of_two_who_publish_at_once_one_is_refused(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fti.common.storage.location import parse

    place = parse(f"{'s3' if type(store).__name__ == 'S3Store' else 'gs'}://{BUCKET}/both/model")
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text(name)
        (tmp_path / name / "checksums.json").write_text(name)
    put, between = store.put, [lambda: publish_dir(store, tmp_path / "theirs", place)]

    def interrupted(path: Path, bucket: str, key: str) -> None:
        put(path, bucket, key)
        if between:
            between.pop()()

    monkeypatch.setattr(store, "put", interrupted)
    with pytest.raises(BusyError, match=re.escape("checksums.json has just been written by another")):
        publish_dir(store, tmp_path / "mine", place)
    store.get(BUCKET, "both/model/checksums.json", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "theirs"
    publish_dir(store, tmp_path / "mine", place)
    store.get(BUCKET, "both/model/checksums.json", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "mine"


_MEASURED = """
import sys
from pathlib import Path
from fti.common import storage
from fti.common.settings import Settings

def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024

settings, uri, file = Settings.from_env(), sys.argv[1], Path(sys.argv[2])
storage.exists(uri, settings)
before = peak()
storage.upload(file, uri, settings)
storage.download(uri, file.with_name("copy"), settings)
print(peak() - before)
"""


def test_memory_is_bounded_however_large_the_file(s3_environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as stream:
        for _ in range(16):
            stream.write(os.urandom(16 * MIB))
    command = [sys.executable, "-c", _MEASURED, f"s3://{BUCKET}/memory", str(file)]
    done = subprocess.run(command, env={**os.environ, **s3_environ}, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 128  # MiB, of a file of 256
    assert _digest(tmp_path / "copy") == _digest(file)
