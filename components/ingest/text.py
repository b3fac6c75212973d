"""Text files: the encoding and the header are checked before anything is parsed."""

import codecs
import csv
from pathlib import Path
from typing import NoReturn

from fti.common.errors import SourceError
from fti.ingest.formats import SourceFile

_BLOCK = 1 << 22
_DELIMITERS = {",": "a comma", ";": "a semicolon", "|": "a pipe", "\t": "a tab"}


def require_utf8(file: SourceFile) -> None:
    """Reads a file once, to name the first byte that is no UTF-8.

    Raises:
        SourceError: The file is blank, or not UTF-8 text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, lines, blank = 0, 1, True
    with file.path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                _not_text(file, offset - pending + error.start, error.object[error.start], lines, error)
            if (nul := block.find(b"\0")) >= 0:
                _not_text(file, offset + nul, 0, lines + block.count(b"\n", 0, nul))
            offset, lines, blank = offset + len(block), lines + block.count(b"\n"), blank and not block.strip()
    if decoder.getstate()[0]:
        _not_text(file, offset - 1, decoder.getstate()[0][-1], lines)
    if blank:
        raise SourceError(f"{file.name} holds nothing but blanks", remedy="Check the export that should have filled it")


def _not_text(file: SourceFile, offset: int, byte: int, line: int, error: UnicodeDecodeError | None = None) -> NoReturn:
    if error is not None:
        line += error.object[: error.start].count(b"\n")
    encoding = "UTF-16" if byte in {0x00, 0xFE, 0xFF} else "WINDOWS-1252"
    raise SourceError(
        f"{file.name} is not UTF-8 text: line {line} holds the byte 0x{byte:02X} (at offset {offset})",
        allowed="UTF-8",
        remedy=f"Convert it, for instance: iconv -f {encoding} -t UTF-8 {Path(file.name).name}",
    ) from error


def delimiter_of(file: SourceFile) -> str:
    """A tab for `.tsv`, else a comma."""
    return "\t" if file.suffix == ".tsv" else ","


def read_header(file: SourceFile) -> list[str]:
    """The column names in the first line of a CSV file.

    Raises:
        SourceError: A wrong delimiter, a name that is missing or stands twice.
    """
    delimiter = delimiter_of(file)
    with file.path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            header = next((row for row in csv.reader(stream, delimiter=delimiter, strict=True) if row), [])
        except csv.Error as error:
            raise SourceError(f"{file.name} has a header that cannot be parsed: {error}") from error
    others = [name for sign, name in _DELIMITERS.items() if sign != delimiter and sign in header[0]]
    if len(header) == 1 and others:
        raise SourceError(
            f"{file.name} has a single column, whose name holds {others[0]}: {header[0][:80]!r}",
            allowed="columns separated by commas (or by tabs, in a file that ends with .tsv)",
            remedy="Export the file with that delimiter",
        )
    require_names(header, file.name)
    return header


def require_names(names: list[str], where: str) -> None:
    """Column names must be there and differ, also for SQL, which does not tell `Id` from `id`.

    Raises:
        SourceError: They do not.
    """
    seen: dict[str, str] = {}
    for position, name in enumerate(names, start=1):
        if not name.strip():
            raise SourceError(
                f"{where}: column {position} has no name", remedy="Give every column a name in the header"
            )
        if name.casefold() in seen:
            raise SourceError(
                f"{where} has the columns {seen[name.casefold()]!r} and {name!r}",
                allowed="names that differ by more than upper and lower case",
            )
        seen[name.casefold()] = name
