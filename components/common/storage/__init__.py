"""Storage by URI: a plain path, `file://`, `s3://bucket/key`, `gs://bucket/key`, and `http(s)://` to read.

Every failure is a StorageError that names the URI and never a secret. Everything written is whole or absent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fti.common.errors import BusyError, StorageError
from fti.common.settings import Settings
from fti.common.storage import local, objects, web
from fti.common.storage.location import Location, parse, shown

__all__ = [
    "download",
    "exists",
    "find",
    "is_shared",
    "local_copy",
    "publish_dir",
    "read_text",
    "read_versioned",
    "replace_text",
    "shown",
    "stamps",
    "upload",
]

_RACES = 10  # reads of a text that others write


def find(uri: str, settings: Settings) -> list[str]:
    """Expands wildcards (`*`, `?`, `[…]`, and `**` through folders).

    Args:
        uri: A file, a folder of this machine, or a glob.
        settings: How object stores are reached.

    Returns:
        The matching URIs in order; the URI itself where it has no wildcard.

    Raises:
        StorageError: Nothing matches.
    """
    location = parse(uri)
    if location.is_web:
        return [str(uri)]
    found = local.find(location.path) if location.is_local else objects.find(_store(location, settings), location)
    if not found:
        what = "matches no file" if location.is_glob else "does not exist"
        raise StorageError(f"{shown(uri)} {what}", remedy="Check the path; wildcards are *, ?, […] and **")
    return found


def exists(uri: str, settings: Settings) -> bool:
    """Whether there is such a file or folder (in object stores: any object below it)."""
    location = parse(uri)
    if location.is_local:
        return location.path.exists()
    if location.is_web:
        return web.exists(uri)
    return objects.exists(_store(location, settings), location)


def stamps(uri: str, settings: Settings) -> dict[str, str]:
    """What changes with the content of a file, or of each in a folder; nothing in an object store is downloaded.

    Returns:
        Name below the folder, empty for a file itself -> a digest or what the object store has for one. Empty where
        there is nothing.

    Raises:
        StorageError: It cannot be listed.
    """
    location = parse(uri)
    if location.is_local:
        return local.stamps(location.path)
    if location.is_web:
        raise StorageError(f"{shown(uri)} cannot be listed", allowed="a path, s3:// or gs://")
    return objects.stamps(_store(location, settings), location)


def download(uri: str, path: str | Path, settings: Settings) -> Path:
    """Streams one file to a path of this machine.

    Raises:
        StorageError: It is missing, denied, or cannot be written here.
    """
    location, target = parse(uri), Path(path)
    if location.is_local:
        local.copy(location.path, target)
    elif location.is_web:
        web.download(uri, target)
    else:
        _store(location, settings).get(location.bucket, location.key, target)
    return target


@contextmanager
def local_copy(uri: str, settings: Settings) -> Iterator[Path]:
    """Yields a local path with the content of a file or folder.

    What is on this machine is yielded as it is; the rest is downloaded under its own name and removed afterwards.

    Raises:
        StorageError: It is missing or denied.
    """
    location = parse(uri)
    if location.is_local:
        yield local.require(location.path)
        return
    with TemporaryDirectory(prefix="fti-storage-") as scratch:
        if location.is_web:
            yield download(uri, Path(scratch) / location.file_name, settings)
        else:
            yield objects.download_tree(_store(location, settings), location, Path(scratch))


def read_text(uri: str, settings: Settings) -> str:
    """The text of a small file.

    Raises:
        StorageError: It is missing, denied, a folder or not UTF-8.
    """
    with local_copy(uri, settings) as path:
        if path.is_dir():
            raise StorageError(f"{shown(uri)} is a folder", allowed="a text file")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise StorageError(f"{shown(uri)} is not UTF-8 text: byte {error.start} is wrong") from error


def is_shared(uri: str) -> bool:
    """Whether a URI names an object store, which other machines see too and which writes on a condition."""
    return not parse(uri).is_local and not parse(uri).is_web


def read_versioned(uri: str, settings: Settings) -> tuple[str, str]:
    """The text of a small object, and the version that `replace_text` takes; both empty where there is none.

    Raises:
        StorageError: It cannot be read, or is written all the time.
    """
    location = parse(uri)
    store = _store(location, settings)
    version = store.version(location.bucket, location.key)
    for _ in range(_RACES):
        if not version:
            return "", ""
        with TemporaryDirectory(prefix="fti-storage-") as scratch:
            store.get(location.bucket, location.key, Path(scratch) / "text")
            text = (Path(scratch) / "text").read_text(encoding="utf-8")
        before, version = version, store.version(location.bucket, location.key)
        if version == before:
            return text, version
    raise StorageError(f"{shown(uri)} changes while it is read", remedy="Run it again")


def replace_text(text: str, uri: str, version: str, settings: Settings) -> str:
    """Writes a small object if it still has the version that was read: of several who do so at once, one succeeds.

    Args:
        text: What to write; no two writers may write the same, for that would be taken for one write.
        uri: `s3://` or `gs://`.
        version: What `read_versioned` or this function returned; empty: there must be none yet.
        settings: How object stores are reached.

    Returns:
        Its new version.

    Raises:
        BusyError: Another has written it meanwhile; nothing was written.
        StorageError: It cannot be written.
    """
    location = parse(uri)
    store = _store(location, settings)
    with TemporaryDirectory(prefix="fti-storage-") as scratch:
        file = Path(scratch) / "text"
        file.write_text(text, encoding="utf-8")
        try:
            return store.replace(file, location.bucket, location.key, version)
        except BusyError:  # also where the answer to a first try was lost, and a second found the first
            found, now = read_versioned(uri, settings)
            if now and found == text:
                return now
            raise


def upload(path: str | Path, uri: str, settings: Settings) -> None:
    """Writes one file; readers see the old one or the new one, never a part.

    Raises:
        StorageError: It cannot be written there.
    """
    source, location = local.require(Path(path)), _writable(uri)
    if location.is_local:
        local.copy(source, location.path)
    else:
        _store(location, settings).put(source, location.bucket, location.key)


def publish_dir(folder: str | Path, uri: str, settings: Settings) -> str:
    """Makes `uri` hold exactly a folder's files. Running it again changes nothing.

    On this machine the folder appears whole. In an object store `checksums.json`, if there is one, is written last:
    whoever verifies it before use never takes a half-written folder for a whole one.

    Returns:
        The URI, without a slash at its end.

    Raises:
        StorageError: It cannot be written there, or `folder` is none.
    """
    source, location = local.require(Path(folder)), _writable(uri)
    if not source.is_dir():
        raise StorageError(f"{source} is a file", allowed="a folder")
    if location.is_local:
        local.publish_dir(source, location.path)
    else:
        objects.publish_dir(_store(location, settings), source, location)
    return str(uri).rstrip("/")


def _writable(uri: str) -> Location:
    location = parse(uri)
    if location.is_web:
        raise StorageError(f"{shown(uri)} is read-only", allowed="a path, s3:// or gs:// to write to")
    return location


def _store(location: Location, settings: Settings) -> objects.ObjectStore:
    if location.scheme == "s3":
        from fti.common.storage.s3 import S3Store

        return S3Store(settings)
    from fti.common.storage.gcs import GcsStore

    return GcsStore()
