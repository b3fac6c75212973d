"""Log files of a bounded size and number.

A predictor begins its next file by itself, Envoy is asked to. What a process says without a logger, such as its last
words in a crash, goes to the same files.
"""

import logging
import os
from collections.abc import Collection
from glob import escape
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fti.common.errors import StorageError
from fti.common.settings import Settings

MOST_BYTES = 16 * 1024 * 1024  # of one file
_EARLIER = 4  # files of a process, beside the one that it writes
_ENDED = 20  # processes that have ended, whose files are kept


class RotatingLog(RotatingFileHandler):
    """Logs to a file that is this process's stdout and stderr too, and begins a new one when that is full.

    Args:
        path: The file.
        most_bytes: From when it is full.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(path, maxBytes=most_bytes, backupCount=_EARLIER, encoding="utf-8")

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802  # type: ignore[override]
        """Whether the file is full, whoever has written to it."""
        return self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self.maxBytes

    def doRollover(self) -> None:  # noqa: N802
        """Begins a new file."""
        super().doRollover()
        if self.stream is not None:
            for number in (1, 2):
                os.dup2(self.stream.fileno(), number)


def rotate(path: Path) -> None:
    """Names a log as the latest of the earlier ones, and forgets the oldest. There is none of its own name then."""
    for number in range(_EARLIER - 1, 0, -1):
        earlier = path.with_name(f"{path.name}.{number}")
        if earlier.exists():
            earlier.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))


def fresh_log(settings: Settings, name: str, in_use: Collection[Path] = ()) -> Path:
    """An empty log for a process; what it said when it last ran is the latest of the earlier ones.

    Args:
        settings: Under whose home it lies.
        name: Of the process.
        in_use: Logs of processes that run. Of the others a few are kept.

    Raises:
        StorageError: It cannot be written.
    """
    path = settings.home / "logs" / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            rotate(path)
        path.write_bytes(b"")
        _forget(path.parent, {path, *in_use})
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}", remedy="Free disk space") from error
    return path


def _forget(folder: Path, in_use: Collection[Path]) -> None:
    ended = sorted((path for path in folder.glob("*.log") if path not in in_use), key=lambda path: path.stat().st_mtime)
    for path in ended[:-_ENDED]:
        for each in [path, *folder.glob(f"{escape(path.name)}.*")]:
            each.unlink(missing_ok=True)
