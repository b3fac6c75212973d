"""What every object store can do, and what is built on it once for all of them."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from fti.common.errors import StorageError
from fti.common.files import sha256_of
from fti.common.storage.location import Location, fixed_prefix, glob_regex

_PARALLEL = 8
_LAST = "checksums.json"


class ObjectStore(Protocol):
    """A bucket store. Every method raises StorageError, naming the URI and never a secret."""

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """The keys that start with a prefix."""

    def stamps(self, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
        """The keys that start with a prefix, and what changes with the content of each."""

    def get(self, bucket: str, key: str, path: Path) -> None:
        """Streams an object into a file."""

    def put(self, path: Path, bucket: str, key: str) -> None:
        """Writes a file as an object; readers see the old object or the new one."""

    def version(self, bucket: str, key: str) -> str:
        """What changes whenever an object is written; empty where there is none."""

    def replace(self, path: Path, bucket: str, key: str, version: str) -> str:
        """Writes a small file as an object if that still has a version, and returns its new one.

        Else raises BusyError and writes nothing.
        """

    def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Removes objects; those that are absent already are no error."""


def find(store: ObjectStore, location: Location) -> list[str]:
    """The URIs of the one object, or of all that a glob matches, in order."""
    prefix = fixed_prefix(location.key) if location.is_glob else location.key
    keys = list(store.keys(location.bucket, prefix))
    if location.key in keys:
        return [location.uri_of(location.key)]
    matches = glob_regex(location.key).fullmatch
    return [location.uri_of(key) for key in sorted(keys) if location.is_glob and matches(key)]


def below(store: ObjectStore, location: Location) -> list[str]:
    """The keys of all files in a "folder"; `models/1` never means `models/10`."""
    folder = location.key.rstrip("/") + "/" if location.key else ""
    return [key for key in store.keys(location.bucket, folder) if not key.endswith("/")]


def stamps(store: ObjectStore, location: Location) -> dict[str, str]:
    """What changes with the content of an object, or of each in a "folder", by its name below that."""
    folder = location.key.rstrip("/") + "/" if location.key else ""
    found = dict(store.stamps(location.bucket, location.key.rstrip("/")))
    if location.key in found:
        return {"": found[location.key]}
    return {
        key.removeprefix(folder): stamp for key, stamp in found.items() if key.startswith(folder) and key[-1:] != "/"
    }


def exists(store: ObjectStore, location: Location) -> bool:
    """Whether there is such an object, or anything in such a folder."""
    return bool(find(store, location) or below(store, location))


def download_tree(store: ObjectStore, location: Location, folder: Path) -> Path:
    """Downloads an object or a whole "folder" into a local folder; returns the path of the copy.

    Raises:
        StorageError: There is neither.
    """
    copy = folder / location.file_name
    if location.key in store.keys(location.bucket, location.key):
        store.get(location.bucket, location.key, copy)
        return copy
    keys = below(store, location)
    if not keys:
        raise StorageError(f"{location.uri_of(location.key)} does not exist", remedy="Check the bucket and the key")
    start = len(location.key.rstrip("/")) + 1 if location.key else 0
    _each(keys, lambda key: store.get(location.bucket, key, _inside(copy, key[start:])))
    return copy


def publish_dir(store: ObjectStore, folder: Path, location: Location) -> None:
    """Makes a prefix hold exactly a folder's files. `checksums.json`, if any, is written last and vouches for the rest.

    Of two who publish different folders to the same place at once, one is refused; until it has been run again, those
    who verify checksums may refuse what lies there, and never take a mixture for a whole.

    Raises:
        StorageError: A file cannot be written, or the URI is a whole bucket.
        BusyError: Another has published to the same place meanwhile.
    """
    if not location.key.strip("/"):
        raise StorageError(f"{location.uri_of('')} is a whole bucket", allowed="a key within it, to be replaced")
    prefix = location.key.rstrip("/") + "/"
    before = store.version(location.bucket, prefix + _LAST)
    if before and _is_published(store, folder, location.bucket, prefix):
        return
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    _each(sorted(names - {_LAST}), lambda name: store.put(folder / name, location.bucket, prefix + name))
    if _LAST in names:
        store.replace(folder / _LAST, location.bucket, prefix + _LAST, before)
    store.delete(location.bucket, [key for key in below(store, location) if key.removeprefix(prefix) not in names])


def _is_published(store: ObjectStore, folder: Path, bucket: str, prefix: str) -> bool:
    if not (folder / _LAST).is_file():
        return False
    with TemporaryDirectory(prefix="fti-storage-") as scratch:
        store.get(bucket, prefix + _LAST, Path(scratch) / _LAST)
        return sha256_of(Path(scratch) / _LAST) == sha256_of(folder / _LAST)


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise StorageError(f"the object {name!r} would be written outside of its folder", remedy="Rename the object")
    return path


def _each(items: list[str], work: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for _ in pool.map(work, items):
            pass
