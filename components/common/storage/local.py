"""Files and folders of this machine."""

import glob
import shutil
from pathlib import Path

from fti.common.errors import StorageError
from fti.common.files import atomic_dir, atomic_file, digest_of, sha256_of


def find(path: Path) -> list[str]:
    """The path itself, or what its wildcards match; hidden files never match."""
    if path.exists():
        return [str(path)]
    return sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns


def stamps(path: Path) -> dict[str, str]:
    """The digest of a file, or of each in a folder, by its name below that."""
    if path.is_file():
        return {"": sha256_of(path)}
    return {file.relative_to(path).as_posix(): sha256_of(file) for file in path.rglob("*") if file.is_file()}


def require(path: Path) -> Path:
    """The path, which must exist and be readable.

    Raises:
        StorageError: It is not, or not to this user.
    """
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror}", remedy="Check the path and its permissions"
        ) from error
    return path


def copy(source: Path, target: Path) -> None:
    """Copies one file, whole or not at all."""
    if require(source).is_dir():
        raise StorageError(f"{source} is a folder", allowed="a file")
    with atomic_file(target) as scratch:
        shutil.copyfile(source, scratch)


def publish_dir(folder: Path, target: Path) -> None:
    """Replaces `target` by a copy of `folder`, unless it already has the same content."""
    if target.is_dir() and digest_of(target) == digest_of(folder):
        return
    with atomic_dir(target) as scratch:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            copied = scratch / file.relative_to(folder)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)
