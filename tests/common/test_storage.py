"""Storage by URI: the same behaviour on this machine, on S3, on Google Cloud Storage and on the web."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fti.common import storage
from fti.common.errors import ConfigError, StorageError
from fti.common.settings import Settings
from fti.common.storage.location import glob_regex, parse, shown
from tests.object_store import SECRET_KEY, free_ports

Place = tuple[str, Settings]


@pytest.fixture(
    params=[
        "local",
        pytest.param("s3", marks=pytest.mark.slow),
        pytest.param("gcs", marks=pytest.mark.slow),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder's URI and the settings that reach it, in every kind of store."""
    if request.param == "local":
        return f"{tmp_path}/store", request.getfixturevalue("settings")
    scheme = {"s3": "s3", "gcs": "gs"}[request.param]
    return f"{scheme}://fti-tests/{tmp_path.name}", request.getfixturevalue(request.param)


@pytest.fixture
def put(place: Place, tmp_path: Path) -> Callable[[str, str], str]:
    """Uploads a text under a name and returns its URI."""

    def write(name: str, text: str = "text") -> str:
        file = tmp_path / "upload.txt"
        file.write_text(text)
        storage.upload(file, f"{place[0]}/{name}", place[1])
        return f"{place[0]}/{name}"

    return write


def _package(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_what_is_uploaded_comes_back(place: Place, put: Callable[..., str], tmp_path: Path) -> None:
    uri = put("a b/ü.txt", "Grüße")
    assert storage.read_text(uri, place[1]) == "Grüße"
    assert storage.download(uri, tmp_path / "x" / "copy", place[1]).read_text() == "Grüße"
    with storage.local_copy(uri, place[1]) as path:
        assert (path.name, path.read_text()) == ("ü.txt", "Grüße")


def test_upload_replaces(place: Place, put: Callable[..., str]) -> None:
    put("same", "old")
    assert storage.read_text(put("same", "new"), place[1]) == "new"


def test_globs(place: Place, put: Callable[..., str]) -> None:
    one, two, deep = put("in/1.csv"), put("in/2.csv"), put("in/deep/3.csv")
    put("in/2.txt")
    assert storage.find(f"{place[0]}/in/*.csv", place[1]) == [one, two]
    assert storage.find(f"{place[0]}/in/**/*.csv", place[1]) == [one, two, deep]
    assert storage.find(f"{place[0]}/in/[2-9].*", place[1]) == [two, f"{place[0]}/in/2.txt"]
    assert storage.find(one, place[1]) == [one]


def test_exists(place: Place, put: Callable[..., str]) -> None:
    uri = put("models/10/model.onnx")
    assert storage.exists(uri, place[1])
    assert storage.exists(f"{place[0]}/models/10", place[1])
    assert not storage.exists(f"{place[0]}/models/1", place[1])  # a prefix of 10, but no folder


def test_stamps_change_with_the_content(place: Place, put: Callable[..., str]) -> None:
    def stamps() -> dict[str, str]:
        return storage.stamps(f"{place[0]}/table", place[1])

    assert stamps() == {}
    one, _ = put("table/day=1/a", "old"), put("table/day=2/b", "old")
    put("tables/other")
    before = stamps()
    assert sorted(before) == ["day=1/a", "day=2/b"]
    put("table/day=2/b", "old")
    assert stamps() == before
    put("table/day=2/b", "new")
    assert {name for name, stamp in stamps().items() if stamp != before[name]} == {"day=2/b"}
    assert storage.stamps(one, place[1]) == {"": before["day=1/a"]}


def test_what_is_missing_is_named(place: Place, put: Callable[..., str], tmp_path: Path) -> None:
    put("there.csv")
    uri, settings = f"{place[0]}/missing.csv", place[1]
    uses: list[Callable[[], object]] = [
        lambda: storage.find(uri, settings),
        lambda: storage.find(f"{place[0]}/missing*.csv", settings),
        lambda: storage.read_text(uri, settings),
        lambda: storage.download(uri, tmp_path / "copy", settings),
    ]
    for use in uses:
        with pytest.raises(StorageError, match=re.escape(f"{place[0]}/missing")):
            use()
    assert not (tmp_path / "copy").exists()


def test_publish_dir_is_exact_and_idempotent(place: Place, tmp_path: Path) -> None:
    uri, settings = f"{place[0]}/models/1", place[1]
    first = _package(tmp_path / "first", model_onnx="1", old__part_bin="x", checksums_json="{1}")
    second = _package(tmp_path / "second", model_onnx="2", checksums_json="{2}")
    storage.publish_dir(_package(tmp_path / "other", model_onnx="10"), f"{place[0]}/models/10", settings)
    assert storage.publish_dir(first, uri, settings) == uri
    assert storage.publish_dir(first, f"{uri}/", settings) == uri
    assert storage.publish_dir(second, uri, settings) == uri
    with storage.local_copy(uri, settings) as copy:
        names = sorted(file.relative_to(copy).as_posix() for file in copy.rglob("*"))
        assert (names, (copy / "model.onnx").read_text()) == (["checksums.json", "model.onnx"], "2")
    assert storage.read_text(f"{place[0]}/models/10/model.onnx", settings) == "10"


def test_publish_dir_repairs_what_broke_off(place: Place, put: Callable[..., str], tmp_path: Path) -> None:
    put("models/1/model.onnx", "half")  # no checksums.json: it goes last
    package = _package(tmp_path / "package", model_onnx="whole", checksums_json="{}")
    storage.publish_dir(package, f"{place[0]}/models/1", place[1])
    assert storage.read_text(f"{place[0]}/models/1/model.onnx", place[1]) == "whole"


def test_text_must_be_utf8(place: Place, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    storage.upload(tmp_path / "latin", f"{place[0]}/latin", place[1])
    with pytest.raises(StorageError, match="latin is not UTF-8"):
        storage.read_text(f"{place[0]}/latin", place[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wr0ng-secret"}, "denied by the object store .SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "denied by the object store .InvalidAccessKeyId"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "denied by the object store .AccessDenied"),
    ],
)
def test_s3_denied(s3_environ: dict[str, str], tmp_path: Path, change: dict[str, str], says: str) -> None:
    settings, uri = Settings.from_env({**s3_environ, **change}), "s3://fti-tests/private.csv"
    (tmp_path / "file").touch()
    uses: list[Callable[[], object]] = [
        lambda: storage.find(uri, settings),
        lambda: storage.exists(uri, settings),
        lambda: storage.download(uri, tmp_path / "copy", settings),
        lambda: storage.upload(tmp_path / "file", uri, settings),
    ]
    for use in uses:
        with pytest.raises(StorageError, match=f"{uri} is {says}") as caught:
            use()
        assert SECRET_KEY not in str(caught.value)
        assert "wr0ng" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_no_such_bucket(scheme: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    settings = request.getfixturevalue({"s3": "s3", "gs": "gcs"}[scheme])
    (tmp_path / "file").touch()
    for use in (
        lambda: storage.find(f"{scheme}://no-such-bucket/x", settings),
        lambda: storage.upload(tmp_path / "file", f"{scheme}://no-such-bucket/x", settings),
    ):
        with pytest.raises(StorageError, match=r"there is no bucket 'no-such-bucket'"):
            use()


@pytest.mark.slow
def test_gcs_keeps_gzip_as_it_is(gcs: Settings, tmp_path: Path) -> None:
    from google.cloud.storage import Client

    blob = Client().bucket("fti-tests").blob("rows.csv.gz")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"a\n1\n"))
    copy = storage.download("gs://fti-tests/rows.csv.gz", tmp_path / "copy", gcs)
    assert gzip.decompress(copy.read_bytes()) == b"a\n1\n"


def test_s3_unreachable(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = Settings.from_env({"AWS_ENDPOINT_URL": endpoint, "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_REGION": "x"})
    with pytest.raises(
        StorageError, match=f"s3://bucket/key cannot be reached at {endpoint}.*AWS_ENDPOINT_URL"
    ) as caught:
        storage.download("s3://bucket/key", tmp_path / "copy", settings)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["minio:9000", "http://minio:9000/path", "ftp://minio"])
def test_s3_endpoint_must_be_an_address(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL is .*Allowed: http://host:port"):
        storage.find("s3://bucket/key", Settings.from_env({"AWS_ENDPOINT_URL": endpoint}))


def test_gcs_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StorageError, match=r"needs Google credentials.*GOOGLE_APPLICATION_CREDENTIALS"):
        storage.find("gs://bucket/key", Settings.from_env({}))


def test_web_download(web: tuple[str, Path], settings: Settings, tmp_path: Path) -> None:
    url, folder = web
    (folder / "a b.csv").write_text("a\n1\n")
    assert storage.find(f"{url}/a%20b.csv?x=1", settings) == [f"{url}/a%20b.csv?x=1"]  # no glob
    with storage.local_copy(f"{url}/a%20b.csv?x=1", settings) as path:
        assert (path.name, path.read_text()) == ("a b.csv", "a\n1\n")
    assert storage.exists(f"{url}/a%20b.csv", settings)
    assert not storage.exists(f"{url}/none.csv", settings)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none.csv", "answers 404"),
        ("denied", "answers 403"),
        ("short", "cannot be read: RemoteProtocolError"),
    ],
)
def test_web_failures(web: tuple[str, Path], settings: Settings, tmp_path: Path, path: str, says: str) -> None:
    with pytest.raises(StorageError, match=f"/{path}.*{says}") as caught:
        storage.download(f"{web[0]}/{path}?token=s3cr3t", tmp_path / "copy", settings)
    assert "s3cr3t" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [web[1]]  # nothing half-written


def test_web_is_read_only(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="read-only"):
        storage.upload(tmp_path / "file", "https://example.com/x", settings)


@pytest.mark.parametrize("uri", ["", "ftp://host/file", "s3:///key", "s3n://bucket/key"])
def test_uris_that_mean_nothing(uri: str, settings: Settings) -> None:
    with pytest.raises(StorageError, match="Allowed:"):
        storage.find(uri, settings)


def test_a_bucket_is_never_replaced(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="whole bucket"):
        storage.publish_dir(tmp_path, "s3://bucket/", settings)


def test_file_uris_and_names_with_wildcards(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a[1] b.csv").write_text("x")
    assert storage.read_text(f"file://{tmp_path}/a%5B1%5D%20b.csv", settings) == "x"
    assert storage.find(f"{tmp_path}/a[1] b.csv", settings) == [f"{tmp_path}/a[1] b.csv"]


def test_secrets_are_not_shown() -> None:
    assert shown("https://me:pw@host:1/a?X-Amz-Signature=abc") == "https://***@host:1/a?***"
    assert shown("postgresql://me:pw@host/db") == "postgresql://***@host/db"
    assert shown("/a/b?c") == "/a/b?c"


@given(st.text(alphabet="ab/*?.[]-x+(", max_size=12))
def test_a_glob_without_wildcards_matches_itself_alone(key: str) -> None:
    if not parse(f"s3://bucket/{key}").is_glob:
        assert glob_regex(key).fullmatch(key)
        assert not glob_regex(key).fullmatch(key + "a")
