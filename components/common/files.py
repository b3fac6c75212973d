"""Files and folders that are either whole or absent, and digests of their content."""

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fti.common.errors import BusyError, StorageError

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it takes the final name, on failure it is removed.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    target = Path(path)
    with _storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield scratch / target.name
            (scratch / target.name).replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder; on success it replaces `path` whole, on failure it is removed.

    Raises:
        StorageError: The disk is full or the parent folder cannot be written.
        BusyError: Another process published to the same path at the same time.
    """
    target = Path(path)
    with _storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            new = scratch / "new"
            new.mkdir()
            yield new
            _swap(new, target, scratch / "old")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def make_folder(path: str | Path) -> Path:
    """Makes a folder and those above it, where they are missing.

    Raises:
        StorageError: It cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} could not be made: {error.strerror}", allowed="a folder to write to") from error
    return folder


def _swap(new: Path, target: Path, old: Path) -> None:
    """Puts a folder in another's place, which comes back where that fails."""
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.replace(target)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BusyError(f"{target} has just been written by another", remedy="Run it again") from error
        raise


@contextmanager
def _storage_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise StorageError(
            f"{target} could not be written: {error.strerror or error}",
            remedy="Free disk space or make the folder writable; nothing was half-written",
        ) from error


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of(path: str | Path) -> str:
    """The digest of a file, or of a folder: over the relative names and contents of its files, in order of name.

    Equal content gives an equal digest on every machine; times and permissions do not count.
    """
    root = Path(path)
    if root.is_file():
        return sha256_of(root)
    whole = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        whole.update(f"{file.relative_to(root).as_posix()}\0{sha256_of(file)}\n".encode())
    return whole.hexdigest()
