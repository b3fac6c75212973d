"""Source files: unpacked where they are compressed, and of which format they are."""

import gzip
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fti.common.errors import SourceError

CSV, JSON_LINES, PARQUET = "CSV", "JSON lines", "Parquet"
_BLOCK = 1 << 20
_SUFFIXES = {
    ".csv": CSV,
    ".tsv": CSV,
    ".txt": CSV,
    ".json": JSON_LINES,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".parquet": PARQUET,
}


@dataclass(frozen=True)
class SourceFile:
    """One file to be read.

    Attributes:
        name: How messages call it: its URI, and the member within an archive.
        path: Where its unpacked content lies on this machine.
    """

    name: str
    path: Path

    @property
    def suffix(self) -> str:
        """The suffix that tells the format: `.csv` for `flights.csv.gz`."""
        return PurePosixPath(self.name.lower().removesuffix(".gz")).suffix


def unpack(file: SourceFile, scratch: Path) -> list[SourceFile]:
    """Decompresses gzip and zip by streaming; what is compressed is seen in the content, not in the name.

    Args:
        file: The file as it was found.
        scratch: An empty folder for what is unpacked.

    Raises:
        SourceError: The file is empty, corrupt, encrypted, or an archive without files.
    """
    with file.path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        raise SourceError(f"{file.name} is empty (0 bytes)", remedy="Check the export that should have filled it")
    try:
        if start.startswith(b"\x1f\x8b"):
            return [_gunzip(file, scratch)]
        if start == b"PK\x03\x04":
            return list(_unzip(file, scratch))
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise SourceError(
            f"{file.name} cannot be decompressed: {error}", remedy="Transfer the file again, or decompress it by hand"
        ) from error
    return [file]


def _gunzip(file: SourceFile, scratch: Path) -> SourceFile:
    target = scratch / "content"
    with gzip.open(file.path, "rb") as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain, _BLOCK)
    return SourceFile(file.name, target)


def _unzip(file: SourceFile, scratch: Path) -> Iterator[SourceFile]:
    with zipfile.ZipFile(file.path) as archive:
        # macOS adds a folder of its own, and hidden files, that are no data
        members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith(("__MACOSX/", "."))]
        if not members:
            raise SourceError(f"{file.name} is an archive without files")
        for number, member in enumerate(members):
            target = scratch / f"{number:06d}"
            with archive.open(member) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain, _BLOCK)
            yield SourceFile(f"{file.name}!{member.filename}", target)


def format_of(files: list[SourceFile]) -> str:
    """The one format of all files: by name, else by content.

    Raises:
        SourceError: Files of several formats.
    """
    formats = {file.name: _SUFFIXES.get(file.suffix) or _guess(file) for file in files}
    first = formats[files[0].name]
    for name, other in formats.items():
        if other != first:
            raise SourceError(
                f"{files[0].name} is {first} but {name} is {other}",
                allowed="files of one format",
                remedy="Narrow the wildcard",
            )
    return first


def _guess(file: SourceFile) -> str:
    with file.path.open("rb") as stream:
        start = stream.read(_BLOCK)
    if start.startswith(b"PAR1"):
        return PARQUET
    return JSON_LINES if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")) else CSV
